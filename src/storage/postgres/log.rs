//! Streams and what is in them.

use std::ops::Range;

use super::append::arrays;
use super::columns::{Reader, damaged, nonsense, not_understood};
use super::core::Core;
use super::value::Value;
use crate::error::Result;
use crate::storage::group::{self, no_partition};
use crate::storage::{Fetched, Name, Partition, Read, StreamSettings};

/// How many batches of a trimmed log go in one statement.
const SWEEP: i32 = 1_000;

/// As the server counts.
pub(super) fn as_bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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
            .run(&self.pool, &self.sql.create_stream, &values)
            .await?;
        let row = rows.first().ok_or_else(not_understood)?;
        match Reader::new(row).int()? {
            Some(partitions) => {
                let there = u32::try_from(partitions).map_err(|_| nonsense())?;
                // Whoever uses the stream makes something for each.
                group::partitions(stream, Some(there)).map_err(|_| nonsense())?;
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
            return Err(no_partition(&read.partition));
        };
        let mut columns = Reader::new(first);
        let (bounds, epoch) = (columns.bounds()?, columns.offset()?);
        let mut batches = Vec::with_capacity(rows.len());
        // Each goes once it is copied.
        for row in rows {
            let mut columns = Reader::new(&row);
            columns.skip(3);
            batches.extend(columns.batch()?);
        }
        batches.sort_unstable_by_key(|batch| batch.base_offset);
        let overlap = batches
            .array_windows()
            .find(|[one, next]| next.base_offset < one.offsets().end);
        if let Some([_, next]) = overlap {
            return Err(damaged(as_bigint(next.base_offset)));
        }
        Ok(Fetched {
            batches,
            bounds,
            epoch,
        })
    }

    pub(super) async fn bounds(&self, partitions: &[Partition]) -> Result<Vec<Range<u64>>> {
        let (streams, indexes) = arrays(partitions.iter().cloned());
        let values = [Value::Texts(&streams), Value::Ints(&indexes)];
        let rows = self.run(&self.pool, &self.sql.bounds, &values).await?;
        let mut all = vec![None; partitions.len()];
        for row in &rows {
            let mut columns = Reader::new(row);
            let place = columns.numbered(&mut all)?;
            *place = Some(columns.bounds()?);
        }
        let named = all.into_iter().zip(partitions);
        named
            .map(|(bounds, partition)| bounds.ok_or_else(|| no_partition(partition)))
            .collect()
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
        let start = start.ok_or_else(|| no_partition(partition))?;
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
                Value::Int(SWEEP),
            ];
            let rows = self.run(&self.pool, &self.sql.sweep, &values).await?;
            let row = rows.first().ok_or_else(not_understood)?;
            if !Reader::new(row).bool()? {
                return Ok(());
            }
        }
    }
}
