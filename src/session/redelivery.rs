//! The part of a session that is about messages that come again.

use std::ops::Range;
use std::time::Duration;

use super::Session;
use super::dropped::{Look, Patience};
use crate::ranges::Ranges;
use crate::sync::atomic::Ordering;

impl Session {
    /// To come again, later. The count is written soon, by the way.
    pub(crate) fn retry(&self, offset: u64, after: Duration) {
        let due = self.clock().now().saturating_add(after);
        let mut ledger = self.ledger();
        let first = !ledger.has_pending();
        if ledger.retry(offset, due) {
            let retries = ledger.retries_mut();
            // There is no point in waiting with one that is to be moved away.
            let exhausted = retries.exhaust(offset..offset + 1, self.max_attempts());
            match exhausted.is_empty() {
                true => self.signals.due.notify_one(),
                false => self.signals.exhausted.notify_one(),
            }
        }
        self.finish(ledger, offset, first);
    }

    /// One that comes again is handed out, unless it was done in another way.
    pub(crate) fn hand_out_again(&self, offset: u64) -> bool {
        let mut ledger = self.ledger();
        let is_left = ledger.hand_out_again(offset);
        self.update(ledger);
        is_left
    }

    /// Waits until something was dropped. Cancel safe.
    pub(crate) async fn something_dropped(&self) {
        while !self.ledger().has_dropped() {
            self.signals.dropped.notified().await;
        }
    }

    /// What of it is to come again now, and when to look again.
    pub(crate) fn look_at_dropped(&self, patience: Patience) -> Look {
        let now = self.clock().now();
        let handed_out_to = self.handed_out_to();
        let mut ledger = self.ledger();
        let look = ledger.look_at_dropped(now, handed_out_to, patience);
        let waiting = match look.due.is_empty() {
            true => ledger.waits_for_held(handed_out_to),
            false => None,
        };
        drop(ledger);
        if let Some((dropped, held)) = waiting {
            self.tell_of_waiting(dropped, held);
        }
        look
    }

    /// Takes those of `due` that are not done meanwhile, to be delivered again, and counts them.
    pub(crate) fn take_dropped(&self, due: &Ranges) -> Ranges {
        let mut ledger = self.ledger();
        let first = !ledger.has_pending();
        let warning = ledger.warning_of(due);
        let dropped = ledger.take_dropped(due);
        let wake_committer = first && ledger.has_pending();
        drop(ledger);
        self.warn(warning);
        if wake_committer {
            self.signals.work.notify_one();
        }
        dropped
    }

    /// Takes what is due to be delivered again; waits until something is.
    pub(crate) async fn retries(&self) -> Ranges {
        let clock = self.clock();
        loop {
            let (now, next) = (clock.now(), self.ledger().retries().next_due());
            match next {
                Some(due) if due <= now => {
                    let retries = self.ledger().take_due(now);
                    if !retries.is_empty() {
                        return retries;
                    }
                }
                Some(due) => tokio::select! {
                    biased;
                    () = clock.sleep_until(due) => {}
                    () = self.signals.due.notified() => {}
                },
                None => self.signals.due.notified().await,
            }
        }
    }

    /// Keeps back those of `offsets` that were begun too often, to be moved away.
    pub(crate) fn exhaust(&self, offsets: Range<u64>) -> Ranges {
        let mut ledger = self.ledger();
        let exhausted = ledger.retries_mut().exhaust(offsets, self.max_attempts());
        if !exhausted.is_empty() {
            self.update(ledger);
            self.signals.exhausted.notify_one();
        }
        exhausted
    }

    /// Takes what is to be moved away; waits until something is.
    pub(crate) async fn exhausted(&self) -> Ranges {
        loop {
            let exhausted = self.ledger().take_exhausted();
            if !exhausted.is_empty() {
                return exhausted;
            }
            self.signals.exhausted.notified().await;
        }
    }

    /// A handle is made for a message that is moved away.
    pub(crate) fn begin_move(&self) {
        // Release: whoever sees it counted sees what was done before.
        self.handles.moves.fetch_add(1, Ordering::Release);
    }

    /// How often the messages of `offsets` were begun before, those that were.
    pub(crate) fn attempts(&self, offsets: Range<u64>) -> Vec<(u64, u32)> {
        self.ledger().retries().begun(offsets)
    }

    /// Whether the pipeline has nothing to do: it is asleep and holds nothing, and what is left
    /// comes again later. Then it is not stuck.
    pub(crate) fn only_waits(&self) -> bool {
        let ledger = self.ledger();
        let held = self.handles().saturating_sub(ledger.finished());
        !ledger.retries().scheduled().is_empty()
            && held <= ledger.retries().moving() as u64
            && self.holder().is_asleep()
    }
}
