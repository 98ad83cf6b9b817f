//! Lists as arrays, one a column: what a statement takes of any number of rows.

use super::columns::Columns;
use super::value::Value;
use crate::storage::{Append, Partition};

/// The names and numbers of partitions.
pub(super) fn partition_arrays(
    partitions: impl Iterator<Item = Partition>,
) -> (Vec<String>, Vec<i32>) {
    partitions
        .map(|partition| (partition.stream.as_str().to_owned(), partition.index as i32))
        .unzip()
}

/// The columns of each row of an append.
pub(super) fn columns_of(append: &Append) -> Vec<Columns> {
    let rows = append.rows.iter();
    rows.map(|row| Columns::of(&row.records)).collect()
}

/// The columns of any number of rows, each as an array.
pub(super) struct RowArrays<'a> {
    counts: Vec<i32>,
    ends: Vec<Option<&'a [u8]>>,
    bodies: Vec<Option<&'a [u8]>>,
    attribute_ends: Vec<Option<&'a [u8]>>,
    attributes: Vec<Option<&'a [u8]>>,
}

impl<'a> RowArrays<'a> {
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
