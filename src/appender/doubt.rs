//! Batches whose fate is not known, and those whose fate is.

use std::sync::Arc;

use super::statement::Place;
use super::submission::{AppendedRow, Submission};
use crate::consumer::Session;
use crate::storage::{Id, Partition, Storage};

/// Where to look for a batch whose fate is not known.
#[derive(Debug)]
pub(crate) struct Doubt {
    pub(super) id: Id,
    pub(super) partitions: Arc<[Partition]>,
    pub(super) places: Vec<Place>,
    /// The leases whose commits ride in it.
    pub(super) sessions: Vec<Arc<Session>>,
}

impl Submission {
    /// The batch in doubt was written: says so.
    pub(super) fn confirm(mut self, bases: &[u64], storage: &Arc<dyn Storage>) {
        let Some(mut doubt) = self.batch.doubt.take() else {
            return;
        };
        doubt.sessions.clear();
        let rows = rows(&doubt.partitions, &doubt.places, bases);
        finish(self, true, rows, storage);
    }

    /// The batch in doubt was not written, and never will be under that id.
    pub(super) fn refute(&mut self) {
        if let Some(mut doubt) = self.batch.doubt.take() {
            doubt.sessions.clear();
        }
    }
}

/// Nobody will find out. Messages that were relayed in it are delivered again, so a write that
/// lands late must not be accepted: only the end of their leases sees to that.
impl Drop for Doubt {
    fn drop(&mut self) {
        for session in &self.sessions {
            session.give_up();
        }
    }
}

pub(super) fn rows(partitions: &[Partition], places: &[Place], bases: &[u64]) -> Vec<AppendedRow> {
    places
        .iter()
        .filter_map(|place| {
            let partition = partitions.get(place.row)?;
            let start = bases.get(place.row)? + u64::from(place.start);
            Some(AppendedRow {
                stream: partition.stream.clone(),
                partition: partition.index,
                offsets: start..start + u64::from(place.len),
            })
        })
        .collect()
}

pub(super) fn finish(
    mut submission: Submission,
    has_riders: bool,
    rows: Vec<AppendedRow>,
    storage: &Arc<dyn Storage>,
) {
    if has_riders {
        for message in &mut submission.batch.messages {
            for commit in message.take_commits() {
                commit.rode(storage);
            }
        }
    }
    submission.written(rows);
}
