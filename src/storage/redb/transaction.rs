//! The transaction of a group commit, and how the operations find their way in it.

use std::ops::Range;

use ::redb::{Key, ReadableTable, Table, TableDefinition, Value, WriteTransaction};

use super::cache::{Cache, End};
use super::core::Done;
use super::error::Fail;
use super::log::{self, Log};
use super::sweep::Room;
use super::tables::{
    APPENDS, BATCHES, BatchKey, GROUPS, GroupRow, META, REFUSED, STARTS, STREAMS, SWEEPS, Stream,
};
use crate::storage::{Lease, Name, Notification, Partition};

pub(super) struct Transaction<'a> {
    pub(super) streams: Lazy<'a, &'static str, &'static [u8]>,
    pub(super) batches: Lazy<'a, BatchKey, &'static [u8]>,
    pub(super) starts: Lazy<'a, u64, u64>,
    pub(super) sweeps: Lazy<'a, u64, ()>,
    pub(super) groups: Lazy<'a, (u64, &'static str), &'static [u8]>,
    pub(super) appends: Lazy<'a, u64, &'static [u8]>,
    pub(super) refused: Lazy<'a, u64, u128>,
    pub(super) meta: Lazy<'a, &'static str, u64>,
    pub(super) cache: &'a mut Cache,
    pub(super) boot: u64,
    pub(super) now: i64,
    /// For what it deletes.
    pub(super) room: Room,
    /// To send after the commit.
    pub(super) notifications: Vec<Notification>,
    /// Whether there is anything to commit.
    pub(super) has_written: bool,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(
        txn: &'a WriteTransaction,
        cache: &'a mut Cache,
        boot: u64,
        now: i64,
    ) -> Self {
        Self {
            streams: Lazy::new(txn, STREAMS),
            batches: Lazy::new(txn, BATCHES),
            starts: Lazy::new(txn, STARTS),
            sweeps: Lazy::new(txn, SWEEPS),
            groups: Lazy::new(txn, GROUPS),
            appends: Lazy::new(txn, APPENDS),
            refused: Lazy::new(txn, REFUSED),
            meta: Lazy::new(txn, META),
            cache,
            boot,
            now,
            room: Room::new(),
            notifications: Vec::new(),
            has_written: false,
        }
    }

    pub(super) fn stream(&mut self, name: &Name) -> Result<Option<Stream>, Fail> {
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
    pub(super) fn missing<T>(&mut self, partition: &Partition) -> Done<T> {
        log::missing(self.streams.get()?, partition).map(Err)
    }

    pub(super) fn end(&mut self, key: u64, partition: &Partition) -> Result<End, Fail> {
        if let Some(end) = self.cache.ends.get(&key) {
            return Ok(*end);
        }
        let log = Log {
            batches: self.batches.get()?,
            key,
            partition,
        };
        let end = match log.newest()? {
            Some(head) => End {
                next: head.end(),
                appended_at: head.appended_at,
            },
            None => End {
                next: 0,
                appended_at: i64::MIN,
            },
        };
        self.cache.ends.insert(key, end);
        Ok(end)
    }

    pub(super) fn bounds(&mut self, key: u64, partition: &Partition) -> Result<Range<u64>, Fail> {
        let start = self
            .starts
            .get()?
            .get(key)?
            .map_or(0, |start| start.value());
        Ok(start..self.end(key, partition)?.next)
    }

    pub(super) fn group(&mut self, key: u64, name: &Name) -> Result<Option<GroupRow>, Fail> {
        log::group(self.groups.get()?, key, name)
    }

    /// The group, if the lease is still this one.
    pub(super) fn held(&mut self, lease: &Lease) -> Result<Option<(u64, GroupRow)>, Fail> {
        let Some(key) = self.partition(&lease.group.partition)? else {
            return Ok(None);
        };
        let row = self.group(key, &lease.group.name)?;
        let row = row.filter(|row| row.group.holds(lease));
        Ok(row.map(|row| (key, row)))
    }

    /// Writes a group on behalf of its owner, who lives in this boot.
    pub(super) fn put_group(
        &mut self,
        key: u64,
        name: &Name,
        row: GroupRow,
    ) -> Result<GroupRow, Fail> {
        self.has_written = true;
        let row = GroupRow {
            boot: self.boot,
            ..row
        };
        let key = (key, name.as_str());
        self.groups.get()?.insert(key, &row.encode(key)[..])?;
        Ok(row)
    }
}

/// A table that is opened when it is first used.
pub(super) struct Lazy<'a, K: Key + 'static, V: Value + 'static> {
    txn: &'a WriteTransaction,
    definition: TableDefinition<'static, K, V>,
    table: Option<Table<'a, K, V>>,
}

impl<'a, K: Key + 'static, V: Value + 'static> Lazy<'a, K, V> {
    fn new(txn: &'a WriteTransaction, definition: TableDefinition<'static, K, V>) -> Self {
        Self {
            txn,
            definition,
            table: None,
        }
    }

    pub(super) fn get(&mut self) -> Result<&mut Table<'a, K, V>, Fail> {
        let table = match self.table.take() {
            Some(table) => table,
            None => self.txn.open_table(self.definition)?,
        };
        Ok(self.table.insert(table))
    }
}
