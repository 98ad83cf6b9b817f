//! Making a file, whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ::redb::Database;

use super::database::{Identity, identify, initialise};
use super::error::{Fail, guarded};
use crate::error::{Error, Result};
use crate::storage::Id;

/// Makes the file beside its place and links it there when it is whole, so that a crash leaves
/// either no file or a good one, and two processes that do so at once get the same file.
pub(super) fn create(path: &Path) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        return Err(Error::invalid(format!(
            "the directory {} is not there: make it before {} is opened",
            directory.display(),
            path.display()
        ))
        .with_source(io::Error::from(io::ErrorKind::NotFound)));
    }
    let draft = draft_of(path);
    let linked = create_in_place(&draft).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked.map_err(|error| Fail::from(redb::Error::Io(error)).explain(path)),
    });
    // What is left of it is of no use, and in nobody's way.
    let _ = fs::remove_file(&draft);
    if linked.is_err() && !path.exists() {
        // A file system without links, or a name that leaves no room for the draft's.
        create_in_place(path).inspect_err(|_| remove_if_empty(path))?;
    }
    // Not every system can sync a directory; then it does so by itself.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

/// Makes a storage of a file that is empty or not there.
pub(super) fn create_in_place(path: &Path) -> Result<()> {
    let create = || {
        let db = Database::builder().create(path)?;
        if matches!(identify(&db)?, Identity::Empty) {
            initialise(&db)?;
        }
        Ok(db.close()?)
    };
    guarded(create).map_err(|fail| fail.explain(path))
}

/// Where the file is made: beside its place, under a name that no other process has.
fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", Id::random()));
    path.with_file_name(name)
}

/// Removes what a creation left behind that found no room on the disk.
fn remove_if_empty(path: &Path) {
    if fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        let _ = fs::remove_file(path);
    }
}
