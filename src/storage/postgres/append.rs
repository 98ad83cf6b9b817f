//! Appending, and finding out about appends.

use std::sync::Arc;

use uuid::Uuid;

use super::columns::{Columns, encode_ranges};
use super::core::{Core, Statement};
use super::gate::Pass;
use super::outcome::{Place, appended, read_places, settled};
use super::tell::tell;
use super::value::Value;
use crate::error::Result;
use crate::storage::{Append, Appended, Id, Lease, Notification, Partition, Ranges, Row};

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

/// The names and numbers of partitions, as arrays.
pub(super) fn arrays(partitions: impl Iterator<Item = Partition>) -> (Vec<String>, Vec<i32>) {
    partitions
        .map(|partition| (partition.stream.as_str().to_owned(), partition.index as i32))
        .unzip()
}

/// Any number of rows as arrays, one a column.
pub(super) struct Rows<'a> {
    counts: Vec<i32>,
    ends: Vec<Option<&'a [u8]>>,
    bodies: Vec<Option<&'a [u8]>>,
    attribute_ends: Vec<Option<&'a [u8]>>,
    attributes: Vec<Option<&'a [u8]>>,
}

impl<'a> Rows<'a> {
    pub(super) fn of(rows: &'a [Columns]) -> Self {
        Self {
            counts: rows.iter().map(|row| row.count).collect(),
            ends: rows.iter().map(|row| Some(&row.ends[..])).collect(),
            bodies: rows.iter().map(|row| Some(&row.bodies[..])).collect(),
            attribute_ends: rows.iter().map(Columns::attribute_ends).collect(),
            attributes: rows.iter().map(Columns::attributes).collect(),
        }
    }

    pub(super) fn values(&self) -> [Value<'_>; 5] {
        [
            Value::Ints(&self.counts),
            Value::ByteStrings(&self.ends),
            Value::ByteStrings(&self.bodies),
            Value::ByteStrings(&self.attribute_ends),
            Value::ByteStrings(&self.attributes),
        ]
    }
}

/// The columns of each row.
pub(super) fn columns(append: &Append) -> Vec<Columns> {
    let rows = append.rows.iter();
    rows.map(|row| Columns::of(&row.records)).collect()
}

impl Core {
    pub(super) async fn append(self: &Arc<Self>, append: &Append, pass: &Pass) -> Result<Appended> {
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
            tell(self, pass, ends.collect());
        }
        Ok(answer)
    }

    async fn append_one(&self, append: &Append, row: &Row) -> Result<Vec<Place>> {
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
            if append.after.is_none() && self.may_be_alone(&self.pool, &self.appends_alone) {
                let without_after = &values[..values.len() - 1];
                let places = self.places(&self.sql.append_fast, without_after).await?;
                if !places.is_empty() {
                    return Ok(places);
                }
                self.appends_alone.was_not();
            }
            let places = self.places(&self.sql.append_plain, &values).await?;
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
        self.places(&self.sql.append_one, &values).await
    }

    /// What a statement that appends says, a row each.
    async fn places(&self, sql: &Statement, values: &[Value<'_>]) -> Result<Vec<Place>> {
        let rows = self.run(&self.pool, sql, values).await?;
        read_places(&rows)
    }

    async fn append_many(&self, append: &Append) -> Result<Vec<Place>> {
        let id = Uuid::from_u128(append.id.0);
        let after = append.after.map(|after| Uuid::from_u128(after.0));
        let commits = Commits::of(&append.commits);
        let (streams, partitions) = arrays(append.rows.iter().map(|row| row.partition.clone()));
        let columns = columns(append);
        let rows = Rows::of(&columns);
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
        self.places(&self.sql.append_many, &values).await
    }

    pub(super) async fn settle(
        &self,
        id: Id,
        partitions: &[Partition],
    ) -> Result<Option<Vec<u64>>> {
        let uuid = Uuid::from_u128(id.0);
        let (streams, indexes) = arrays(partitions.iter().cloned());
        let values = [
            Value::Id(uuid),
            Value::Texts(&streams),
            Value::Ints(&indexes),
        ];
        let rows = self.run(&self.pool, &self.sql.settle, &values).await?;
        settled(id, partitions, &read_places(&rows)?)
    }
}
