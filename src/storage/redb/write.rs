//! The operations that write, inside the transaction of a group commit. Each checks before it
//! writes, so that a refusal changes nothing.

use std::collections::HashMap;
use std::ops::Range;

use ::redb::{
    Key, ReadTransaction, ReadableTable, Table, TableDefinition, Value, WriteTransaction,
};

use super::core::Done;
use super::error::Fail;
use super::log::{self, Log};
use super::tables::{
    APPENDS, BATCHES, BatchKey, GROUPS, GroupRow, Head, META, NEXT_STREAM, REFUSED, STARTS,
    STREAMS, Stream, decode_append, emptied, encode_append, encode_batch,
};
use crate::error::Error;
use crate::storage::group::{self, StoredGroup, fenced, no_group, no_partition, position_at};
use crate::storage::ids::{Ids, Outcome, REMEMBERED};
use crate::storage::{
    Append, Appended, Claim, Group, GroupState, Id, Lease, Name, Notification, Partition, Progress,
    Ranges, Row, Start, StreamSettings,
};

/// What the writer knows of the file. It is thrown away when a transaction is aborted.
#[derive(Default)]
pub(super) struct Cache {
    streams: HashMap<Name, Stream>,
    ends: HashMap<u64, End>,
    ids: Ids,
    /// The keys in the tables of ids.
    appends: Range<u64>,
    refused: Range<u64>,
}

/// Where the log of a partition ends.
#[derive(Clone, Copy)]
struct End {
    next: u64,
    /// When it was last appended to; times never go back.
    appended_at: i64,
}

impl Cache {
    pub(super) fn load(txn: &ReadTransaction) -> Result<Self, Fail> {
        let mut cache = Self::default();
        for entry in txn.open_table(APPENDS)?.iter()? {
            let (key, value) = entry?;
            let append = decode_append(value.value());
            let damaged = || Fail::Damaged("the table of recent appends".to_owned());
            let (id, bases) = append.ok_or_else(damaged)?;
            cache.ids.insert(id, Outcome::Written(bases));
            extend(&mut cache.appends, key.value());
        }
        for entry in txn.open_table(REFUSED)?.iter()? {
            let (key, id) = entry?;
            cache.ids.insert(Id(id.value()), Outcome::Refused);
            extend(&mut cache.refused, key.value());
        }
        Ok(cache)
    }

    pub(super) fn has_written(&self, id: Id) -> bool {
        matches!(self.ids.get(id), Some(Outcome::Written(_)))
    }
}

fn extend(keys: &mut Range<u64>, key: u64) {
    if keys.is_empty() {
        keys.start = key;
    }
    keys.end = key + 1;
}

/// A table that is opened when it is first used.
struct Lazy<'a, K: Key + 'static, V: Value + 'static> {
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

    fn get(&mut self) -> Result<&mut Table<'a, K, V>, Fail> {
        let table = match self.table.take() {
            Some(table) => table,
            None => self.txn.open_table(self.definition)?,
        };
        Ok(self.table.insert(table))
    }
}

pub(super) struct Transaction<'a> {
    streams: Lazy<'a, &'static str, &'static [u8]>,
    batches: Lazy<'a, BatchKey, &'static [u8]>,
    starts: Lazy<'a, u64, u64>,
    groups: Lazy<'a, (u64, &'static str), &'static [u8]>,
    appends: Lazy<'a, u64, &'static [u8]>,
    refused: Lazy<'a, u64, u128>,
    meta: Lazy<'a, &'static str, u64>,
    cache: &'a mut Cache,
    boot: u64,
    now: i64,
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
            groups: Lazy::new(txn, GROUPS),
            appends: Lazy::new(txn, APPENDS),
            refused: Lazy::new(txn, REFUSED),
            meta: Lazy::new(txn, META),
            cache,
            boot,
            now,
            notifications: Vec::new(),
            has_written: false,
        }
    }

    pub(super) fn create_stream(
        &mut self,
        name: &Name,
        wanted: Option<u32>,
    ) -> Done<StreamSettings> {
        if let Some(stream) = self.stream(name)? {
            return Ok(Ok(StreamSettings::new(stream.partitions)));
        }
        let partitions = match group::partitions(name, wanted) {
            Ok(partitions) => partitions,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.has_written = true;
        let meta = self.meta.get()?;
        let next = meta.get(NEXT_STREAM)?.map_or(0, |next| next.value());
        let id = u32::try_from(next).map_err(|_| Fail::Damaged("the table flowstream".into()))?;
        meta.insert(NEXT_STREAM, next + 1)?;
        let stream = Stream { id, partitions };
        let value = stream.encode(name.as_str());
        self.streams.get()?.insert(name.as_str(), &value[..])?;
        self.cache.streams.insert(name.clone(), stream);
        Ok(Ok(StreamSettings::new(partitions)))
    }

    pub(super) fn append(&mut self, append: &Append) -> Done<Appended> {
        match self.cache.ids.get(append.id) {
            Some(Outcome::Written(bases)) => return Ok(Ok(Appended::Written(bases.clone()))),
            Some(Outcome::Refused) => return Ok(Ok(Appended::Refused)),
            None => {}
        }
        let mut commits = Vec::with_capacity(append.commits.len());
        let mut lost = Vec::new();
        for (index, (lease, done)) in append.commits.iter().enumerate() {
            match self.held(lease)? {
                Some((key, row)) => commits.push((lease, key, row, done)),
                None => lost.push(index),
            }
        }
        if !lost.is_empty() {
            return Ok(Ok(Appended::Fenced(lost)));
        }
        let mut keys = Vec::with_capacity(append.rows.len());
        for row in &append.rows {
            match self.partition(&row.partition)? {
                Some(key) => keys.push(key),
                None => return Ok(Err(no_partition(&row.partition))),
            }
            if let Err(refusal) = check_size(row) {
                return Ok(Err(refusal));
            }
        }
        for (lease, key, mut row, done) in commits {
            row.group.commit(done);
            self.put_group(key, &lease.group.name, row)?;
        }
        let mut bases = Vec::with_capacity(keys.len());
        for (row, key) in append.rows.iter().zip(keys) {
            bases.push(self.append_row(row, key)?);
        }
        self.remember_append(append.id, bases.clone())?;
        Ok(Ok(Appended::Written(bases)))
    }

    fn append_row(&mut self, row: &Row, key: u64) -> Result<u64, Fail> {
        self.has_written = true;
        let end = self.end(key, &row.partition)?;
        let appended_at = end.appended_at.max(self.now);
        let (key, records) = ((key, end.next), &row.records);
        let len = Head::LEN + records.encoded_len();
        let mut value = self.batches.get()?.insert_reserve(key, len)?;
        encode_batch(key, appended_at, records, value.as_mut());
        let next = end.next + u64::from(records.len());
        self.cache.ends.insert(key.0, End { next, appended_at });
        let partition = row.partition.clone();
        self.notifications
            .push(Notification::Appended(partition, next));
        Ok(end.next)
    }

    pub(super) fn settle(&mut self, id: Id) -> Done<Option<Vec<u64>>> {
        match self.cache.ids.get(id) {
            Some(Outcome::Written(bases)) => return Ok(Ok(Some(bases.clone()))),
            Some(Outcome::Refused) => return Ok(Ok(None)),
            None => {}
        }
        self.has_written = true;
        let refused = self.refused.get()?;
        refused.insert(self.cache.refused.end, id.0)?;
        self.cache.refused.end += 1;
        if let Some(old) = outdated(&mut self.cache.refused) {
            refused.retain_in(old, |_, _| false)?;
        }
        self.cache.ids.insert(id, Outcome::Refused);
        Ok(Ok(None))
    }

    pub(super) fn create_group(&mut self, group: &Group, start: Start) -> Done<()> {
        let Some(key) = self.partition(&group.partition)? else {
            return Ok(Err(no_partition(&group.partition)));
        };
        if self.group(key, &group.name)?.is_some() {
            return Ok(Ok(()));
        }
        let bounds = self.bounds(key, &group.partition)?;
        let log = Log {
            batches: self.batches.get()?,
            key,
            partition: &group.partition,
        };
        let position = position_at(start, &bounds, |micros| log.appended_since(&bounds, micros))?;
        self.put_group(
            key,
            &group.name,
            GroupRow {
                group: StoredGroup::at(position),
                boot: 0,
            },
        )?;
        Ok(Ok(()))
    }

    pub(super) fn claim(&mut self, claim: &Claim) -> Done<GroupState> {
        let Group { partition, name } = &claim.group;
        let key = self.partition(partition)?;
        let row = match key {
            Some(key) => self.group(key, name)?,
            None => None,
        };
        let (Some(key), Some(mut row)) = (key, row) else {
            return Ok(Err(no_group(&claim.group)));
        };
        let bounds = self.bounds(key, partition)?;
        if row.group.claim(claim, &bounds) {
            row = self.put_group(key, name, row)?;
        }
        let is_dead = row.owner_is_dead(self.boot);
        Ok(Ok(row.group.state(is_dead, bounds)))
    }

    pub(super) fn commit(&mut self, lease: &Lease, done: &Ranges) -> Done<Progress> {
        let Some((key, mut row)) = self.held(lease)? else {
            return Ok(Err(fenced(lease)));
        };
        row.group.commit(done);
        let row = self.put_group(key, &lease.group.name, row)?;
        Ok(Ok(row.group.progress))
    }

    pub(super) fn release(&mut self, lease: &Lease) -> Done<()> {
        if let Some((key, mut row)) = self.held(lease)? {
            row.group.release();
            self.put_group(key, &lease.group.name, row)?;
            let partition = lease.group.partition.clone();
            self.notifications.push(Notification::Released(partition));
        }
        Ok(Ok(()))
    }

    pub(super) fn trim(&mut self, partition: &Partition, before: u64) -> Done<u64> {
        let Some(key) = self.partition(partition)? else {
            return Ok(Err(no_partition(partition)));
        };
        let bounds = self.bounds(key, partition)?;
        let batches = self.batches.get()?;
        let log = Log {
            batches: &*batches,
            key,
            partition,
        };
        // The only one that can end there is the newest: behind any other the next begins.
        let Some(last) = log.last_until(before)? else {
            return Ok(Ok(bounds.start));
        };
        let is_newest = last.end() <= before;
        let start = if is_newest { last.end() } else { last.base };
        if start <= bounds.start {
            return Ok(Ok(bounds.start));
        }
        self.has_written = true;
        batches.retain_in((key, 0)..(key, last.base), |_, _| false)?;
        if is_newest {
            let key = (key, last.base);
            batches.insert(key, &emptied(key, &last)[..])?;
        }
        self.starts.get()?.insert(key, start)?;
        Ok(Ok(start))
    }

    fn stream(&mut self, name: &Name) -> Result<Option<Stream>, Fail> {
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
    fn partition(&mut self, partition: &Partition) -> Result<Option<u64>, Fail> {
        let stream = self.stream(&partition.stream)?;
        Ok(stream.and_then(|stream| stream.partition(partition.index)))
    }

    fn end(&mut self, key: u64, partition: &Partition) -> Result<End, Fail> {
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

    fn bounds(&mut self, key: u64, partition: &Partition) -> Result<Range<u64>, Fail> {
        let start = self
            .starts
            .get()?
            .get(key)?
            .map_or(0, |start| start.value());
        Ok(start..self.end(key, partition)?.next)
    }

    fn group(&mut self, key: u64, name: &Name) -> Result<Option<GroupRow>, Fail> {
        log::group(self.groups.get()?, key, name)
    }

    /// The group, if the lease is still this one.
    fn held(&mut self, lease: &Lease) -> Result<Option<(u64, GroupRow)>, Fail> {
        let Some(key) = self.partition(&lease.group.partition)? else {
            return Ok(None);
        };
        let row = self.group(key, &lease.group.name)?;
        let row = row.filter(|row| row.group.holds(lease));
        Ok(row.map(|row| (key, row)))
    }

    /// Writes a group on behalf of its owner, who lives in this boot.
    fn put_group(&mut self, key: u64, name: &Name, row: GroupRow) -> Result<GroupRow, Fail> {
        self.has_written = true;
        let row = GroupRow {
            boot: self.boot,
            ..row
        };
        let key = (key, name.as_str());
        self.groups.get()?.insert(key, &row.encode(key)[..])?;
        Ok(row)
    }

    fn remember_append(&mut self, id: Id, bases: Vec<u64>) -> Result<(), Fail> {
        self.has_written = true;
        let appends = self.appends.get()?;
        let value = encode_append(id, &bases);
        appends.insert(self.cache.appends.end, &value[..])?;
        self.cache.appends.end += 1;
        if let Some(old) = outdated(&mut self.cache.appends) {
            appends.retain_in(old, |_, _| false)?;
        }
        self.cache.ids.insert(id, Outcome::Written(bases));
        Ok(())
    }
}

/// The keys to delete, once as many as are remembered have gathered: in bulk, because each of them
/// alone would dirty the oldest page with every append.
fn outdated(keys: &mut Range<u64>) -> Option<Range<u64>> {
    let remembered = REMEMBERED as u64;
    if keys.end - keys.start < 2 * remembered {
        return None;
    }
    let old = keys.start..keys.end - remembered;
    keys.start = old.end;
    Some(old)
}

fn check_size(row: &Row) -> Result<(), Error> {
    // redb takes values of up to 3 GiB.
    const MAX_BYTES: usize = 2 * 1024 * 1024 * 1024;
    let bytes = row.records.encoded_len();
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a batch of {bytes} bytes for {} is over the limit of {MAX_BYTES}: append less at once",
        row.partition
    )))
}
