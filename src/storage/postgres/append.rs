//! Appending, and finding out about appends.

use std::sync::Arc;

use uuid::Uuid;

use super::announcer::Announcer;
use super::arrays::{RowArrays, columns_of, partition_arrays};
use super::columns::{Columns, encode_ranges};
use super::executor::Executor;
use super::fast_path::FastPath;
use super::in_flight::InFlightGuard;
use super::outcome::{Place, appended, read_places, settled};
use super::statements::Statement;
use super::value::Value;
use crate::error::Result;
use crate::storage::{Append, Appended, Id, Lease, Notification, Partition, Ranges, Row};

/// Appends, and what became of them.
pub(super) struct Appends {
    executor: Arc<Executor>,
    announcer: Arc<Announcer>,
    /// Of appends of one row: of those that found somebody in their way.
    fast_path: FastPath,
}

impl Appends {
    pub(super) fn new(executor: Arc<Executor>, announcer: Arc<Announcer>) -> Self {
        Self {
            executor,
            announcer,
            fast_path: FastPath::default(),
        }
    }

    /// Appends, and tells of it.
    pub(super) async fn append(&self, append: &Append, guard: &InFlightGuard) -> Result<Appended> {
        let places = match &*append.rows {
            [row] => self.append_one(append, row).await?,
            _ => self.append_many(append).await?,
        };
        let answer = appended(append, &places)?;
        if let Appended::Written(written) = &answer {
            let ends = append.rows.iter().zip(written).map(|(row, written)| {
                let end = written.base_offset + u64::from(row.records.len());
                Notification::Appended(row.partition.clone(), end)
            });
            self.announcer.announce(guard, ends.collect());
        }
        Ok(answer)
    }

    /// One row, with the cheapest statement that may do: the dearer ones say what is the matter.
    async fn append_one(&self, append: &Append, row: &Row) -> Result<Vec<Place>> {
        let sql = &self.executor.sql;
        let id = Value::Id(Uuid::from_u128(append.id.0));
        let after = Value::OptionalId(append.after.map(|after| Uuid::from_u128(after.0)));
        let stream = Value::Text(row.partition.stream.as_str());
        let partition = Value::Int(row.partition.index as i32);
        let columns = Columns::of(&row.records);
        let [count, ends, bodies, attribute_ends, attributes] = [
            Value::Int(columns.count),
            Value::Bytes(Some(&columns.ends)),
            Value::Bytes(Some(&columns.bodies)),
            Value::Bytes(columns.attribute_ends()),
            Value::Bytes(columns.attributes()),
        ];
        if append.commits.is_empty() {
            let values = [
                id,
                stream,
                partition,
                count,
                ends,
                bodies,
                attribute_ends,
                attributes,
                after,
            ];
            if append.after.is_none() && self.may_go_fast() {
                let without_after = &values[..values.len() - 1];
                let places = self.places(&sql.append_fast, without_after).await?;
                if !places.is_empty() {
                    return Ok(places);
                }
                self.fast_path.back_off();
            }
            let places = self.places(&sql.append_plain, &values).await?;
            if !places.is_empty() {
                return Ok(places);
            }
        }
        let commits = Commits::of(&append.commits);
        let [streams, partitions, groups, owners, epochs, done] = commits.values();
        let values = [
            id,
            after,
            stream,
            partition,
            streams,
            partitions,
            groups,
            owners,
            epochs,
            done,
            count,
            ends,
            bodies,
            attribute_ends,
            attributes,
        ];
        self.places(&sql.append_one, &values).await
    }

    /// Whether an append is to try the way without a function.
    fn may_go_fast(&self) -> bool {
        self.executor.has_settings_of_ours(&self.executor.pools.log) && self.fast_path.is_likely()
    }

    /// What a statement that appends says, a row each.
    async fn places(&self, sql: &Statement, values: &[Value<'_>]) -> Result<Vec<Place>> {
        let log = &self.executor.pools.log;
        let rows = self.executor.run(log, sql, values).await?;
        read_places(&rows)
    }

    /// Any number of rows, also none.
    async fn append_many(&self, append: &Append) -> Result<Vec<Place>> {
        let id = Uuid::from_u128(append.id.0);
        let after = append.after.map(|after| Uuid::from_u128(after.0));
        let commits = Commits::of(&append.commits);
        let (streams, partitions) =
            partition_arrays(append.rows.iter().map(|row| row.partition.clone()));
        let columns = columns_of(append);
        let rows = RowArrays::of(&columns);
        let [counts, ends, bodies, attribute_ends, attributes] = rows.values();
        let [c_streams, c_partitions, groups, owners, epochs, done] = commits.values();
        let values = [
            Value::Id(id),
            Value::OptionalId(after),
            Value::Texts(&streams),
            Value::Ints(&partitions),
            c_streams,
            c_partitions,
            groups,
            owners,
            epochs,
            done,
            counts,
            ends,
            bodies,
            attribute_ends,
            attributes,
        ];
        self.places(&self.executor.sql.append_many, &values).await
    }

    /// Finds out what became of an append, and refuses its id from now on where there is nothing of it.
    pub(super) async fn settle(
        &self,
        id: Id,
        partitions: &[Partition],
    ) -> Result<Option<Vec<u64>>> {
        let uuid = Uuid::from_u128(id.0);
        let (streams, indexes) = partition_arrays(partitions.iter().cloned());
        let values = [
            Value::Id(uuid),
            Value::Texts(&streams),
            Value::Ints(&indexes),
        ];
        let places = self.places(&self.executor.sql.settle, &values).await?;
        settled(id, partitions, &places)
    }
}

/// The commits of an append, as arrays.
#[derive(Default)]
struct Commits {
    streams: Vec<String>,
    partitions: Vec<i32>,
    groups: Vec<String>,
    owners: Vec<Uuid>,
    epochs: Vec<i64>,
    done: Vec<String>,
}

impl Commits {
    fn of(commits: &[(Lease, Ranges)]) -> Self {
        let mut arrays = Self::default();
        for (lease, done) in commits {
            let of = &lease.group.partition;
            arrays.streams.push(of.stream.as_str().to_owned());
            arrays.partitions.push(of.index as i32);
            arrays.groups.push(lease.group.name.as_str().to_owned());
            arrays.owners.push(Uuid::from_u128(lease.owner.0));
            arrays.epochs.push(lease.epoch as i64);
            arrays.done.push(encode_ranges(done));
        }
        arrays
    }

    fn values(&self) -> [Value<'_>; 6] {
        [
            Value::Texts(&self.streams),
            Value::Ints(&self.partitions),
            Value::Texts(&self.groups),
            Value::Ids(&self.owners),
            Value::Bigints(&self.epochs),
            Value::Texts(&self.done),
        ]
    }
}
