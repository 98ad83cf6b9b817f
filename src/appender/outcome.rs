//! What became of a batch: said to whoever handed it in, and to the commits that it carried.

use std::sync::Arc;

use super::request::{AppendRequest, AppendedRow};
use crate::session::Span;
use crate::storage::{Partition, Storage};

impl AppendRequest {
    /// The batch in doubt was written: says so.
    pub(super) fn resolve_written(mut self, bases: &[u64], storage: &Arc<dyn Storage>) {
        let Some(mut in_doubt) = self.batch.in_doubt.take() else {
            return;
        };
        in_doubt.resolve();
        let rows = rows(&in_doubt.partitions, &in_doubt.spans, bases);
        finish(self, true, rows, storage);
    }

    /// The batch in doubt was not written, and never will be under that id.
    pub(super) fn resolve_absent(&mut self) {
        if let Some(mut in_doubt) = self.batch.in_doubt.take() {
            in_doubt.resolve();
        }
    }
}

/// Where these messages are, if the rows of their append begin at these offsets.
pub(super) fn rows(partitions: &[Partition], spans: &[Span], bases: &[u64]) -> Vec<AppendedRow> {
    spans
        .iter()
        .filter_map(|span| {
            let partition = partitions.get(span.row)?;
            let start = bases.get(span.row)? + u64::from(span.start);
            Some(AppendedRow {
                stream: partition.stream.clone(),
                partition: partition.index,
                offsets: start..start + u64::from(span.len),
            })
        })
        .collect()
}

/// A request is written, or nothing is left of it to write.
pub(super) fn finish(
    mut request: AppendRequest,
    carries_commits: bool,
    rows: Vec<AppendedRow>,
    storage: &Arc<dyn Storage>,
) {
    if carries_commits {
        for message in &mut request.batch.messages {
            for commit in message.take_commits() {
                commit.carried(storage);
            }
        }
    }
    request.written(rows);
}
