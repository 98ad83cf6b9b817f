//! Where a file is: what can be the place of one, and whether the open one is still there.

use std::fs::{self, File};
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
use rustix::{
    fs::{AtFlags, CWD, StatxFlags, makedev, statx},
    io::Errno,
};

use super::error::{Fail, Gone};
use crate::error::{Error, Result};

/// The path from the root, so that it stays the same when the process changes its directory.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        let text = format!("{path:?} is not the path of a file: {error}");
        Error::invalid(text).with_source(error)
    })
}

/// What a path leads to, where a storage can be.
pub(super) enum AtPath {
    /// A file with something in it.
    File,
    /// A file that is still to be made a storage.
    EmptyFile,
    /// Nothing, where a file can be made.
    Nothing,
}

/// Says what the path leads to, before anything is opened or written; an error if no storage can be
/// there.
pub(super) fn inspect(path: &Path) -> Result<AtPath> {
    let invalid = |what: &str| Err(Error::invalid(format!("{} {what}", path.display())));
    match fs::metadata(path) {
        Ok(file) if file.is_dir() => invalid("is a directory: give the path of a file in it"),
        Ok(file) if !file.is_file() => {
            invalid("is a device, a pipe or a socket: give the path of a file")
        }
        Ok(file) if file.len() == 0 => Ok(AtPath::EmptyFile),
        Ok(_) => Ok(AtPath::File),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Fail::from(redb::Error::Io(error)).explain(path))
        }
        Err(error) => match fs::read_link(path) {
            Ok(target) => Err(Error::invalid(format!(
                "{} is a symbolic link to {}, where no file is ({error}): put the file there, or \
                 remove the link; no new file is made behind a link",
                path.display(),
                target.display()
            ))
            .with_source(error)),
            Err(_) if error.kind() == io::ErrorKind::NotFound => Ok(AtPath::Nothing),
            Err(_) if error.kind() == io::ErrorKind::InvalidInput => {
                invalid(&format!("is not the path of a file: {error}"))
            }
            Err(_) => Err(Fail::from(redb::Error::Io(error)).explain(path)),
        },
    }
}

/// The open file, as the system knows it, beside the path that led to it.
pub(super) struct Place {
    path: PathBuf,
    /// A second handle of the open file. It shares the locks of the first one, so it is closed before.
    file: File,
    /// The id of the open file, whatever the path leads to now.
    pub(super) id: FileId,
}

/// What tells one file from all others of the machine, where the system says such a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(Option<(u64, u64)>);

impl Place {
    /// The place of a file that was opened by this path.
    pub(super) fn of(path: &Path, file: &File) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            id: FileStatus::of(file)?.id,
            file: file.try_clone()?,
        })
    }

    /// Fails if what is written to the file is lost with it: it was deleted, or there is another
    /// one in its place. Two calls of the system, which is little beside a commit. Whether it was
    /// merely moved away, or the path is hidden from this process, cannot be told: then all is well.
    pub(super) fn check(&self) -> Result<(), Fail> {
        if FileStatus::of(&self.file).is_ok_and(|file| file.has_no_name) {
            return Err(Fail::Gone(Gone::Deleted));
        }
        match FileId::at(&self.path).is_some_and(|found| found != self.id) {
            true => Err(Fail::Gone(Gone::Replaced)),
            false => Ok(()),
        }
    }
}

impl FileId {
    /// The id of the file that the path leads to now, if it leads to one.
    pub(super) fn at(path: &Path) -> Option<Self> {
        FileStatus::at(path).ok().map(|file| file.id)
    }
}

/// What the system says of a file, as far as anybody asks.
struct FileStatus {
    id: FileId,
    /// It was deleted: such a file lives on as long as it is open, and no longer.
    has_no_name: bool,
}

/// How Linux is asked. Not for any time: from 6.13 on it has to note the time of a write, where somebody
/// has asked for the times since the last one, and that takes as long as a third of a small commit.
#[cfg(target_os = "linux")]
impl FileStatus {
    fn of(file: &File) -> io::Result<Self> {
        match Self::ask(file, Path::new(""), AtFlags::EMPTY_PATH) {
            Err(Errno::NOSYS) => file.metadata().map(Self::from),
            said => Ok(said?),
        }
    }

    fn at(path: &Path) -> io::Result<Self> {
        match Self::ask(CWD, path, AtFlags::empty()) {
            Err(Errno::NOSYS) => fs::metadata(path).map(Self::from),
            said => Ok(said?),
        }
    }

    fn ask(file: impl AsFd, path: &Path, flags: AtFlags) -> Result<Self, Errno> {
        let said = statx(file, path, flags, StatxFlags::INO | StatxFlags::NLINK)?;
        let device = makedev(said.stx_dev_major, said.stx_dev_minor);
        Ok(Self {
            id: FileId(Some((device, said.stx_ino))),
            has_no_name: said.stx_nlink == 0,
        })
    }
}

#[cfg(unix)]
impl From<fs::Metadata> for FileStatus {
    fn from(file: fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;

        Self {
            id: FileId(Some((file.dev(), file.ino()))),
            has_no_name: file.nlink() == 0,
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl FileStatus {
    fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(Self::from)
    }

    fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(Self::from)
    }
}

/// Where an open file cannot be deleted, there is nothing to tell.
#[cfg(not(unix))]
impl From<fs::Metadata> for FileStatus {
    fn from(_: fs::Metadata) -> Self {
        Self {
            id: FileId(None),
            has_no_name: false,
        }
    }
}
