//! Streams and what is in them.

use std::ops::Range;
use std::sync::Arc;

use super::arrays::partition_arrays;
use super::columns::{Reader, damaged, nonsense, not_understood};
use super::executor::Executor;
use super::in_flight::InFlight;
use super::pieces::{Pieces, slices};
use super::tracker::TransactionTracker;
use super::value::{Value, as_bigint};
use crate::error::{Error, Result};
use crate::storage::shared::groups;
use crate::storage::shared::refusals::{NEIGHBOURS, missing, no_partition};
use crate::storage::{Fetched, Name, Partition, Read, StreamSettings};

/// The log of a storage.
pub(super) struct Log {
    executor: Arc<Executor>,
    in_flight: InFlight,
    tracker: Arc<TransactionTracker>,
    /// How large the pieces are in which the rows go that trimming left.
    sweeps: Pieces,
}

impl Log {
    pub(super) fn new(
        executor: Arc<Executor>,
        in_flight: InFlight,
        tracker: Arc<TransactionTracker>,
    ) -> Self {
        Self {
            executor,
            in_flight,
            tracker,
            sweeps: Pieces::default(),
        }
    }

    /// Makes a stream, unless it is there; how many partitions it has.
    pub(super) async fn create_stream(
        &self,
        stream: &Name,
        wanted: Option<u32>,
    ) -> Result<StreamSettings> {
        // What is not allowed matters only if the stream is not there.
        let allowed = groups::partitions(stream, wanted);
        let partitions = allowed.as_ref().ok().map(|partitions| *partitions as i32);
        let values = [Value::Text(stream.as_str()), Value::OptionalInt(partitions)];
        let executor = &self.executor;
        let (aside, sql) = (&executor.pools.aside, &executor.sql.create_stream);
        let rows = executor.run(aside, sql, &values).await?;
        let row = rows.first().ok_or_else(not_understood)?;
        match Reader::new(row).int()? {
            Some(partitions) => {
                let there = u32::try_from(partitions).map_err(|_| nonsense())?;
                // Whoever uses the stream makes something for each.
                groups::partitions(stream, Some(there))
                    .map_err(|_| nonsense().about(format!("the stream {stream}")))?;
                Ok(StreamSettings::new(there))
            }
            None => Err(allowed.err().unwrap_or_else(not_understood)),
        }
    }

    /// Reads the batches from an offset on.
    pub(super) async fn read(&self, read: &Read) -> Result<Fetched> {
        let bytes = i64::try_from(read.max_bytes).unwrap_or(i64::MAX);
        let values = [
            Value::Text(read.partition.stream.as_str()),
            Value::Int(read.partition.index as i32),
            Value::Bigint(as_bigint(read.from)),
            Value::Bigint(bytes),
            Value::OptionalText(read.group.as_ref().map(Name::as_str)),
        ];
        let executor = &self.executor;
        let rows = executor
            .run(&executor.pools.log, &executor.sql.read, &values)
            .await?;
        let Some(first) = rows.first() else {
            return Err(missing_partition(executor, &read.partition).await);
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

    /// Where the logs of these partitions start and end: what polls come here for.
    pub(super) async fn bounds(&self, partitions: &[Partition]) -> Result<Vec<Range<u64>>> {
        let executor = &self.executor;
        let (aside, sql) = (&executor.pools.aside, &executor.sql.bounds);
        self.tracker.move_now_and_then();
        let mut all = vec![None; partitions.len()];
        for (partitions, all) in slices(partitions, &mut all) {
            let (streams, indexes) = partition_arrays(partitions.iter().cloned());
            let values = [Value::Texts(&streams), Value::Ints(&indexes)];
            for row in &executor.run(aside, sql, &values).await? {
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
            return Err(missing_partition(executor, partition).await);
        }
        Ok(all.into_iter().flatten().collect())
    }

    /// Moves the start of a log, and deletes what lies before it.
    pub(super) async fn trim(&self, partition: &Partition, before: u64) -> Result<u64> {
        let values = [
            Value::Text(partition.stream.as_str()),
            Value::Int(partition.index as i32),
            Value::Bigint(as_bigint(before)),
        ];
        let executor = &self.executor;
        let rows = executor
            .run(&executor.pools.log, &executor.sql.trim, &values)
            .await?;
        let row = rows.first().ok_or_else(not_understood)?;
        let start = Reader::new(row).bigint()?;
        let Some(start) = start else {
            return Err(missing_partition(executor, partition).await);
        };
        if let Err(error) = self.sweep(partition).await {
            // The log starts where it has to. The next trim takes away what is left.
            tracing::warn!(%error, %partition, "what was trimmed still takes space");
        }
        Ok(start as u64)
    }

    /// Deletes what lies before the start of a log, piece by piece.
    async fn sweep(&self, partition: &Partition) -> Result<()> {
        let (executor, in_flight) = (&self.executor, &self.in_flight);
        let sweeping = (&executor.pools.log, &executor.sql.sweep);
        loop {
            let values = [
                Value::Text(partition.stream.as_str()),
                Value::Int(partition.index as i32),
            ];
            let rows = self.sweeps.run(executor, in_flight, sweeping, &values);
            let rows = rows.await?;
            let row = rows.first().ok_or_else(not_understood)?;
            if !Reader::new(row).bool()? {
                return Ok(());
            }
        }
    }
}

/// What is wrong with a partition that is not there.
pub(super) async fn missing_partition(executor: &Arc<Executor>, partition: &Partition) -> Error {
    let stream = partition.stream.as_str();
    let values = [Value::Text(stream), Value::Int(NEIGHBOURS as i32)];
    let (aside, sql) = (&executor.pools.aside, &executor.sql.streams_near);
    let near = executor.run(aside, sql, &values).await;
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
