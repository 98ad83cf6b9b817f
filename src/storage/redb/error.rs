//! What can go wrong with the file, and how it reads.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::panics::text_of;

/// What an operation says. The outer result is whether it could be done at all; the inner one is its
/// answer, which may be a refusal that changed nothing.
pub(super) type Answer<T> = Result<Result<T, Error>, Fail>;

/// Why an operation broke off; not that it was refused.
#[derive(Debug)]
pub(super) enum Fail {
    /// redb says so.
    Redb(redb::Error),
    /// This is damaged.
    Damaged(String),
    /// redb panicked: it may on a damaged file.
    Panic(String),
    /// The file is not where it was.
    Gone(Gone),
}

/// What became of a file while it was open.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gone {
    /// It has no name any more.
    Deleted,
    /// There is another one in its place, or an older state of it.
    Replaced,
    /// It was to be opened anew, and there is none.
    Missing,
}

impl<E: Into<redb::Error>> From<E> for Fail {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl Fail {
    /// Whether the database has to be opened anew before it can be used again.
    pub(super) fn needs_reopen(&self) -> bool {
        use redb::Error::{Backend, DatabaseClosed, Io, LockPoisoned, PreviousIo};
        match self {
            Self::Redb(error) => matches!(
                error,
                Io(_) | Backend(_) | PreviousIo | LockPoisoned(_) | DatabaseClosed
            ),
            Self::Damaged(_) | Self::Gone(_) => false,
            Self::Panic(_) => true,
        }
    }

    /// The error as a caller sees it, which names the file and says what to do.
    pub(super) fn explain(self, path: &Path) -> Error {
        let path = path.display();
        match self {
            Self::Redb(error) => {
                let (kind, text) = explain_redb(&error, &path.to_string());
                Error::new(kind, text).with_source(error)
            }
            Self::Gone(gone) => {
                let (kind, text) = explain_gone(gone, &path.to_string());
                Error::new(kind, text)
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

/// Runs what redb may panic in, and makes a [`Fail`] of a panic. What `work` changes must not be used
/// after one.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fail>) -> Result<T, Fail> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = text_of(&*panic).unwrap_or("no text");
        Err(Fail::Panic(text.to_owned()))
    })
}

/// The error about a file that is not where it was.
fn explain_gone(gone: Gone, path: &str) -> (ErrorKind, String) {
    match gone {
        Gone::Deleted => (
            ErrorKind::Data,
            format!(
                "the file {path} was deleted while it was open: nothing more is written to it, \
                 because that would be lost with it; what is in it can be read until it is closed"
            ),
        ),
        Gone::Replaced => (
            ErrorKind::Data,
            format!(
                "the file at {path} is another one, or an older state of it, than the one that \
                 was opened: nothing more is written; close this storage, and open the one that \
                 is meant"
            ),
        ),
        Gone::Missing => (
            ErrorKind::Unavailable,
            format!(
                "the file {path} has to be opened anew after an error, and is not there any \
                 more: put it back"
            ),
        ),
    }
}

/// The error about what redb says.
fn explain_redb(error: &redb::Error, path: &str) -> (ErrorKind, String) {
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => (
            ErrorKind::Unavailable,
            format!(
                "the file {path} is open already, in another process or in this one: close it \
                 there, or share what is open"
            ),
        ),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => (
            ErrorKind::Data,
            format!(
                "the file {path} is not a redb database, or its first page is damaged: give \
                 another path, or restore it from a backup"
            ),
        ),
        // It was cut off, or what says where in it something is.
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => (
            ErrorKind::Data,
            format!("the file {path} is damaged, it ends too early: restore it from a backup"),
        ),
        redb::Error::Io(error) => explain_io(error, path),
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

/// The error about what the system says.
fn explain_io(error: &io::Error, path: &str) -> (ErrorKind, String) {
    use io::ErrorKind::{
        FileTooLarge, InvalidFilename, NotADirectory, NotFound, PermissionDenied, QuotaExceeded,
        ReadOnlyFilesystem, StorageFull,
    };

    let unavailable = |text| (ErrorKind::Unavailable, text);
    match error.kind() {
        NotADirectory | InvalidFilename => (
            ErrorKind::Invalid,
            format!("{path} is not the path of a file: {error}"),
        ),
        NotFound => unavailable(format!("the file {path} is not there any more: {error}")),
        PermissionDenied => unavailable(format!(
            "the file {path} cannot be opened: {error}; the user that this process runs as has to \
             have the rights to read and write it, and to make files in its directory"
        )),
        ReadOnlyFilesystem => unavailable(format!(
            "the file {path} is on a file system that nothing can be written to: {error}"
        )),
        StorageFull | QuotaExceeded | FileTooLarge => unavailable(format!(
            "there is no room for the file {path}: {error}; make some"
        )),
        _ => unavailable(format!(
            "the file {path} cannot be read or written now: {error}"
        )),
    }
}
