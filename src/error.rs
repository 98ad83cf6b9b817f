//! The one error of the crate.

use std::fmt;
use std::sync::Arc;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, to what, and what to do about it.
///
/// Sink and Stream share this one type, because `forward` needs it. [`kind`](Error::kind) says what
/// the caller can do; the text says what happened to which stream, group or offset. No type of a
/// storage's own driver shows in it, except as [`source`](std::error::Error::source).
pub struct Error(Box<Parts>);

/// What an [`Error`] is made of.
struct Parts {
    kind: ErrorKind,
    text: String,
    in_doubt: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The storage cannot be reached or cannot write now. The same call may succeed later.
    Unavailable,
    /// The lease was taken by another consumer: what this one still writes is not accepted. The
    /// messages reach the group again through the new owner.
    Fenced,
    /// The sink, stream or storage was closed, or the runtime that it ran on has ended.
    Closed,
    /// The caller gave something that is not allowed. Nothing was written.
    Invalid,
    /// There is no such stream or group.
    NotFound,
    /// The offset was trimmed away, or the log does not reach that far.
    OutOfRange,
    /// This storage cannot do that, or a feature of the crate is off.
    Unsupported,
    /// What the storage holds is damaged, or in a format that this version does not read.
    Data,
    /// A defect of this crate or of a storage driver.
    Internal,
}

impl Error {
    /// An error of `kind`, with a text that says what happened, to what, and what to do.
    ///
    /// For authors of storages; applications only read errors.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            kind,
            text: text.into(),
            in_doubt: false,
            source: None,
        }))
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Says that the write may or may not have been applied.
    #[must_use]
    pub fn with_doubt(mut self) -> Self {
        self.0.in_doubt = true;
        self
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Says what it is about, where that is not known at its origin.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub(crate) fn about(mut self, what: impl fmt::Display) -> Self {
        self.0.text = format!("{what}: {}", self.0.text);
        self
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, text)
    }

    pub(crate) fn closed(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Closed, text)
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the lease of the consumer was taken: see [`ErrorKind::Fenced`].
    pub fn is_fenced(&self) -> bool {
        self.0.kind == ErrorKind::Fenced
    }

    /// Whether the same call may succeed later: see [`ErrorKind::Unavailable`].
    pub fn is_transient(&self) -> bool {
        self.0.kind == ErrorKind::Unavailable
    }

    /// Whether the write that failed may nevertheless have been applied.
    ///
    /// A [`Batch`](crate::Batch) in doubt keeps the id under which it was sent, so giving it to
    /// [`Producer::append`](crate::Producer::append) again never doubles it.
    pub fn in_doubt(&self) -> bool {
        self.0.in_doubt
    }

    /// This failure, for another of those who waited for it. The source is shared.
    pub(crate) fn share(&self) -> Self {
        Self(Box::new(Parts {
            kind: self.0.kind,
            text: self.0.text.clone(),
            in_doubt: self.0.in_doubt,
            source: self.0.source.clone(),
        }))
    }

    /// This failure without the doubt, for one that waited behind and was not tried.
    pub(crate) fn share_undoubted(&self) -> Self {
        let mut shared = self.share();
        shared.0.in_doubt = false;
        shared
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)?;
        if self.0.in_doubt {
            f.write_str(" (in doubt: it may have been written)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind).field("text", &self.0.text);
        if self.0.in_doubt {
            out.field("in_doubt", &true);
        }
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
