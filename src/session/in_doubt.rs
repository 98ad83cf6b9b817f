//! Batches whose outcome is not known.

use std::sync::Arc;

use super::Session;
use crate::storage::{Id, Partition};

/// What is known of an attempt to append a batch that may be in the log: where to look for it.
///
/// Dropped before somebody has found out, it ends the leases whose commits ride in it: their messages are
/// delivered again, so a write that lands late must not be accepted, and only a new epoch sees to that.
#[derive(Debug)]
pub(crate) struct InDoubt {
    /// The append that the batch was part of.
    pub(crate) id: Id,
    /// The partitions of that append, one a row.
    pub(crate) partitions: Arc<[Partition]>,
    /// Where the batch stands in these rows.
    pub(crate) spans: Vec<Span>,
    /// The leases whose commits ride in it.
    pub(crate) sessions: Vec<Arc<Session>>,
}

/// Messages that stand together in one row of an append.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// The row, counted from 0.
    pub(crate) row: usize,
    /// How many messages of the row come before.
    pub(crate) start: u32,
    /// How many messages these are.
    pub(crate) len: u32,
}

impl InDoubt {
    /// Somebody has found out: the leases go on.
    pub(crate) fn resolve(&mut self) {
        self.sessions.clear();
    }
}

impl Drop for InDoubt {
    fn drop(&mut self) {
        for session in &self.sessions {
            session.give_up();
        }
    }
}
