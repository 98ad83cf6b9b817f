//! The part of a session that takes what is said of deliveries.

use std::sync::Arc;

use super::Session;
use super::ledger::{Extent, Ledger};
use super::pausing::Change;
use super::phase::Phase;
use super::round::Round;
use super::warnings::Warning;
use crate::sync::MutexGuard;

impl Session {
    /// Done: written soon, by the way.
    pub(crate) fn ack(&self, offset: u64) {
        let mut ledger = self.ledger();
        let first = !ledger.has_pending();
        if ledger.done_next(offset) {
            drop(ledger);
            self.finished(first);
        } else {
            ledger.done(offset..offset + 1);
            self.finish(ledger, offset, first);
        }
    }

    /// Done, to this extent: written now, and whoever waits for the round is told.
    pub(crate) fn commit(&self, offset: u64, extent: Extent) -> Arc<Round> {
        let mut ledger = self.ledger();
        // Whoever made the round has woken the committer for it.
        let first = !ledger.is_awaited();
        let round = ledger.next_round();
        ledger.commit(offset, extent);
        let end = self.ended();
        self.finish(ledger, offset, first);
        if let Some(end) = end {
            round.complete(Err(end.error(&self.lease)));
        }
        round
    }

    /// Done, and durable: written together with the message that carried the commit.
    pub(crate) fn carried(&self, offset: u64) {
        let mut ledger = self.ledger();
        ledger.written(offset..offset + 1);
        self.finish(ledger, offset, false);
    }

    /// Let go of without a verdict.
    pub(crate) fn dropped(&self, offset: u64) {
        let mut ledger = self.ledger();
        let is_known = match ledger.transactions().let_go(offset) {
            Some(is_known) => is_known,
            None => {
                ledger.let_go(offset);
                true
            }
        };
        self.finish(ledger, offset, false);
        if !is_known {
            self.give_up();
        }
    }

    pub(super) fn finish(
        &self,
        mut ledger: MutexGuard<'_, Ledger>,
        offset: u64,
        wake_committer: bool,
    ) {
        ledger.finish(offset);
        self.update(ledger);
        self.finished(wake_committer);
    }

    /// A handle is gone, or a transaction over, and that stands in the ledger.
    #[inline]
    pub(super) fn finished(&self, wake_committer: bool) {
        if wake_committer {
            self.signals.work.notify_one();
        }
        if self.phase.get() >= Phase::Draining {
            self.signals.settled.notify_one();
        }
    }

    /// Lets go of the ledger, and tells whoever has to know that it has changed.
    pub(super) fn update(&self, mut ledger: MutexGuard<'_, Ledger>) {
        let has_dropped = ledger.has_dropped();
        let retries = ledger.retries().scheduled().len();
        let change = self.pausing.weigh(ledger.progress().acked().len(), retries);
        let warning = ledger.warning();
        let held = match change {
            Some(_) => ledger.first_held(self.handed_out_to()),
            None => None,
        };
        drop(ledger);
        self.warn(warning);
        if has_dropped {
            self.signals.dropped.notify_one();
        }
        if let Some(change) = change {
            self.tell_pause(change, held);
        }
    }

    /// Tells the holder, and the log, that the partition is paused or goes on. Not under the lock: whoever
    /// watches the status is woken.
    #[cold]
    fn tell_pause(&self, change: Change, held: Option<u64>) {
        let (holder, group) = (self.holder(), &self.lease.group);
        holder.set_pause(self.partition(), self.lease.epoch, &|| self.pausing.get());
        match (change.before, change.now) {
            (None, Some(why)) => {
                tracing::debug!(%group, ?why, held, "paused: nothing new is handed out");
                holder.paused();
            }
            (Some(_), None) => {
                tracing::debug!(%group, "goes on");
                self.signals.resumed.notify_one();
                holder.resumed();
            }
            _ => {}
        }
    }

    /// Whoever takes a pipeline down drops what it holds: that is not worth a word.
    pub(super) fn warn(&self, warning: Option<Warning>) {
        if let Some(warning) = warning
            && self.is_live()
            && !self.holder().is_stopped()
        {
            warning.tell(&self.lease.group);
        }
    }
}
