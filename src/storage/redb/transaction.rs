//! The transaction of a group commit, and how the operations find their way in it.

use std::ops::Range;

use ::redb::{Key, ReadableTable, Table, TableDefinition, Value, WriteTransaction};

use super::cache::{LogEnd, WriterCache};
use super::delete::DeleteBudget;
use super::error::{Answer, Fail};
use super::log::{self, Log};
use super::tables::{
    APPENDS, BATCHES, BatchKey, GROUPS, GroupRow, META, REFUSED, STARTS, STREAMS, SWEEPS, StreamRow,
};
use crate::storage::{Lease, Name, Notification, Partition};

/// A transaction that writes: the tables, what the writer knows of the file, and what is to follow on
/// the commit.
pub(super) struct Transaction<'a> {
    pub(super) streams: LazyTable<'a, &'static str, &'static [u8]>,
    pub(super) batches: LazyTable<'a, BatchKey, &'static [u8]>,
    pub(super) starts: LazyTable<'a, u64, u64>,
    pub(super) sweeps: LazyTable<'a, u64, ()>,
    pub(super) groups: LazyTable<'a, (u64, &'static str), &'static [u8]>,
    pub(super) appends: LazyTable<'a, u64, &'static [u8]>,
    pub(super) refused: LazyTable<'a, u64, u128>,
    pub(super) meta: LazyTable<'a, &'static str, u64>,
    pub(super) cache: &'a mut WriterCache,
    /// The open count of the file, and so of the owners that write now.
    pub(super) open_count: u64,
    /// The wall clock, in microseconds since the epoch.
    pub(super) now: i64,
    /// How much this transaction may still delete.
    pub(super) delete_budget: DeleteBudget,
    /// What subscribers are told after the commit.
    pub(super) notifications: Vec<Notification>,
    /// Whether there is anything to commit.
    pub(super) has_written: bool,
}

impl<'a> Transaction<'a> {
    /// A transaction in which nothing was done yet.
    pub(super) fn new(
        txn: &'a WriteTransaction,
        cache: &'a mut WriterCache,
        open_count: u64,
        now: i64,
    ) -> Self {
        Self {
            streams: LazyTable::new(txn, STREAMS),
            batches: LazyTable::new(txn, BATCHES),
            starts: LazyTable::new(txn, STARTS),
            sweeps: LazyTable::new(txn, SWEEPS),
            groups: LazyTable::new(txn, GROUPS),
            appends: LazyTable::new(txn, APPENDS),
            refused: LazyTable::new(txn, REFUSED),
            meta: LazyTable::new(txn, META),
            cache,
            open_count,
            now,
            delete_budget: DeleteBudget::new(),
            notifications: Vec::new(),
            has_written: false,
        }
    }

    /// The row of a stream, if it is there.
    pub(super) fn stream(&mut self, name: &Name) -> Result<Option<StreamRow>, Fail> {
        if let Some(stream) = self.cache.streams.get(name) {
            return Ok(Some(*stream));
        }
        let stream = log::stream(self.streams.get()?, name)?;
        if let Some(stream) = stream {
            self.cache.streams.insert(name.clone(), stream);
        }
        Ok(stream)
    }

    /// The key of a partition, if it is there.
    pub(super) fn partition(&mut self, partition: &Partition) -> Result<Option<u64>, Fail> {
        let stream = self.stream(&partition.stream)?;
        Ok(stream.and_then(|stream| stream.partition(partition.index)))
    }

    /// What is wrong with a partition that is not there.
    pub(super) fn missing<T>(&mut self, partition: &Partition) -> Answer<T> {
        log::missing(self.streams.get()?, partition).map(Err)
    }

    /// Where the log of a partition ends.
    pub(super) fn end(&mut self, key: u64, partition: &Partition) -> Result<LogEnd, Fail> {
        if let Some(end) = self.cache.ends.get(&key) {
            return Ok(*end);
        }
        let log = Log {
            batches: self.batches.get()?,
            key,
            partition,
        };
        let end = match log.newest()? {
            Some(head) => LogEnd {
                next: head.end(),
                appended_at: head.appended_at,
            },
            None => LogEnd {
                next: 0,
                appended_at: i64::MIN,
            },
        };
        self.cache.ends.insert(key, end);
        Ok(end)
    }

    /// Where the log of a partition starts and ends.
    pub(super) fn bounds(&mut self, key: u64, partition: &Partition) -> Result<Range<u64>, Fail> {
        let start = self
            .starts
            .get()?
            .get(key)?
            .map_or(0, |start| start.value());
        Ok(start..self.end(key, partition)?.next)
    }

    /// The row of a group, if it is there.
    pub(super) fn group(&mut self, key: u64, name: &Name) -> Result<Option<GroupRow>, Fail> {
        log::group(self.groups.get()?, key, name)
    }

    /// The key of the partition and the row of the group, if the lease is still this one.
    pub(super) fn held(&mut self, lease: &Lease) -> Result<Option<(u64, GroupRow)>, Fail> {
        let Some(key) = self.partition(&lease.group.partition)? else {
            return Ok(None);
        };
        let row = self.group(key, &lease.group.name)?;
        let row = row.filter(|row| row.group.holds(lease));
        Ok(row.map(|row| (key, row)))
    }

    /// Writes a group on behalf of its owner, who lives at this open count.
    pub(super) fn put_group(
        &mut self,
        key: u64,
        name: &Name,
        row: GroupRow,
    ) -> Result<GroupRow, Fail> {
        self.has_written = true;
        let row = GroupRow {
            open_count: self.open_count,
            ..row
        };
        debug_assert!(
            row.group.attempts.is_sorted_by(|a, b| a.0 < b.0),
            "one count a message"
        );
        debug_assert!(
            row.group.owner.is_none() || row.group.epoch > 0,
            "the first owner has the epoch 1"
        );
        let key = (key, name.as_str());
        self.groups.get()?.insert(key, &row.encode(key)[..])?;
        Ok(row)
    }
}

/// A table that is opened when it is first used.
pub(super) struct LazyTable<'a, K: Key + 'static, V: Value + 'static> {
    txn: &'a WriteTransaction,
    definition: TableDefinition<'static, K, V>,
    table: Option<Table<'a, K, V>>,
}

impl<'a, K: Key + 'static, V: Value + 'static> LazyTable<'a, K, V> {
    fn new(txn: &'a WriteTransaction, definition: TableDefinition<'static, K, V>) -> Self {
        Self {
            txn,
            definition,
            table: None,
        }
    }

    /// The table, which is opened now if it was not yet.
    pub(super) fn get(&mut self) -> Result<&mut Table<'a, K, V>, Fail> {
        let table = match self.table.take() {
            Some(table) => table,
            None => self.txn.open_table(self.definition)?,
        };
        Ok(self.table.insert(table))
    }
}
