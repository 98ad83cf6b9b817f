//! Whether a partition is paused.

use super::warnings::MAX_BEYOND;
use crate::sync::atomic::{AtomicU8, Ordering};

/// Why nothing new of a partition is handed out, though the consumer has the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pause {
    /// About 1,000 ranges of messages are done beyond one that is not, which is as many as a group keeps.
    /// It goes on once the first of those that are not done are: some are held, or were dropped, or wait
    /// to be retried.
    AckedRanges,
    /// About 1,000 messages wait to be delivered again ([`retry_after`](crate::Commit::retry_after)). It
    /// goes on once some have come.
    Retries,
}

/// Whether so much is done beyond the position, or waits to be retried, that nothing new is handed out. It
/// is written under the lock of the ledger, and read without.
///
/// All is relaxed: nothing else is read because of it. Whoever misses the last change hands one more
/// message out, or looks once more.
#[derive(Debug, Default)]
pub(super) struct Pausing(AtomicU8);

/// A partition is paused, for another reason than before, or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) before: Option<Pause>,
    pub(super) now: Option<Pause>,
}

impl Pausing {
    #[inline]
    pub(super) fn is_paused(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    pub(super) fn get(&self) -> Option<Pause> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Pause::AckedRanges),
            _ => Some(Pause::Retries),
        }
    }

    /// Whether this much makes it pause; given if that has changed.
    pub(super) fn weigh(&self, ranges: usize, retries: usize) -> Option<Change> {
        let now = match (ranges >= MAX_BEYOND, retries >= MAX_BEYOND) {
            (true, _) => Some(Pause::AckedRanges),
            (false, true) => Some(Pause::Retries),
            (false, false) => None,
        };
        let before = self.get();
        if before == now {
            return None;
        }
        let code = now.map_or(0, |why| match why {
            Pause::AckedRanges => 1,
            Pause::Retries => 2,
        });
        self.0.store(code, Ordering::Relaxed);
        Some(Change { before, now })
    }
}
