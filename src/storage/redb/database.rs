//! What makes a redb database a file of this crate: whose it is, its tables, and how often it was
//! opened.

use ::redb::{Database, Durability, ReadableDatabase, ReadableTable, WriteTransaction};

use super::error::Fail;
use super::tables::{
    APPENDS, BATCHES, FORMAT, GROUPS, MAGIC, META, NEXT_STREAM, OPEN_COUNT, REFUSED, STARTS,
    STREAMS, SWEEPS,
};

/// Whose database it is.
pub(super) enum Identity {
    /// A storage of this crate, in the format that this version reads.
    Ours,
    /// One with no table at all: the process was killed while it made the file.
    Empty,
    /// A database of another application.
    Foreign,
    /// A storage of this crate, in this other format.
    OtherFormat(u64),
}

/// Finds out whose database it is.
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
                Identity::OtherFormat(format)
            }
        }
        _ => Identity::Foreign,
    })
}

/// Makes the tables, in one transaction, so that a database has all of them or is empty.
pub(super) fn initialise(db: &Database) -> Result<(), Fail> {
    let txn = begin(db, false)?;
    {
        let mut meta = txn.open_table(META)?;
        for (key, value) in [MAGIC, FORMAT, (OPEN_COUNT, 0), (NEXT_STREAM, 0)] {
            let before = meta.insert(key, value)?;
            debug_assert!(before.is_none(), "{key} of a new database is set once");
        }
        txn.open_table(STREAMS)?;
        txn.open_table(BATCHES)?;
        txn.open_table(STARTS)?;
        txn.open_table(SWEEPS)?;
        txn.open_table(GROUPS)?;
        txn.open_table(APPENDS)?;
        txn.open_table(REFUSED)?;
    }
    Ok(txn.commit()?)
}

/// How often the database was opened so far, by whatever process.
pub(super) fn open_count(db: &Database) -> Result<u64, Fail> {
    let meta = db.begin_read()?.open_table(META)?;
    Ok(meta.get(OPEN_COUNT)?.map_or(0, |count| count.value()))
}

/// Counts that the database is opened once more, and gives the new count.
pub(super) fn count_open(db: &Database, has_quick_repair: bool) -> Result<u64, Fail> {
    let txn = begin(db, has_quick_repair)?;
    let count = {
        // A file that was made before there was this table.
        txn.open_table(SWEEPS)?;
        let mut meta = txn.open_table(META)?;
        let last = meta.get(OPEN_COUNT)?.map_or(0, |count| count.value());
        meta.insert(OPEN_COUNT, last + 1)?;
        last + 1
    };
    txn.commit()?;
    Ok(count)
}

/// Begins a transaction that is on the disk once it is committed.
pub(super) fn begin(db: &Database, has_quick_repair: bool) -> Result<WriteTransaction, Fail> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(has_quick_repair);
    Ok(txn)
}
