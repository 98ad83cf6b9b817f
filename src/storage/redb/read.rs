//! The operations that read, each from a short snapshot.

use std::ops::Range;

use ::redb::{ReadOnlyTable, ReadTransaction, ReadableTable};

use super::core::Done;
use super::error::Fail;
use super::log::{self, Log};
use super::tables::{BATCHES, BatchKey, GROUPS, GroupRow, STARTS, STREAMS};
use crate::error::Error;
use crate::storage::group::no_partition;
use crate::storage::{Fetched, Group, GroupState, Name, Partition, Read};

type Batches = ReadOnlyTable<BatchKey, &'static [u8]>;

pub(super) struct Snapshot<'a> {
    txn: &'a ReadTransaction,
    batches: Batches,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(txn: &'a ReadTransaction) -> Result<Self, Fail> {
        let batches = txn.open_table(BATCHES)?;
        Ok(Self { txn, batches })
    }

    pub(super) fn read(&self, read: &Read) -> Done<Fetched> {
        let Some(log) = self.log(&read.partition)? else {
            return Ok(Err(no_partition(&read.partition)));
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

    pub(super) fn all_bounds(&self, partitions: &[Partition]) -> Done<Vec<Range<u64>>> {
        let mut bounds = Vec::with_capacity(partitions.len());
        for partition in partitions {
            match self.log(partition)? {
                Some(log) => bounds.push(self.bounds(&log)?),
                None => return Ok(Err(no_partition(partition))),
            }
        }
        Ok(Ok(bounds))
    }

    pub(super) fn observe(&self, groups: &[Group], boot: u64) -> Done<Vec<Option<GroupState>>> {
        let states = groups.iter().map(|group| {
            let Some(log) = self.log(&group.partition)? else {
                return Ok(None);
            };
            let Some(row) = self.group(log.key, &group.name)? else {
                return Ok(None);
            };
            let liveness = row.liveness(boot);
            Ok(Some(row.group.state(liveness, self.bounds(&log)?)))
        });
        states.collect::<Result<_, Fail>>().map(Ok)
    }

    pub(super) fn groups(&self, stream: Option<&Name>) -> Done<Vec<Group>> {
        let streams = self.txn.open_table(STREAMS)?;
        let groups = self.txn.open_table(GROUPS)?;
        let mut found = Vec::new();
        let names = match stream {
            Some(stream) => streams.range(stream.as_str()..=stream.as_str())?,
            None => streams.range::<&str>(..)?,
        };
        for entry in names {
            let stream = Name::new(entry?.0.value()).map_err(damaged)?;
            let partitions = log::stream(&streams, &stream)?.map_or(0, |s| s.partitions);
            for index in 0..partitions {
                let partition = Partition {
                    stream: stream.clone(),
                    index,
                };
                let Some(log) = self.log(&partition)? else {
                    continue;
                };
                for entry in groups.range((log.key, "")..(log.key + 1, ""))? {
                    let name = Name::new(entry?.0.value().1).map_err(damaged)?;
                    let partition = partition.clone();
                    found.push(Group { partition, name });
                }
            }
        }
        Ok(Ok(found))
    }

    fn log<'b>(&'b self, partition: &'b Partition) -> Result<Option<Log<'b, Batches>>, Fail> {
        let stream = log::stream(&self.txn.open_table(STREAMS)?, &partition.stream)?;
        let key = stream.and_then(|stream| stream.partition(partition.index));
        Ok(key.map(|key| Log {
            batches: &self.batches,
            key,
            partition,
        }))
    }

    fn bounds(&self, log: &Log<'_, Batches>) -> Result<Range<u64>, Fail> {
        let starts = self.txn.open_table(STARTS)?;
        let start = ReadableTable::get(&starts, log.key)?.map_or(0, |start| start.value());
        Ok(start..log.newest()?.map_or(0, |head| head.end()))
    }

    fn group(&self, key: u64, name: &Name) -> Result<Option<GroupRow>, Fail> {
        log::group(&self.txn.open_table(GROUPS)?, key, name)
    }
}

fn damaged(error: Error) -> Fail {
    Fail::Damaged(format!("a name ({error})"))
}
