//! Streams and what is in them.

use std::ops::Range;
use std::sync::Arc;

use super::append::arrays;
use super::columns::{Reader, damaged, nonsense, not_understood};
use super::core::Core;
use super::piece::MOST_ROWS;
use super::value::Value;
use crate::error::{Error, Result};
use crate::storage::group::{self, NEIGHBOURS, missing, no_partition};
use crate::storage::{Fetched, Name, Partition, Read, StreamSettings};

/// As the server counts.
pub(super) fn as_bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What is asked, and where its answers go: as much as goes into one statement.
pub(super) fn slices<'a, Q, A>(
    asked: &'a [Q],
    answers: &'a mut [A],
) -> impl Iterator<Item = (&'a [Q], &'a mut [A])> {
    asked.chunks(MOST_ROWS).zip(answers.chunks_mut(MOST_ROWS))
}

impl Core {
    pub(super) async fn create_stream(
        &self,
        stream: &Name,
        wanted: Option<u32>,
    ) -> Result<StreamSettings> {
        // What is not allowed matters only if the stream is not there.
        let allowed = group::partitions(stream, wanted);
        let partitions = allowed.as_ref().ok().map(|partitions| *partitions as i32);
        let values = [Value::Text(stream.as_str()), Value::OptionalInt(partitions)];
        let rows = self
            .run(&self.aside, &self.sql.create_stream, &values)
            .await?;
        let row = rows.first().ok_or_else(not_understood)?;
        match Reader::new(row).int()? {
            Some(partitions) => {
                let there = u32::try_from(partitions).map_err(|_| nonsense())?;
                // Whoever uses the stream makes something for each.
                group::partitions(stream, Some(there))
                    .map_err(|_| nonsense().about(format!("the stream {stream}")))?;
                Ok(StreamSettings::new(there))
            }
            None => Err(allowed.err().unwrap_or_else(not_understood)),
        }
    }

    pub(super) async fn read(&self, read: &Read) -> Result<Fetched> {
        let bytes = i64::try_from(read.max_bytes).unwrap_or(i64::MAX);
        let values = [
            Value::Text(read.partition.stream.as_str()),
            Value::Int(read.partition.index as i32),
            Value::Bigint(as_bigint(read.from)),
            Value::Bigint(bytes),
            Value::OptionalText(read.group.as_ref().map(Name::as_str)),
        ];
        let rows = self.run(&self.pool, &self.sql.read, &values).await?;
        let Some(first) = rows.first() else {
            return Err(self.missing(&read.partition).await);
        };
        let mut columns = Reader::new(first);
        let (bounds, epoch) = (columns.bounds()?, columns.offset()?);
        let mut batches = Vec::with_capacity(rows.len());
        // Each goes once it is copied.
        for row in rows {
            let mut columns = Reader::new(&row);
            columns.skip(3);
            let batch = columns.batch();
            batches.extend(batch.map_err(|error| error.about(&read.partition))?);
        }
        batches.sort_unstable_by_key(|batch| batch.base_offset);
        let overlap = batches
            .array_windows()
            .find(|[one, next]| next.base_offset < one.offsets().end);
        if let Some([_, next]) = overlap {
            return Err(damaged(as_bigint(next.base_offset)).about(&read.partition));
        }
        Ok(Fetched {
            batches,
            bounds,
            epoch,
        })
    }

    /// What polls come here for.
    pub(super) async fn bounds(
        self: &Arc<Self>,
        partitions: &[Partition],
    ) -> Result<Vec<Range<u64>>> {
        self.move_now_and_then();
        let mut all = vec![None; partitions.len()];
        for (partitions, all) in slices(partitions, &mut all) {
            let (streams, indexes) = arrays(partitions.iter().cloned());
            let values = [Value::Texts(&streams), Value::Ints(&indexes)];
            for row in &self.run(&self.aside, &self.sql.bounds, &values).await? {
                let mut columns = Reader::new(row);
                let place = columns.numbered(all)?;
                *place = Some(columns.bounds()?);
            }
        }
        let missing = all
            .iter()
            .zip(partitions)
            .find(|(there, _)| there.is_none());
        if let Some((_, partition)) = missing {
            return Err(self.missing(partition).await);
        }
        Ok(all.into_iter().flatten().collect())
    }

    /// What is wrong with a partition that is not there.
    pub(super) async fn missing(&self, partition: &Partition) -> Error {
        let stream = partition.stream.as_str();
        let values = [Value::Text(stream), Value::Int(NEIGHBOURS as i32)];
        let near = self.run(&self.aside, &self.sql.streams_near, &values).await;
        let Ok(near) = near else {
            return no_partition(partition);
        };
        let read = |row| {
            let mut columns = Reader::new(row);
            Some((columns.text().ok()?, columns.int().ok()??))
        };
        let near: Vec<(&str, i32)> = near.iter().filter_map(read).collect();
        let there = near.iter().find(|(name, _)| *name == stream);
        let partitions = there.map(|(_, partitions)| partitions.unsigned_abs());
        missing(partition, partitions, near.iter().map(|(name, _)| *name))
    }

    pub(super) async fn trim(&self, partition: &Partition, before: u64) -> Result<u64> {
        let values = [
            Value::Text(partition.stream.as_str()),
            Value::Int(partition.index as i32),
            Value::Bigint(as_bigint(before)),
        ];
        let rows = self.run(&self.pool, &self.sql.trim, &values).await?;
        let row = rows.first().ok_or_else(not_understood)?;
        let start = Reader::new(row).bigint()?;
        let Some(start) = start else {
            return Err(self.missing(partition).await);
        };
        if let Err(error) = self.sweep(partition).await {
            // The log starts where it has to. The next trim takes away what is left.
            tracing::warn!(%error, %partition, "what was trimmed still takes space");
        }
        Ok(start as u64)
    }

    async fn sweep(&self, partition: &Partition) -> Result<()> {
        loop {
            let values = [
                Value::Text(partition.stream.as_str()),
                Value::Int(partition.index as i32),
            ];
            let sweeping = self.run_piece(&self.pool, &self.sql.sweep, &self.sweeps, &values);
            let rows = sweeping.await?;
            let row = rows.first().ok_or_else(not_understood)?;
            if !Reader::new(row).bool()? {
                return Ok(());
            }
        }
    }
}
