//! What a producer gives.

mod append_error;
mod batch;
pub(crate) mod dead_letter;
mod records;

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

pub use append_error::AppendError;
pub use batch::Batch;

use crate::error::Result;
use crate::name::Name;
use crate::record::{Attributes, Headers};
use crate::session::Commit;

/// A message: a body, and optionally a key, headers, a timestamp and the stream it goes to.
///
/// A message may also carry commits of deliveries that it was made from: the producer of the same
/// storage writes them in the transaction that writes the message. A clone copies the data only: a
/// commit has one owner, and is written with the message that has it. So where a message goes to
/// two sinks as two clones (`a.fanout(b)` of `futures`), the commit rides in one of them, and the
/// other is written or lost by itself. To write both or neither, give both to one
/// [`append`](crate::Producer::append), each with its [stream](Self::with_stream).
///
/// ```
/// use flowstream::Message;
///
/// let message = Message::new("2 beers").with_key("table 7");
/// assert_eq!(message.body(), "2 beers");
/// ```
#[derive(Default)]
pub struct Message {
    body: Bytes,
    // The first of its commits, so that relaying a message allocates nothing.
    commit: Option<Commit>,
    // In a box: most messages have none of it, and all are moved a lot.
    rest: Option<Box<Rest>>,
}

/// What a message may have besides its body.
#[derive(Default)]
struct Rest {
    attributes: Attributes,
    stream: Option<Name>,
    commits: Vec<Commit>,
}

// All messages are moved a lot.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Message>() == 64);

static NO_ATTRIBUTES: Attributes = Attributes::NONE;

impl Message {
    /// A message with this body.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// What is stored beside the body; `None` if there certainly is nothing.
    #[inline]
    pub(crate) fn attributes(&self) -> Option<&Attributes> {
        self.rest.as_ref().map(|rest| &rest.attributes)
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// The body.
    ///
    /// The body of a delivery is a slice of its batch, and keeps the whole batch in memory for as long
    /// as it lives: see [`compact`](Self::compact).
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The key, if it has one. Messages with equal keys go to one partition.
    pub fn key(&self) -> Option<&Bytes> {
        self.attributes()?.key.as_ref()
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        let attributes = self.attributes().unwrap_or(&NO_ATTRIBUTES);
        &attributes.headers
    }

    /// When it happened, if the producer said so; a delivery has the time of its append otherwise.
    /// Stored with a resolution of a microsecond.
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.attributes()?.timestamp
    }

    /// The stream it goes to, if that is not the producer's own.
    pub fn stream(&self) -> Option<&Name> {
        self.rest.as_ref()?.stream.as_ref()
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.rest().attributes.key = Some(key.into());
        self
    }

    /// Takes the key off.
    #[must_use]
    pub fn without_key(mut self) -> Self {
        if self.key().is_some() {
            self.rest().attributes.key = None;
        }
        self
    }

    /// Adds a header.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid), as [`Headers::insert`].
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self> {
        self.rest().attributes.headers.insert(name, value)?;
        Ok(self)
    }

    /// Sets all headers.
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.rest().attributes.headers = headers;
        self
    }

    /// Sets the timestamp.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: SystemTime) -> Self {
        self.rest().attributes.timestamp = Some(timestamp);
        self
    }

    /// Sends it to this stream instead of the producer's own.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid), as [`Name::new`].
    pub fn with_stream(mut self, stream: impl AsRef<str>) -> Result<Self> {
        self.rest().stream = Some(Name::new(stream)?);
        Ok(self)
    }

    pub(crate) fn send_to(&mut self, stream: Name) {
        self.rest().stream = Some(stream);
    }

    /// Lets `commit` ride along: it is written in the transaction that writes this message.
    /// Several may ride, when one message is made from many deliveries.
    pub fn attach(&mut self, commit: Commit) {
        match &mut self.commit {
            Some(_) => self.rest().commits.push(commit),
            none => *none = Some(commit),
        }
    }

    /// Takes the commits off again; the message goes on without them.
    pub fn take_commits(&mut self) -> Vec<Commit> {
        let more = self
            .rest
            .as_mut()
            .map(|rest| std::mem::take(&mut rest.commits));
        let first = self.commit.take();
        first
            .into_iter()
            .chain(more.into_iter().flatten())
            .collect()
    }

    pub(crate) fn commits(&self) -> impl Iterator<Item = &Commit> {
        let more = self.rest.iter().flat_map(|rest| &rest.commits);
        self.commit.iter().chain(more)
    }

    pub(crate) fn has_commits(&self) -> bool {
        self.commit.is_some()
    }

    /// Copies body, key and headers out of the batch they came in, so that keeping a small message
    /// does not keep a large batch in memory.
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.body = Bytes::copy_from_slice(&self.body);
        if let Some(rest) = &mut self.rest {
            let Attributes { key, headers, .. } = &mut rest.attributes;
            if let Some(key) = key {
                *key = Bytes::copy_from_slice(key);
            }
            headers.compact();
        }
        self
    }

    /// Its size in bytes, as it counts towards limits: body, key and headers. The headers that
    /// [`dead_letter`](crate::Delivery::dead_letter) adds do not count towards
    /// [`max_message_bytes`](crate::Options::max_message_bytes).
    #[inline]
    pub fn size(&self) -> usize {
        let Some(rest) = &self.rest else {
            return self.body.len();
        };
        let Attributes { key, headers, .. } = &rest.attributes;
        self.body.len() + key.as_ref().map_or(0, Bytes::len) + headers.size()
    }
}

/// Without the commits: they stay with the original.
impl Clone for Message {
    fn clone(&self) -> Self {
        let rest = self.rest.as_ref().map(|rest| {
            Box::new(Rest {
                attributes: rest.attributes.clone(),
                stream: rest.stream.clone(),
                commits: Vec::new(),
            })
        });
        Self {
            body: self.body.clone(),
            commit: None,
            rest,
        }
    }
}

// A body may be large or secret: only its size is shown.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("body_bytes", &self.body.len())
            .field("key_bytes", &self.key().map(Bytes::len))
            .field("headers", &self.headers().iter().count())
            .field("timestamp", &self.timestamp())
            .field("stream", &self.stream())
            .field("commits", &self.commits().count())
            .finish()
    }
}

macro_rules! from_body {
    ($($body:ty),*) => {$(
        impl From<$body> for Message {
            fn from(body: $body) -> Self {
                Self::new(body)
            }
        }
    )*};
}

from_body!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);
