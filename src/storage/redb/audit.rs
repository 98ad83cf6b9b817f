//! The audit of a file that is opened without verifying it whole: that the small tables have as many
//! entries as redb counted, that each stream and group is found by its name and is sound, and
//! that no log ends before what was appended last. Damage in the middle of a log shows when it is
//! read, as a gap.

use std::collections::HashMap;

use ::redb::{Database, Key, ReadTransaction, ReadableDatabase, ReadableTable};
use ::redb::{ReadableTableMetadata, TableDefinition, TableHandle, Value};

use super::error::Fail;
use super::tables::{
    APPENDS, BATCHES, GROUPS, GroupRow, Head, META, REFUSED, STARTS, STREAMS, StreamRow,
    decode_append,
};

/// Fails if anything that a large file is looked over for is damaged.
pub(super) fn audit(db: &Database) -> Result<(), Fail> {
    let txn = db.begin_read()?;
    count(&txn, META)?;
    count(&txn, STREAMS)?;
    count(&txn, STARTS)?;
    count(&txn, GROUPS)?;
    count(&txn, APPENDS)?;
    count(&txn, REFUSED)?;
    names(&txn)?;
    ends(&txn)
}

/// Fails if a table has another number of entries than redb counted.
fn count<K: Key, V: Value>(
    txn: &ReadTransaction,
    definition: TableDefinition<'static, K, V>,
) -> Result<(), Fail> {
    let table = txn.open_table(definition)?;
    let mut found = 0;
    for entry in table.iter()? {
        entry?;
        found += 1;
    }
    if found == table.len()? {
        return Ok(());
    }
    Err(damaged(definition.name()))
}

/// Fails if a stream or a group is not found by its name: it would be made anew, and be empty.
fn names(txn: &ReadTransaction) -> Result<(), Fail> {
    let streams = txn.open_table(STREAMS)?;
    for entry in streams.iter()? {
        let (key, value) = entry?;
        let name = key.value();
        let is_sound = StreamRow::decode(name, value.value()).is_some();
        if !is_sound || streams.get(name)?.is_none() {
            return Err(damaged("streams"));
        }
    }
    let groups = txn.open_table(GROUPS)?;
    for entry in groups.iter()? {
        let (key, value) = entry?;
        let is_sound = GroupRow::decode(key.value(), value.value()).is_some();
        if !is_sound || groups.get(key.value())?.is_none() {
            return Err(damaged("groups"));
        }
    }
    Ok(())
}

/// Fails if a log ends before what was appended to it last.
fn ends(txn: &ReadTransaction) -> Result<(), Fail> {
    let mut ends = HashMap::new();
    for entry in txn.open_table(APPENDS)?.iter()? {
        let (_, value) = entry?;
        let (_, rows) = decode_append(value.value()).ok_or_else(|| damaged("appends"))?;
        ends.extend(rows.into_iter().map(|row| (row.partition, row.end())));
    }
    let batches = txn.open_table(BATCHES)?;
    for (partition, end) in ends {
        let newest = batches
            .range((partition, 0)..=(partition, u64::MAX))?
            .next_back();
        let Some((key, value)) = newest.transpose()? else {
            return Err(damaged("batches"));
        };
        let head = Head::decode(key.value(), value.value());
        if head.is_none_or(|head| head.end() < end) {
            return Err(damaged("batches"));
        }
    }
    Ok(())
}

fn damaged(table: &str) -> Fail {
    Fail::Damaged(format!("the table {table}"))
}
