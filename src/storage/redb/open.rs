//! Opening a file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

#[cfg(not(test))]
use ::redb::StorageBackend;
use ::redb::backends::FileBackend;
use ::redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, RepairSession, WriteTransaction,
};

use super::audit::audit;
use super::create::{create, create_in_place, initialise};
use super::error::{Fail, Gone, guarded};
use super::once::repair;
use super::place::{FileId, Found, Place, look};
use super::tables::{BOOT, FORMAT, MAGIC, META, SWEEPS};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// How to open a [`RedbStorage`](super::RedbStorage).
#[derive(Debug, Clone)]
pub struct RedbOptions {
    pub(super) clock: Arc<dyn Clock>,
    cache_bytes: usize,
    pub(super) has_quick_repair: bool,
    /// Up to this size a file is verified whole when it is opened.
    pub(super) verified_bytes: u64,
    #[cfg(test)]
    pub(super) faults: Option<Arc<super::faults::Faults>>,
}

impl RedbOptions {
    /// The defaults, with this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            cache_bytes: 64 * 1024 * 1024,
            has_quick_repair: false,
            verified_bytes: VERIFIED_BYTES,
            #[cfg(test)]
            faults: None,
        }
    }

    /// Sets the memory for caching pages of the file, in bytes; 64 MiB unless set.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Whether a file can be opened at once after a crash, at the price of slower writes; off unless
    /// set. See [`Options::quick_repair`](crate::Options::quick_repair).
    #[must_use]
    pub fn quick_repair(mut self, enabled: bool) -> Self {
        self.has_quick_repair = enabled;
        self
    }
}

/// Verifying reads the whole file: 0.1 s for this size out of the page cache. Above it redb trusts a
/// file that was closed cleanly, and the checksums of the values tell what is damaged.
const VERIFIED_BYTES: u64 = 256 * 1024 * 1024;

/// An open file, which is a storage.
pub(super) struct OpenFile {
    /// It goes before the database, whose locks its handle shares.
    pub(super) place: Place,
    pub(super) db: Database,
    /// How often it was opened, by whatever process.
    pub(super) boot: u64,
}

/// Opens the file, makes it if it is not there, and counts the boot.
pub(super) fn open(path: &Path, options: &RedbOptions) -> Result<OpenFile> {
    match look(path)? {
        Found::File => {}
        Found::EmptyFile => create_in_place(path)?,
        Found::Nothing => create(path)?,
    }
    let (mut opened, identity) = open_database(path, options)?;
    // Moved in, because closing a damaged file may panic as well.
    let boot = move || {
        if matches!(identity, Identity::Empty) {
            initialise(&opened.db)?;
        }
        opened.boot = next_boot(&opened.db, options)?;
        Ok(opened)
    };
    guarded(boot).map_err(|fail| fail.explain(path))
}

/// Opens a file that was open before: it has to be the same one, and is never made anew.
pub(super) fn reopen(
    path: &Path,
    options: &RedbOptions,
    before: (FileId, u64),
) -> Result<OpenFile> {
    let gone = match FileId::at(path) {
        None => Some(Gone::Missing),
        Some(found) if found != before.0 => Some(Gone::Replaced),
        Some(_) => None,
    };
    if let Some(gone) = gone {
        return Err(Fail::Gone(gone).explain(path));
    }
    let (opened, identity) = open_database(path, options)?;
    let fail = match identity {
        Identity::Empty => Fail::Damaged("everything".to_owned()),
        // Another process may have had it meanwhile; but it never goes back.
        _ if opened.place.id != before.0 || opened.boot < before.1 => Fail::Gone(Gone::Replaced),
        _ => return Ok(opened),
    };
    Err(fail.explain(path))
}

fn open_database(path: &Path, options: &RedbOptions) -> Result<(OpenFile, Identity)> {
    let open = || {
        let (db, place) = open_redb(path, options)?;
        let identity = identify(&db)?;
        let boot = match identity {
            Identity::Ours => {
                audit(&db)?;
                last_boot(&db)?
            }
            _ => 0,
        };
        Ok((OpenFile { place, db, boot }, identity))
    };
    let (opened, identity) = guarded(open).map_err(|fail| fail.explain(path))?;
    let (kind, text) = match identity {
        Identity::Ours | Identity::Empty => return Ok((opened, identity)),
        Identity::Foreign => (
            ErrorKind::Data,
            "belongs to another application: give a path of its own".to_owned(),
        ),
        Identity::Other(format) => (
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

/// A small file is verified whole. A large one is trusted, if it was closed; otherwise it is repaired
/// first.
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

fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // redb would make a storage of it.
    match file.metadata()?.len() {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(file),
    }
}

impl RedbOptions {
    fn builder(&self) -> Builder {
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        builder
    }

    #[cfg(not(test))]
    fn backend(&self, file: File) -> Result<impl StorageBackend, Fail> {
        Ok(FileBackend::new(file)?)
    }

    #[cfg(test)]
    fn backend(&self, file: File) -> Result<super::faults::Disk, Fail> {
        Ok(super::faults::Disk {
            file: FileBackend::new(file)?,
            faults: self.faults.clone().unwrap_or_default(),
        })
    }
}

pub(super) enum Identity {
    Ours,
    /// No table at all: the process was killed while it made the file.
    Empty,
    Foreign,
    /// Ours, in another format.
    Other(u64),
}

pub(super) fn identify(db: &Database) -> Result<Identity, Fail> {
    let txn = db.begin_read()?;
    let is_empty =
        txn.list_tables()?.next().is_none() && txn.list_multimap_tables()?.next().is_none();
    if is_empty {
        return Ok(Identity::Empty);
    }
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(Identity::Foreign),
    };
    let value = |key| Ok::<_, Fail>(meta.get(key)?.map(|value| value.value()));
    Ok(match (value(MAGIC.0)?, value(FORMAT.0)?) {
        (Some(magic), Some(format)) if magic == MAGIC.1 => {
            if format == FORMAT.1 {
                Identity::Ours
            } else {
                Identity::Other(format)
            }
        }
        _ => Identity::Foreign,
    })
}

fn last_boot(db: &Database) -> Result<u64, Fail> {
    let meta = db.begin_read()?.open_table(META)?;
    Ok(meta.get(BOOT)?.map_or(0, |boot| boot.value()))
}

fn next_boot(db: &Database, options: &RedbOptions) -> Result<u64, Fail> {
    let txn = begin(db, options.has_quick_repair)?;
    let boot = {
        // A file that was made before there was this table.
        txn.open_table(SWEEPS)?;
        let mut meta = txn.open_table(META)?;
        let last = meta.get(BOOT)?.map_or(0, |boot| boot.value());
        meta.insert(BOOT, last + 1)?;
        last + 1
    };
    txn.commit()?;
    Ok(boot)
}

/// Begins what is on the disk once it is committed.
pub(super) fn begin(db: &Database, has_quick_repair: bool) -> Result<WriteTransaction, Fail> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(has_quick_repair);
    Ok(txn)
}
