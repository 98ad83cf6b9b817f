//! What is stored of a message, and how a batch of them is laid out.

mod headers;
mod records;

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

pub use headers::Headers;
pub use records::{Records, RecordsBuilder};

/// A message as it is stored: without where it goes, and without commits.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) body: Bytes,
    /// `None` if there are none, which is so for most.
    pub(crate) attributes: Option<Attributes>,
}

/// What is stored beside a body.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) key: Option<Bytes>,
    pub(crate) headers: Headers,
    pub(crate) timestamp: Option<SystemTime>,
}

impl Attributes {
    pub(crate) const NONE: Self = Self {
        key: None,
        headers: Headers::EMPTY,
        timestamp: None,
    };

    /// Whether there is nothing to store.
    pub(crate) fn is_empty(&self) -> bool {
        self.key.is_none() && self.timestamp.is_none() && self.headers.is_empty()
    }
}

// A key may be secret, as a body may: only its size is shown.
impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attributes")
            .field("key_bytes", &self.key.as_ref().map(Bytes::len))
            .field("headers", &self.headers)
            .field("timestamp", &self.timestamp)
            .finish()
    }
}
