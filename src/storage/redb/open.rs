//! Opening a file, for the first time or anew after an error.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use ::redb::{Database, RepairSession};

use super::audit::audit;
use super::create::{create, create_in_place};
use super::database::{Identity, count_open, identify, initialise, open_count};
use super::error::{Fail, Gone, guarded};
use super::options::RedbOptions;
use super::place::{AtPath, FileId, Place, inspect};
use super::repair::repair;
use super::tables::FORMAT;
use crate::error::{Error, ErrorKind, Result};

/// The database of an open file, which is a storage of this crate.
pub(super) struct OpenDatabase {
    /// The field before the database, because it is dropped first: its handle shares the locks.
    pub(super) place: Place,
    pub(super) db: Database,
    /// How often the file was opened, by whatever process.
    pub(super) open_count: u64,
}

/// Opens the file, makes it if it is not there, and counts that it was opened.
pub(super) fn open(path: &Path, options: &RedbOptions) -> Result<OpenDatabase> {
    match inspect(path)? {
        AtPath::File => {}
        AtPath::EmptyFile => create_in_place(path)?,
        AtPath::Nothing => create(path)?,
    }
    let (mut opened, identity) = open_database(path, options)?;
    // Moved in, because closing a damaged file may panic as well.
    let count = move || {
        if matches!(identity, Identity::Empty) {
            initialise(&opened.db)?;
        }
        let last = opened.open_count;
        opened.open_count = count_open(&opened.db, options.has_quick_repair)?;
        debug_assert!(opened.open_count > last, "an open count grows");
        Ok(opened)
    };
    guarded(count).map_err(|fail| fail.explain(path))
}

/// Opens a file that was open before, as `id` and for the time `last_open`: it has to be the same
/// one, and is never made anew.
pub(super) fn reopen(
    path: &Path,
    options: &RedbOptions,
    id: FileId,
    last_open: u64,
) -> Result<OpenDatabase> {
    let gone = match FileId::at(path) {
        None => Some(Gone::Missing),
        Some(found) if found != id => Some(Gone::Replaced),
        Some(_) => None,
    };
    if let Some(gone) = gone {
        return Err(Fail::Gone(gone).explain(path));
    }
    let (opened, identity) = open_database(path, options)?;
    let fail = match identity {
        Identity::Empty => Fail::Damaged("everything".to_owned()),
        // Another process may have had it meanwhile; but it never goes back.
        _ if opened.place.id != id || opened.open_count < last_open => Fail::Gone(Gone::Replaced),
        _ => return Ok(opened),
    };
    Err(fail.explain(path))
}

/// Opens a database that is ours, or that nothing was written to yet.
fn open_database(path: &Path, options: &RedbOptions) -> Result<(OpenDatabase, Identity)> {
    let open = || {
        let (db, place) = open_redb(path, options)?;
        let identity = identify(&db)?;
        let open_count = match identity {
            Identity::Ours => {
                audit(&db)?;
                open_count(&db)?
            }
            _ => 0,
        };
        let opened = OpenDatabase {
            place,
            db,
            open_count,
        };
        Ok((opened, identity))
    };
    let (opened, identity) = guarded(open).map_err(|fail| fail.explain(path))?;
    let (kind, text) = match identity {
        Identity::Ours | Identity::Empty => return Ok((opened, identity)),
        Identity::Foreign => (
            ErrorKind::Data,
            "belongs to another application: give a path of its own".to_owned(),
        ),
        Identity::OtherFormat(format) => (
            ErrorKind::Unsupported,
            format!(
                "has the format {format}, this version of flowstream reads {}: update flowstream",
                FORMAT.1
            ),
        ),
    };
    // Closing a damaged file may panic as well; what it says is of no interest.
    let _ = guarded(|| {
        drop(opened);
        Ok(())
    });
    let text = format!("the file {} {text}", path.display());
    Err(Error::new(kind, text))
}

/// Lets redb open the file. A small one is verified whole. A large one is trusted, if it was closed;
/// otherwise it is repaired first.
fn open_redb(path: &Path, options: &RedbOptions) -> Result<(Database, Place), Fail> {
    let is_verified = fs::metadata(path)?.len() <= options.verified_bytes;
    let open = |is_repaired: bool| {
        let mut builder = options.builder();
        builder.set_check_integrity_on_open(is_verified);
        if !is_repaired {
            builder.set_repair_callback(RepairSession::abort);
        }
        let file = open_file(path)?;
        let place = Place::of(path, &file)?;
        let db = builder.create_with_backend(options.backend(file)?)?;
        Ok((db, place))
    };
    match open(is_verified) {
        Err(Fail::Redb(redb::Error::RepairAborted)) => {}
        opened => return opened,
    }
    let backend = options.backend(open_file(path)?)?;
    if let Err(fail) = guarded(|| repair(&mut options.builder(), path, backend)) {
        // The next one says what is wrong with it, if it is the file.
        tracing::info!(?fail, "redb repairs the file, and reads it twice for that");
    }
    open(true)
}

/// Opens a file that has something in it.
fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // redb would make a storage of it.
    match file.metadata()?.len() {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(file),
    }
}
