//! The operations that read, each from a short snapshot.

use std::ops::Range;

use ::redb::{ReadOnlyTable, ReadTransaction, ReadableTable};

use super::error::{Answer, Fail};
use super::log::{self, Log};
use super::tables::{BATCHES, BatchKey, GROUPS, GroupRow, STARTS, STREAMS};
use crate::error::Error;
use crate::storage::{Fetched, Group, GroupState, Name, Partition, Read};

type Batches = ReadOnlyTable<BatchKey, &'static [u8]>;

/// A snapshot of the file. Its tables are opened once, whatever is asked for: some calls name 10,000
/// partitions.
pub(super) struct Snapshot {
    streams: ReadOnlyTable<&'static str, &'static [u8]>,
    batches: Batches,
    starts: ReadOnlyTable<u64, u64>,
    groups: ReadOnlyTable<(u64, &'static str), &'static [u8]>,
}

impl Snapshot {
    /// A snapshot of what this transaction sees.
    pub(super) fn new(txn: &ReadTransaction) -> Result<Self, Fail> {
        Ok(Self {
            streams: txn.open_table(STREAMS)?,
            batches: txn.open_table(BATCHES)?,
            starts: txn.open_table(STARTS)?,
            groups: txn.open_table(GROUPS)?,
        })
    }

    /// Batches of a log, and how the group that is named stands.
    pub(super) fn read(&self, read: &Read) -> Answer<Fetched> {
        let Some(log) = self.log(&read.partition)? else {
            return self.missing(&read.partition);
        };
        let group = match &read.group {
            Some(name) => self.group(log.key, name)?,
            None => None,
        };
        let bounds = self.bounds(&log)?;
        Ok(Ok(Fetched {
            batches: log.read(&bounds, read.from, read.max_bytes)?,
            bounds,
            epoch: group.map_or(0, |row| row.group.epoch),
        }))
    }

    /// Where each of these logs starts and ends.
    pub(super) fn all_bounds(&self, partitions: &[Partition]) -> Answer<Vec<Range<u64>>> {
        let mut bounds = Vec::with_capacity(partitions.len());
        for partition in partitions {
            match self.log(partition)? {
                Some(log) => bounds.push(self.bounds(&log)?),
                None => return self.missing(partition),
            }
        }
        Ok(Ok(bounds))
    }

    /// How these groups stand at this open count; `None` for one that is not there.
    pub(super) fn observe(
        &self,
        groups: &[Group],
        open_count: u64,
    ) -> Answer<Vec<Option<GroupState>>> {
        let states = groups.iter().map(|group| {
            let Some(log) = self.log(&group.partition)? else {
                return Ok(None);
            };
            let Some(row) = self.group(log.key, &group.name)? else {
                return Ok(None);
            };
            let liveness = row.liveness(open_count);
            Ok(Some(row.group.state(liveness, self.bounds(&log)?)))
        });
        states.collect::<Result<_, Fail>>().map(Ok)
    }

    /// The groups of this stream, or of all, in the order of their names.
    pub(super) fn groups(&self, stream: Option<&Name>) -> Answer<Vec<Group>> {
        let mut found = Vec::new();
        let names = match stream {
            Some(stream) => self.streams.range(stream.as_str()..=stream.as_str())?,
            None => self.streams.range::<&str>(..)?,
        };
        for entry in names {
            let stream = Name::new(entry?.0.value()).map_err(damaged)?;
            let Some(settings) = log::stream(&self.streams, &stream)? else {
                continue;
            };
            let first = settings.partition(0).unwrap_or_default();
            let keys = (first, "")..(first + u64::from(settings.partitions), "");
            for entry in self.groups.range(keys)? {
                let (entry, _) = entry?;
                let (key, name) = entry.value();
                let stream = stream.clone();
                // The partitions of a stream have keys that follow on each other.
                let index = (key - first) as u32;
                found.push(Group {
                    partition: Partition { stream, index },
                    name: Name::new(name).map_err(damaged)?,
                });
            }
        }
        Ok(Ok(found))
    }

    fn missing<T>(&self, partition: &Partition) -> Answer<T> {
        log::missing(&self.streams, partition).map(Err)
    }

    fn log<'b>(&'b self, partition: &'b Partition) -> Result<Option<Log<'b, Batches>>, Fail> {
        let stream = log::stream(&self.streams, &partition.stream)?;
        let key = stream.and_then(|stream| stream.partition(partition.index));
        Ok(key.map(|key| Log {
            batches: &self.batches,
            key,
            partition,
        }))
    }

    fn bounds(&self, log: &Log<'_, Batches>) -> Result<Range<u64>, Fail> {
        let start = ReadableTable::get(&self.starts, log.key)?;
        let start = start.map_or(0, |start| start.value());
        Ok(start..log.newest()?.map_or(0, |head| head.end()))
    }

    fn group(&self, key: u64, name: &Name) -> Result<Option<GroupRow>, Fail> {
        log::group(&self.groups, key, name)
    }
}

fn damaged(error: Error) -> Fail {
    Fail::Damaged(format!("a name ({error})"))
}
