//! The log of a partition, and its groups.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::SystemTime;

use crate::clock::{from_micros, to_micros};
use crate::error::Result;
use crate::storage::shared::groups::{StoredGroup, position_at};
use crate::storage::{Name, Records, Start, StoredBatch, WrittenRow};

/// The batches of a partition and its groups.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Oldest first, without gaps between them.
    batches: VecDeque<Batch>,
    /// The offset of the next message.
    next: u64,
    /// When it was last appended to, in microseconds since the epoch; never goes back.
    last_append: i64,
    pub(super) groups: HashMap<Name, StoredGroup>,
}

/// A batch as it is kept.
#[derive(Debug)]
pub(super) struct Batch {
    base: u64,
    /// In microseconds since the epoch.
    appended_at: i64,
    /// Its place among the appends to all partitions.
    pub(super) sequence: u64,
    records: Records,
}

impl Batch {
    /// The offset behind its last message.
    fn end(&self) -> u64 {
        self.base + u64::from(self.records.len())
    }

    /// What it takes in memory.
    pub(super) fn size(&self) -> usize {
        batch_size(&self.records)
    }
}

impl Log {
    /// Where the log starts and ends.
    pub(super) fn bounds(&self) -> Range<u64> {
        self.batches.front().map_or(self.next, |batch| batch.base)..self.next
    }

    /// Appends a batch; `sequence` is its place among the appends to all partitions.
    pub(super) fn append(
        &mut self,
        records: Records,
        sequence: u64,
        wall: SystemTime,
    ) -> WrittenRow {
        self.last_append = self.last_append.max(to_micros(wall));
        let batch = Batch {
            base: self.next,
            appended_at: self.last_append,
            sequence,
            records,
        };
        let written = WrittenRow {
            base_offset: batch.base,
            appended_at: from_micros(batch.appended_at),
        };
        debug_assert!(batch.end() > batch.base, "a batch has a message");
        debug_assert!(
            self.batches.back().is_none_or(|last| {
                last.end() == batch.base
                    && last.sequence < sequence
                    && last.appended_at <= batch.appended_at
            }),
            "a log has no gaps, and goes on in time"
        );
        self.next = batch.end();
        self.batches.push_back(batch);
        written
    }

    /// The batches from the one that has the offset `from` on, until they reach `max_bytes`.
    pub(super) fn read(&self, from: u64, max_bytes: usize) -> Vec<StoredBatch> {
        let first = self.batches.partition_point(|batch| batch.end() <= from);
        let mut room = max_bytes.max(1);
        let batches = self.batches.range(first..).map_while(|batch| {
            if room == 0 {
                return None;
            }
            room = room.saturating_sub(batch.records.size());
            Some(StoredBatch {
                base_offset: batch.base,
                appended_at: from_micros(batch.appended_at),
                records: batch.records.clone(),
            })
        });
        batches.collect()
    }

    /// Makes a group unless it is there.
    pub(super) fn create_group(&mut self, name: &Name, start: Start) -> Result<()> {
        if self.groups.contains_key(name) {
            return Ok(());
        }
        let position = self.position_at(start)?;
        self.groups.insert(name.clone(), StoredGroup::at(position));
        Ok(())
    }

    /// The position of a group that begins there.
    pub(super) fn position_at(&self, start: Start) -> Result<u64> {
        position_at(start, &self.bounds(), |micros| {
            let since = |batch: &Batch| batch.appended_at < micros;
            let at = self.batches.partition_point(since);
            Ok(self.batches.get(at).map(|batch| batch.base))
        })
    }

    /// The batches that end at or before the offset, oldest first.
    pub(super) fn until(&self, before: u64) -> impl Iterator<Item = &Batch> {
        self.batches.iter().take_while(move |b| b.end() <= before)
    }

    /// Takes so many of the oldest batches out.
    pub(super) fn take_oldest(&mut self, count: usize) -> Vec<Batch> {
        debug_assert!(count <= self.batches.len(), "it has so many");
        self.batches.drain(..count).collect()
    }

    /// The group that is the furthest behind, and its position.
    pub(super) fn slowest(&self) -> Option<(&Name, u64)> {
        let groups = self.groups.iter();
        let positions = groups.map(|(name, group)| (name, group.progress.position()));
        positions.min_by_key(|(_, position)| *position)
    }
}

/// What a batch of these messages takes in memory: the messages, and what is kept beside them.
pub(super) fn batch_size(records: &Records) -> usize {
    const ALLOCATION: usize = 64;
    records.size() + size_of::<Batch>() + ALLOCATION
}
