//! The rows of a group write: one a partition.

use std::collections::{HashMap, HashSet};

use crate::name::Name;
use crate::storage::{Partition, RecordsBuilder, Row};

/// So many are found one after the other, which is quicker than to hash the name of a stream.
const FEW: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Rows {
    all: Vec<Drafted>,
    /// Where each is, once they are more than a few.
    places: HashMap<Name, HashMap<u32, usize>>,
}

/// A row that is not sealed yet.
#[derive(Debug)]
pub(super) struct Drafted {
    pub(super) partition: Partition,
    pub(super) records: RecordsBuilder,
    /// The entry that added to it last, and which of its spans this is.
    last: Option<(usize, usize)>,
}

impl Drafted {
    /// Which of the spans of an entry is in this row, if it has one.
    pub(super) fn span_of(&self, entry: usize) -> Option<usize> {
        let of_it = |(last, place)| (last == entry).then_some(place);
        self.last.and_then(of_it)
    }

    pub(super) fn set_span(&mut self, entry: usize, place: usize) {
        self.last = Some((entry, place));
    }
}

impl Rows {
    /// The row of a partition, which is made if it is not there.
    pub(super) fn at(&mut self, stream: &Name, index: u32) -> usize {
        if let Some(found) = self.find(stream, index) {
            return found;
        }
        let place = self.all.len();
        self.all.push(Drafted {
            partition: Partition {
                stream: stream.clone(),
                index,
            },
            records: RecordsBuilder::default(),
            last: None,
        });
        match place {
            0..FEW => {}
            FEW => (0..=place).for_each(|place| self.note(place)),
            _ => self.note(place),
        }
        place
    }

    fn find(&self, stream: &Name, index: u32) -> Option<usize> {
        if self.all.len() > FEW {
            return self.places.get(stream)?.get(&index).copied();
        }
        self.all
            .iter()
            .position(|row| row.partition.index == index && row.partition.stream == *stream)
    }

    fn note(&mut self, place: usize) {
        let Partition { stream, index } = &self.all[place].partition;
        let of_stream = match self.places.get_mut(stream) {
            Some(of_stream) => of_stream,
            None => self.places.entry(stream.clone()).or_default(),
        };
        of_stream.insert(*index, place);
    }

    pub(super) fn get_mut(&mut self, place: usize) -> &mut Drafted {
        &mut self.all[place]
    }

    pub(super) fn partitions(&self) -> impl ExactSizeIterator<Item = &Partition> {
        self.all.iter().map(|row| &row.partition)
    }

    /// The rows as the storage gets them.
    pub(super) fn seal(self) -> Vec<Row> {
        let rows = self.all.into_iter();
        // A row is made for its first message: there is none without.
        rows.filter_map(|row| {
            let records = row.records.build()?;
            let partition = row.partition;
            Some(Row { partition, records })
        })
        .collect()
    }
}

/// The partitions that something goes to.
#[derive(Debug, Default)]
pub(super) struct Targets {
    by_stream: HashMap<Name, HashSet<u32>>,
}

impl Targets {
    pub(super) fn is_empty(&self) -> bool {
        self.by_stream.is_empty()
    }

    pub(super) fn contains(&self, stream: &Name, index: u32) -> bool {
        let of_stream = self.by_stream.get(stream);
        of_stream.is_some_and(|indexes| indexes.contains(&index))
    }
}

impl<'a> FromIterator<&'a Partition> for Targets {
    fn from_iter<I: IntoIterator<Item = &'a Partition>>(partitions: I) -> Self {
        let mut targets = Self::default();
        for partition in partitions {
            match targets.by_stream.get_mut(&partition.stream) {
                Some(indexes) => indexes.insert(partition.index),
                None => {
                    let indexes = targets.by_stream.entry(partition.stream.clone());
                    indexes.or_default().insert(partition.index)
                }
            };
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_one_row() {
        let mut rows = Rows::default();
        let streams = ["a", "b", "c"].map(|name| Name::new(name).unwrap());
        for _ in 0..2 {
            for (number, place) in (0..30).zip(0..) {
                let stream = &streams[number % 3];
                assert_eq!(rows.at(stream, number as u32 / 3), place);
            }
        }
        assert_eq!(rows.partitions().len(), 30);
        let targets: Targets = rows.partitions().collect();
        assert!(targets.contains(&streams[2], 9) && !targets.contains(&streams[2], 10));
    }
}
