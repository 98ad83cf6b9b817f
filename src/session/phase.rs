//! How far a session is.

use crate::sync::atomic::{AtomicU8, Ordering};

/// How far a session is: it only goes on, and may leave steps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Messages are handed out.
    Live,
    /// Nothing new is handed out; the handles that are there may still speak.
    Draining,
    /// The committer writes what was said, and ends.
    Closing,
    /// The lease has ended: nothing that is said counts any more.
    Ended,
}

/// The phase of a session, which all who have a part in it read.
///
/// It is advanced with release and read with acquire, so whoever sees a phase sees all that was written
/// before it. That alone would not do for a drain, which must not miss the last verdict: it advances the
/// phase, and then looks into the ledger, under its lock; whoever gives a verdict writes it there, under
/// the lock, and then looks at the phase. Whichever has the lock later sees what the other one did.
#[derive(Debug)]
pub(super) struct PhaseCell(AtomicU8);

impl PhaseCell {
    pub(super) const fn new() -> Self {
        Self(AtomicU8::new(Phase::Live as u8))
    }

    #[inline]
    pub(super) fn get(&self) -> Phase {
        // Acquire: what was written before the phase is seen with it.
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Live,
            1 => Phase::Draining,
            2 => Phase::Closing,
            _ => Phase::Ended,
        }
    }

    /// Goes on to this phase; one that is behind it already stays.
    pub(super) fn advance(&self, to: Phase) {
        // Release: for those who see it. The greatest stays, whoever comes first.
        self.0.fetch_max(to as u8, Ordering::Release);
    }
}
