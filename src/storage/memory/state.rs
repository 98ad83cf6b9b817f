//! What is stored, and how much of it: all that is under the lock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::SystemTime;

use super::log::{Batch, Log, batch_size};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::shared::groups::StoredGroup;
use crate::storage::shared::ids::{Ids, Outcome};
use crate::storage::shared::refusals::{NEIGHBOURS, missing, no_group};
use crate::storage::shared::{groups, refusals};
use crate::storage::{
    Append, Appended, Group, GroupState, Id, Lease, Liveness, Name, Partition, Reset,
    StreamSettings,
};

/// The streams, and the ids of the last appends.
pub(super) struct MemoryState {
    /// What all batches may take together.
    pub(super) max_bytes: usize,
    /// What they take.
    bytes: usize,
    /// The number of batches appended so far.
    sequence: u64,
    /// The log of each partition of each stream.
    streams: HashMap<Name, Vec<Log>>,
    ids: Ids,
}

impl MemoryState {
    /// No stream, and room for so many bytes.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            bytes: 0,
            sequence: 0,
            streams: HashMap::new(),
            ids: Ids::default(),
        }
    }

    /// Makes a stream unless it is there, and gives its settings.
    pub(super) fn create_stream(
        &mut self,
        stream: &Name,
        wanted: Option<u32>,
    ) -> Result<StreamSettings> {
        let logs = match self.streams.get(stream) {
            Some(logs) => logs,
            None => {
                let partitions = groups::partitions(stream, wanted)?;
                let logs = (0..partitions).map(|_| Log::default()).collect();
                self.streams.entry(stream.clone()).or_insert(logs)
            }
        };
        Ok(StreamSettings::new(logs.len() as u32))
    }

    /// The log of a partition.
    pub(super) fn log(&mut self, partition: &Partition) -> Result<&mut Log> {
        if self.find(partition).is_none() {
            return Err(self.missing(partition));
        }
        let log = self.find(partition);
        log.ok_or_else(|| missing(partition, None, std::iter::empty()))
    }

    /// The log of a partition, if it is there: looked for once, which `log` cannot.
    fn find(&mut self, partition: &Partition) -> Option<&mut Log> {
        let logs = self.streams.get_mut(&partition.stream)?;
        logs.get_mut(partition.index as usize)
    }

    /// What is wrong with a partition that is not there.
    #[cold]
    fn missing(&self, partition: &Partition) -> Error {
        let partitions = self.streams.get(&partition.stream);
        let partitions = partitions.map(|logs| logs.len() as u32);
        let names = self.streams.keys().take(2 * NEIGHBOURS).map(Name::as_str);
        missing(partition, partitions, names)
    }

    /// The group, if the lease is still this one.
    pub(super) fn held(&mut self, lease: &Lease) -> Option<&mut StoredGroup> {
        let log = self.log(&lease.group.partition).ok()?;
        let group = log.groups.get_mut(&lease.group.name)?;
        group.holds(lease).then_some(group)
    }

    /// Appends rows to their logs, and takes the commits that go along.
    pub(super) fn append(&mut self, append: &Append, wall: SystemTime) -> Result<Appended> {
        match self.ids.get(append.id) {
            Some(Outcome::Written(bases)) => return Ok(Appended::Known(bases.clone())),
            Some(Outcome::Refused) => return Ok(Appended::Refused),
            None => {}
        }
        if append
            .after
            .is_some_and(|after| !self.ids.is_written(after))
        {
            return Ok(Appended::Early);
        }
        let commits = append.commits.iter().enumerate();
        let lost = commits.filter(|(_, (lease, _))| self.held(lease).is_none());
        let lost: Vec<usize> = lost.map(|(index, _)| index).collect();
        if !lost.is_empty() {
            return Ok(Appended::Fenced(lost));
        }
        for row in &append.rows {
            if self.find(&row.partition).is_none() {
                return Err(self.missing(&row.partition));
            }
        }
        self.commit_and_make_room(append)?;
        let mut rows = Vec::with_capacity(append.rows.len());
        for row in &append.rows {
            let sequence = self.sequence;
            let Some(log) = self.find(&row.partition) else {
                return Err(self.missing(&row.partition));
            };
            rows.push(log.append(row.records.clone(), sequence, wall));
            self.bytes += batch_size(&row.records);
            self.sequence += 1;
        }
        debug_assert!(self.bytes <= self.max_bytes, "room was made for all rows");
        let bases = rows.iter().map(|row| row.base_offset).collect();
        self.ids.insert(append.id, Outcome::Written(bases));
        Ok(Appended::Written(rows))
    }

    /// Takes the commits of an append, and makes room for its rows. The commits come first, because what
    /// they do may free that room.
    fn commit_and_make_room(&mut self, append: &Append) -> Result<()> {
        let rows = append.rows.iter();
        let needed = rows.map(|row| batch_size(&row.records)).sum::<usize>();
        let full = self.bytes + needed > self.max_bytes;
        let mut before = Vec::new();
        for (lease, done) in &append.commits {
            if let Some(group) = self.held(lease) {
                if full {
                    before.push((&lease.group, group.clone()));
                }
                group.advance(done);
            }
        }
        if !full {
            return Ok(());
        }
        self.make_room(needed).inspect_err(|_| {
            for (group, before) in before.drain(..) {
                self.restore(group, before);
            }
        })
    }

    /// Puts a group back to what it was before.
    fn restore(&mut self, group: &Group, before: StoredGroup) {
        if let Ok(log) = self.log(&group.partition) {
            log.groups.insert(group.name.clone(), before);
        }
    }

    /// Drops the oldest batches that every group has done, of all partitions; none if that would
    /// not be enough.
    fn make_room(&mut self, needed: usize) -> Result<()> {
        if needed > self.max_bytes {
            return Err(Error::invalid(format!(
                "an append of {needed} bytes does not fit into a memory storage of {} bytes: \
                 append less at once, or give the storage more (Options::memory_bytes)",
                self.max_bytes
            )));
        }
        let over = self.bytes + needed - self.max_bytes;
        // A sixteenth more, so that one search serves many appends.
        let wanted = over + self.max_bytes / 16;
        let mut logs: Vec<&mut Log> = self.streams.values_mut().flatten().collect();
        let mut done: Vec<_> = logs
            .iter()
            .map(|log| {
                let position = log.slowest().map_or(u64::MAX, |(_, position)| position);
                log.until(position).peekable()
            })
            .collect();
        let mut oldest: BinaryHeap<_> = done
            .iter_mut()
            .enumerate()
            .filter_map(|(at, batches)| Some(Reverse((batches.peek()?.sequence, at))))
            .collect();
        let mut dropped = vec![0; done.len()];
        let mut freed = 0;
        while freed < wanted
            && let Some(Reverse((_, at))) = oldest.pop()
        {
            freed += done[at].next().map_or(0, |batch| batch.size());
            dropped[at] += 1;
            if let Some(batch) = done[at].peek() {
                oldest.push(Reverse((batch.sequence, at)));
            }
        }
        drop(done);
        if freed < over {
            return Err(self.full(needed));
        }
        for (log, count) in logs.iter_mut().zip(dropped) {
            let taken = log.take_oldest(count);
            self.bytes -= taken.iter().map(Batch::size).sum::<usize>();
        }
        debug_assert!(self.bytes + needed <= self.max_bytes, "enough was freed");
        Ok(())
    }

    /// What an append is told that finds no room: which group is behind.
    fn full(&self, needed: usize) -> Error {
        let logs = self.streams.iter().flat_map(|(stream, logs)| {
            let logs = logs.iter().enumerate();
            logs.map(move |(index, log)| (stream, index, log))
        });
        let behind = logs.filter_map(|(stream, index, log)| {
            let (name, position) = log.slowest()?;
            let waiting = log.bounds().end.saturating_sub(position);
            Some((waiting, format!("group {name} of {stream}/{index}")))
        });
        let behind = behind.max_by_key(|(waiting, _)| *waiting);
        let (waiting, group) = behind.unwrap_or_else(|| (0, "a group".to_owned()));
        let text = format!(
            "the memory storage is full ({} of {} bytes, {needed} more wanted): {group} holds the {waiting} \
             that it has not done; consume it, trim its stream, or give the storage more \
             (Options::memory_bytes)",
            self.bytes, self.max_bytes
        );
        Error::new(ErrorKind::Unavailable, text)
    }

    /// Where an append went, or `None`; then it is refused from now on.
    pub(super) fn settle(&mut self, id: Id) -> Result<Option<Vec<u64>>> {
        match self.ids.get(id) {
            Some(Outcome::Written(bases)) => Ok(Some(bases.clone())),
            Some(Outcome::Refused) => Ok(None),
            None if self.ids.may_have_forgotten(id) => Err(refusals::forgotten(id)),
            None => {
                self.ids.insert(id, Outcome::Refused);
                Ok(None)
            }
        }
    }

    /// The groups of this stream, or of all, in the order of their names.
    pub(super) fn groups(&self, stream: Option<&Name>) -> Vec<Group> {
        let streams = self.streams.iter();
        let streams = streams.filter(|(name, _)| stream.is_none_or(|stream| stream == *name));
        let mut streams: Vec<(&Name, &Vec<Log>)> = streams.collect();
        streams.sort_unstable_by_key(|(name, _)| *name);
        let partitions = streams.into_iter().flat_map(|(stream, logs)| {
            let partition = |index| Partition {
                stream: stream.clone(),
                index,
            };
            (0..).map(partition).zip(logs)
        });
        let groups = partitions.flat_map(|(partition, log)| {
            let mut names: Vec<&Name> = log.groups.keys().collect();
            names.sort_unstable();
            let group = move |name: &Name| Group {
                partition: partition.clone(),
                name: name.clone(),
            };
            names.into_iter().map(group)
        });
        groups.collect()
    }

    /// Takes the lease of a group away, moves its position where that is asked for, and says how it
    /// stands then.
    pub(super) fn reset(&mut self, reset: &Reset) -> Result<GroupState> {
        let Reset { group, to, .. } = reset;
        let log = self.log(&group.partition)?;
        let (bounds, to) = (log.bounds(), to.map(|to| log.position_at(to)).transpose()?);
        let stored = log.groups.get_mut(&group.name);
        let stored = stored.ok_or_else(|| no_group(group))?;
        if stored.owner.is_some() && !reset.is_forced {
            return Err(refusals::active(group));
        }
        stored.reset(to);
        Ok(stored.state(Liveness::Unknown, bounds))
    }

    /// Drops batches before an offset: where the log starts then, and what is to be freed outside of
    /// the lock.
    pub(super) fn trim(&mut self, partition: &Partition, before: u64) -> Result<(u64, Vec<Batch>)> {
        let log = self.log(partition)?;
        let count = log.until(before).count();
        let taken = log.take_oldest(count);
        let start = log.bounds().start;
        self.bytes -= taken.iter().map(Batch::size).sum::<usize>();
        Ok((start, taken))
    }
}
