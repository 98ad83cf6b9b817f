//! Appending, and finding out about appends.

use std::sync::Arc;

use uuid::Uuid;

use super::columns::{Columns, Reader, encode_ranges, not_understood};
use super::core::{Core, Statement};
use super::gate::Pass;
use super::tell::tell;
use super::value::Value;
use crate::clock::from_micros;
use crate::error::Result;
use crate::storage::group::{forgotten, no_partition};
use crate::storage::{
    Append, Appended, Id, Lease, Notification, Partition, Ranges, Row, WrittenRow,
};

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
        let answer = answer(append, &places)?;
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
                let places = self.places(&self.sql.append_alone, without_after).await?;
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
        rows.iter().map(Place::read).collect()
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
        let places = self.run(&self.pool, &self.sql.append_many, &values);
        places.await?.iter().map(Place::read).collect()
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
        let places: Vec<Place> = rows.iter().map(Place::read).collect::<Result<_>>()?;
        match places.first().map(|place| &*place.outcome) {
            Some("refused") => Ok(None),
            Some("forgotten") => Err(forgotten(id)),
            Some("known") if partitions.is_empty() => Ok(Some(Vec::new())),
            Some("known") => {
                let places = in_order(id, &places, partitions.len())?;
                Ok(Some(places.iter().map(|place| place.base).collect()))
            }
            _ => Err(not_understood()),
        }
    }
}

/// What `begin_append` and `settle` of the schema say.
struct Place {
    outcome: String,
    /// Counted from 0.
    number: usize,
    base: u64,
    /// Of a row that is to be written, in microseconds.
    appended_at: Option<i64>,
}

impl Place {
    fn read(row: &sqlx::postgres::PgRow) -> Result<Self> {
        let mut columns = Reader::new(row);
        Ok(Self {
            outcome: columns.text()?.to_owned(),
            number: (columns.int()?.ok_or_else(not_understood)? as usize).saturating_sub(1),
            base: columns.offset()?,
            appended_at: columns.bigint()?,
        })
    }

    fn written(&self) -> Result<WrittenRow> {
        Ok(WrittenRow {
            base_offset: self.base,
            appended_at: from_micros(self.appended_at.ok_or_else(not_understood)?),
        })
    }
}

fn answer(append: &Append, places: &[Place]) -> Result<Appended> {
    let find = |outcome: &str| places.iter().find(|place| place.outcome == outcome);
    if find("fenced").is_some() {
        let mut fenced: Vec<usize> = places.iter().map(|place| place.number).collect();
        fenced.sort_unstable();
        return Ok(Appended::Fenced(fenced));
    }
    if let Some(missing) = find("missing") {
        let row = append.rows.get(missing.number).ok_or_else(not_understood)?;
        return Err(no_partition(&row.partition));
    }
    if find("refused").is_some() {
        return Ok(Appended::Refused);
    }
    if find("early").is_some() {
        return Ok(Appended::Early);
    }
    if find("forgotten").is_some() {
        return Err(forgotten(append.id));
    }
    let is_new = find("new").is_some();
    if !is_new && find("known").is_none() {
        return Err(not_understood());
    }
    let places = match append.rows.len() {
        0 if !places.is_empty() => Vec::new(),
        count => in_order(append.id, places, count)?,
    };
    Ok(if is_new {
        let rows = places.into_iter().map(Place::written);
        Appended::Written(rows.collect::<Result<_>>()?)
    } else {
        Appended::Known(places.iter().map(|place| place.base).collect())
    })
}

/// One a row, in the order of the rows.
fn in_order(id: Id, places: &[Place], count: usize) -> Result<Vec<&Place>> {
    let mut ordered = vec![None; count];
    for place in places {
        *ordered.get_mut(place.number).ok_or_else(not_understood)? = Some(place);
    }
    let ordered: Option<Vec<&Place>> = ordered.into_iter().collect();
    // Some rows of it were trimmed so long ago that they are gone.
    ordered.ok_or_else(|| forgotten(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not understood is no success: a newer schema may say what this code does not know.
    #[test]
    fn an_outcome_that_is_not_known_is_an_error() {
        let append = Append {
            id: Id::random(),
            after: None,
            rows: Vec::new(),
            commits: Vec::new(),
        };
        let place = |outcome: &str| Place {
            outcome: outcome.to_owned(),
            number: 0,
            base: 0,
            appended_at: None,
        };
        assert!(answer(&append, &[place("postponed")]).is_err());
        assert!(answer(&append, &[]).is_err());
        let known = answer(&append, &[place("known")]);
        assert_eq!(known.expect("an answer"), Appended::Known(Vec::new()));
    }
}
