//! Opening a file, or making it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::redb::{Database, ReadableDatabase, ReadableTable};

use super::audit::audit;
use super::error::{Fail, guarded};
use super::tables::{
    APPENDS, BATCHES, BOOT, FORMAT, GROUPS, MAGIC, META, NEXT_STREAM, REFUSED, STARTS, STREAMS,
};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Id;

/// How to open a [`RedbStorage`](super::RedbStorage).
#[derive(Debug, Clone)]
pub struct RedbOptions {
    pub(super) clock: Arc<dyn Clock>,
    cache_bytes: usize,
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
}

/// Verifying reads the whole file: 0.1 s for this size out of the page cache. Above it redb trusts a
/// file that was closed cleanly, and the checksums of the values tell what is damaged.
const VERIFIED_BYTES: u64 = 256 * 1024 * 1024;

/// Opens the file, makes it if it is not there, and counts the boot.
pub(super) fn open(path: &Path, options: &RedbOptions) -> Result<(Database, u64)> {
    match fs::metadata(path) {
        Ok(file) if file.is_dir() => {
            return Err(Error::invalid(format!(
                "{} is a directory: give the path of a file in it",
                path.display()
            )));
        }
        Ok(file) if file.len() == 0 => create_in_place(path)?,
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
        Err(error) => return Err(Fail::from(redb::Error::Io(error)).explain(path)),
    }
    let (db, identity) = open_database(path, options)?;
    // Moved in, because closing a damaged file may panic as well.
    let boot = move || {
        if matches!(identity, Identity::Empty) {
            initialise(&db)?;
        }
        let boot = next_boot(&db)?;
        Ok((db, boot))
    };
    guarded(boot).map_err(|fail| fail.explain(path))
}

/// Opens a file that was open before: it is never made anew.
pub(super) fn reopen(path: &Path, options: &RedbOptions) -> Result<Database> {
    let (db, identity) = open_database(path, options)?;
    if matches!(identity, Identity::Empty) {
        return Err(Fail::Damaged("everything".to_owned()).explain(path));
    }
    Ok(db)
}

fn open_database(path: &Path, options: &RedbOptions) -> Result<(Database, Identity)> {
    let open = || {
        let db = open_redb(path, options)?;
        let identity = identify(&db)?;
        if matches!(identity, Identity::Ours) {
            audit(&db)?;
        }
        Ok((db, identity))
    };
    let (db, identity) = guarded(open).map_err(|fail| fail.explain(path))?;
    let (kind, text) = match identity {
        Identity::Ours | Identity::Empty => return Ok((db, identity)),
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
        drop(db);
        Ok(())
    });
    let text = format!("the file {} {text}", path.display());
    Err(Error::new(kind, text))
}

fn open_redb(path: &Path, options: &RedbOptions) -> Result<Database, redb::DatabaseError> {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    builder.set_check_integrity_on_open(fs::metadata(path)?.len() <= options.verified_bytes);
    #[cfg(test)]
    if let Some(faults) = &options.faults {
        return builder.create_with_backend(faults.open(path)?);
    }
    builder.open(path)
}

enum Identity {
    Ours,
    /// No table at all: the process was killed while it made the file.
    Empty,
    Foreign,
    /// Ours, in another format.
    Other(u64),
}

fn identify(db: &Database) -> Result<Identity, Fail> {
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

fn initialise(db: &Database) -> Result<(), Fail> {
    let txn = db.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        for (key, value) in [MAGIC, FORMAT, (BOOT, 0), (NEXT_STREAM, 0)] {
            meta.insert(key, value)?;
        }
        txn.open_table(STREAMS)?;
        txn.open_table(BATCHES)?;
        txn.open_table(STARTS)?;
        txn.open_table(GROUPS)?;
        txn.open_table(APPENDS)?;
        txn.open_table(REFUSED)?;
    }
    Ok(txn.commit()?)
}

fn next_boot(db: &Database) -> Result<u64, Fail> {
    let txn = db.begin_write()?;
    let boot = {
        let mut meta = txn.open_table(META)?;
        let last = meta.get(BOOT)?.map_or(0, |boot| boot.value());
        meta.insert(BOOT, last + 1)?;
        last + 1
    };
    txn.commit()?;
    Ok(boot)
}

/// Makes the file beside its place and links it there when it is whole, so that a crash leaves
/// either no file or a good one, and two processes that do so at once get the same file.
fn create(path: &Path) -> Result<()> {
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
        // A file system without links.
        create_in_place(path)?;
    }
    // Not every system can sync a directory; then it does so by itself.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", Id::random()));
    path.with_file_name(name)
}

fn create_in_place(path: &Path) -> Result<()> {
    let create = || {
        let db = Database::builder().create(path)?;
        if matches!(identify(&db)?, Identity::Empty) {
            initialise(&db)?;
        }
        Ok(db.close()?)
    };
    guarded(create).map_err(|fail| fail.explain(path))
}
