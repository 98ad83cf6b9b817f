//! An append that failed.

use std::fmt;

use super::Batch;
use crate::error::{Error, ErrorKind};

/// An append that failed, and the messages that it was given.
///
/// `?` turns it into an [`Error`], and lets go of the messages. (As tokio's `SendError` gives back what
/// could not be sent.)
///
/// ```
/// # async fn example() -> flowstream::Result<()> {
/// use flowstream::Message;
///
/// let flow = flowstream::Options::new().max_message_bytes(4).open("memory:").await?;
/// let mut producer = flow.producer("orders").await?;
/// let refused = producer.append([Message::new("too long")]).await.unwrap_err();
/// assert_eq!(refused.unsent.messages()[0].body(), "too long");
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct AppendError {
    /// Why it failed.
    pub error: Error,
    /// The messages that were not written, or are in doubt, with the commits that ride in them. Appended
    /// as this batch they are never doubled.
    pub unsent: Batch,
}

impl AppendError {
    pub(crate) fn new(error: Error, unsent: Batch) -> Self {
        Self { error, unsent }
    }

    /// What the caller can do: as [`Error::kind`].
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// Whether the lease of a commit in it was taken: as [`Error::is_fenced`].
    pub fn is_fenced(&self) -> bool {
        self.error.is_fenced()
    }

    /// Whether the same append may succeed later: as [`Error::is_transient`].
    pub fn is_transient(&self) -> bool {
        self.error.is_transient()
    }

    /// Whether the messages may have been written all the same: as [`Error::in_doubt`].
    pub fn in_doubt(&self) -> bool {
        self.error.in_doubt()
    }
}

impl From<AppendError> for Error {
    fn from(failed: AppendError) -> Self {
        failed.error
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for AppendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}
