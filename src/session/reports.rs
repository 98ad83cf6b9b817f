//! The part of a session that says what holds it up.

use std::time::Duration;

use super::Session;
use super::warnings::{MANY, Warning};
use crate::sync::atomic::Ordering;

impl Session {
    /// Warns, once, where many were handed out and nothing was ever said of any.
    pub(crate) fn tell_of_silence(&self) {
        let delivered = self.handed_out();
        if delivered < MANY || !self.ledger().is_silent() {
            return;
        }
        // Relaxed: who comes first says it, and that is all.
        if !self.told.silence.swap(true, Ordering::Relaxed) {
            Warning::Silent { delivered }.tell(&self.lease().group);
        }
    }

    /// Warns that the lease is given up, because nobody has polled or said anything for so long.
    pub(crate) fn tell_of_standstill(&self, max_processing: Duration) {
        let (first, held) = self.held();
        self.warn(Some(Warning::Stuck {
            held,
            first,
            max_processing,
        }));
    }

    /// A message is pending, and the pipeline goes on: what it holds for the longest is what the group
    /// waits for.
    pub(crate) fn tell_of_held(&self) {
        let (first, held) = self.held();
        if let Some(offset) = first
            && held > 0
        {
            let group = &self.lease().group;
            tracing::debug!(%group, offset, held, "waits for a verdict on a delivery that is held");
        }
    }

    /// Something was dropped, and does not come again as long as this one is held, which is behind it.
    pub(super) fn tell_of_waiting(&self, dropped: u64, offset: u64) {
        // Relaxed: who comes first says it, and that is all.
        if self.told.held.swap(offset + 1, Ordering::Relaxed) != offset + 1 {
            let group = &self.lease().group;
            tracing::debug!(
                %group, offset, dropped,
                "what was dropped comes again once the delivery at this offset, which is held, is done \
                 or dropped, too"
            );
        }
    }

    /// The first message that somebody has in hand, and how many handles there are.
    fn held(&self) -> (Option<u64>, u64) {
        let ledger = self.ledger();
        let first = ledger.first_held(self.handed_out_to());
        (first, self.handles().saturating_sub(ledger.finished()))
    }
}
