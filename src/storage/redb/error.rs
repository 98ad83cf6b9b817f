//! What can go wrong with the file, and how it reads.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::error::{Error, ErrorKind};

/// Why an operation broke off; not that it was refused.
#[derive(Debug)]
pub(super) enum Fail {
    Redb(redb::Error),
    /// What is damaged.
    Damaged(String),
    /// redb panicked: it may on a damaged file.
    Panic(String),
}

impl<E: Into<redb::Error>> From<E> for Fail {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl Fail {
    /// Whether the database has to be opened anew before it can be used again.
    pub(super) fn is_lasting(&self) -> bool {
        use redb::Error::{Backend, DatabaseClosed, Io, LockPoisoned, PreviousIo};
        match self {
            Self::Redb(error) => matches!(
                error,
                Io(_) | Backend(_) | PreviousIo | LockPoisoned(_) | DatabaseClosed
            ),
            Self::Damaged(_) => false,
            Self::Panic(_) => true,
        }
    }

    pub(super) fn explain(self, path: &Path) -> Error {
        let path = path.display();
        match self {
            Self::Redb(error) => {
                let (kind, text) = explain_redb(&error, &path.to_string());
                Error::new(kind, text).with_source(error)
            }
            Self::Damaged(what) => Error::new(
                ErrorKind::Data,
                format!("{what} in {path} is damaged: restore the file from a backup"),
            ),
            Self::Panic(text) => Error::new(
                ErrorKind::Data,
                format!(
                    "the file {path} seems to be damaged, reading or writing it panicked: {text}; \
                     restore it from a backup"
                ),
            ),
        }
    }
}

fn explain_redb(error: &redb::Error, path: &str) -> (ErrorKind, String) {
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => (
            ErrorKind::Unavailable,
            format!(
                "the file {path} is open already, in another process or in this one: close it \
                 there, or share what is open"
            ),
        ),
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => (
            ErrorKind::Data,
            format!(
                "the file {path} is not a redb database, or its first page is damaged: give \
                 another path, or restore it from a backup"
            ),
        ),
        // It was cut off, or what says where in it something is.
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => (
            ErrorKind::Data,
            format!("the file {path} is damaged, it ends too early: restore it from a backup"),
        ),
        redb::Error::Io(error) => (
            ErrorKind::Unavailable,
            format!("the file {path} cannot be read or written now: {error}"),
        ),
        redb::Error::PreviousIo
        | redb::Error::Backend(_)
        | redb::Error::DatabaseClosed
        | redb::Error::LockPoisoned(_) => (
            ErrorKind::Unavailable,
            format!("the file {path} is opened anew after an error: try again"),
        ),
        redb::Error::UpgradeRequired(version) => (
            ErrorKind::Unsupported,
            format!(
                "the file {path} has the redb file format {version}, which is too old: upgrade it \
                 with an earlier version of redb"
            ),
        ),
        redb::Error::ValueTooLarge(bytes) => (
            ErrorKind::Invalid,
            format!("a batch of {bytes} bytes is too large for {path}: append less at once"),
        ),
        // Also errors on types and names of tables: the layout is not the one that was written.
        error => (
            ErrorKind::Data,
            format!("the file {path} is damaged ({error}): restore it from a backup"),
        ),
    }
}

/// Runs what redb may panic in. What `work` changes must not be used after a panic.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fail>) -> Result<T, Fail> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Fail::Panic(text(&*panic))))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no text".to_owned())
}
