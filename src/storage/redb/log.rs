//! Looking into the log of a partition, in a snapshot or in the transaction that writes.

use std::ops::Range;

use ::redb::ReadableTable;

use super::error::Fail;
use super::tables::{BatchKey, GroupRow, Head, StreamRow};
use crate::clock::from_micros;
use crate::error::Error;
use crate::storage::shared::refusals;
use crate::storage::shared::refusals::NEIGHBOURS;
use crate::storage::{Name, Partition, StoredBatch};

/// The row of a stream, if it is there.
pub(super) fn stream(
    streams: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &Name,
) -> Result<Option<StreamRow>, Fail> {
    let Some(value) = streams.get(name.as_str())? else {
        return Ok(None);
    };
    let stream = StreamRow::decode(name.as_str(), value.value());
    let damaged = || Fail::Damaged(format!("the entry of stream {name}"));
    stream.ok_or_else(damaged).map(Some)
}

/// What is wrong with a partition that is not there.
#[cold]
pub(super) fn missing(
    streams: &impl ReadableTable<&'static str, &'static [u8]>,
    partition: &Partition,
) -> Result<Error, Fail> {
    let wanted = partition.stream.as_str();
    let there = stream(streams, &partition.stream)?.map(|stream| stream.partitions);
    let before = streams.range::<&str>(..wanted)?.rev().take(NEIGHBOURS);
    let behind = streams.range::<&str>(wanted..)?.take(NEIGHBOURS);
    let mut names = Vec::new();
    for entry in before.chain(behind) {
        names.push(entry?.0.value().to_owned());
    }
    let names = names.iter().map(String::as_str);
    Ok(refusals::missing(partition, there, names))
}

/// One partition, by its key in the file, and its name for errors.
#[derive(Clone, Copy)]
pub(super) struct Log<'a, T> {
    pub(super) batches: &'a T,
    pub(super) key: u64,
    pub(super) partition: &'a Partition,
}

impl<T: ReadableTable<BatchKey, &'static [u8]>> Log<'_, T> {
    /// The last batch that begins at the offset or before it.
    pub(super) fn last_until(&self, offset: u64) -> Result<Option<Head>, Fail> {
        let mut range = self.batches.range((self.key, 0)..=(self.key, offset))?;
        let Some(entry) = range.next_back() else {
            return Ok(None);
        };
        let (key, value) = entry?;
        self.head(key.value(), value.value()).map(Some)
    }

    /// The newest batch, whose end is the next offset.
    pub(super) fn newest(&self) -> Result<Option<Head>, Fail> {
        self.last_until(u64::MAX)
    }

    /// The base of the first batch that was appended at that time or later: a binary search,
    /// because times never go back.
    pub(super) fn appended_since(
        &self,
        bounds: &Range<u64>,
        micros: i64,
    ) -> Result<Option<u64>, Fail> {
        let (mut first, mut last) = (bounds.start, bounds.end);
        while first < last {
            let middle = first + (last - first) / 2;
            let head = self.last_until(middle)?.ok_or_else(|| self.gap(middle))?;
            if head.end() <= middle || head.base < first {
                return Err(self.gap(middle));
            }
            if head.appended_at < micros {
                first = head.end();
            } else {
                last = head.base;
            }
        }
        Ok((first < bounds.end).then_some(first))
    }

    /// The batches from the one that has the offset `from` on, until they reach `max_bytes`; an error
    /// if one within the bounds is missing.
    pub(super) fn read(
        &self,
        bounds: &Range<u64>,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<StoredBatch>, Fail> {
        let mut batches = Vec::new();
        let mut next = from.max(bounds.start);
        if next >= bounds.end {
            return Ok(batches);
        }
        let first = self.last_until(next)?.ok_or_else(|| self.gap(next))?.base;
        let mut bytes = 0;
        for entry in self
            .batches
            .range((self.key, first)..=(self.key, u64::MAX))?
        {
            let (key, value) = entry?;
            let (key, value) = (key.value(), value.value());
            let head = self.head(key, value)?;
            // The first may begin before what is read; after it there is no gap.
            if head.base > next || head.end() <= next {
                return Err(self.gap(next));
            }
            let records = head.messages(key, value);
            let records = records.ok_or_else(|| self.damaged(head.base))?;
            debug_assert_eq!(records.len(), head.count, "a head tells how many follow");
            next = head.end();
            bytes += records.size();
            batches.push(StoredBatch {
                base_offset: head.base,
                appended_at: from_micros(head.appended_at),
                records,
            });
            if bytes >= max_bytes {
                return Ok(batches);
            }
        }
        if next == bounds.end {
            Ok(batches)
        } else {
            Err(self.gap(next))
        }
    }

    fn head(&self, key: BatchKey, value: &[u8]) -> Result<Head, Fail> {
        Head::decode(key, value).ok_or_else(|| self.damaged(key.1))
    }

    fn damaged(&self, base: u64) -> Fail {
        Fail::Damaged(format!("the batch at offset {base} of {}", self.partition))
    }

    fn gap(&self, offset: u64) -> Fail {
        Fail::Damaged(format!(
            "the log of {}, offset {offset} is missing,",
            self.partition
        ))
    }
}

/// The row of a group, if it is there.
pub(super) fn group(
    groups: &impl ReadableTable<(u64, &'static str), &'static [u8]>,
    key: u64,
    name: &Name,
) -> Result<Option<GroupRow>, Fail> {
    let key = (key, name.as_str());
    let Some(value) = groups.get(key)? else {
        return Ok(None);
    };
    let row = GroupRow::decode(key, value.value());
    let damaged = || Fail::Damaged(format!("the state of group {name}"));
    row.ok_or_else(damaged).map(Some)
}
