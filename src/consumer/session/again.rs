//! The part of a session that is about messages that come again.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Session;
use crate::consumer::dropped::{Look, Patience};
use crate::ranges::Ranges;

impl Session {
    /// To come again, later. The count is written soon, by the way.
    pub(crate) fn retry(&self, offset: u64, after: Duration) {
        let due = self.flow.clock().now().saturating_add(after);
        let mut acks = self.acks();
        let first = !acks.has_pending();
        if acks.retry(offset, due) {
            let retries = acks.retries_mut();
            // There is no point in waiting with one that is to be moved away.
            let exhausted = retries.exhaust(offset..offset + 1, self.max_attempts);
            match exhausted.is_empty() {
                true => self.due.notify_one(),
                false => self.exhausted.notify_one(),
            }
        }
        self.finish(acks, offset, first);
    }

    /// One that comes again is handed out, unless it was done in another way.
    pub(crate) fn hand_out_again(&self, offset: u64) -> bool {
        let mut acks = self.acks();
        let is_left = acks.hand_out_again(offset);
        self.update(acks);
        is_left
    }

    /// Waits until something was dropped. Cancel safe.
    pub(in crate::consumer) async fn something_dropped(&self) {
        while !self.acks().has_dropped() {
            self.dropped.notified().await;
        }
    }

    /// What of it is to come again now, and when to look again.
    pub(in crate::consumer) fn look_at_dropped(&self, patience: Patience) -> Look {
        let now = self.flow.clock().now();
        let handed_out_to = self.handed_out_to();
        let mut acks = self.acks();
        let look = acks.look_at_dropped(now, handed_out_to, patience);
        let waiting = match look.due.is_empty() {
            true => acks.waits_for_held(handed_out_to),
            false => None,
        };
        drop(acks);
        if let Some((dropped, held)) = waiting {
            self.tell_of_waiting(dropped, held);
        }
        look
    }

    /// Takes those of `due` that are not done meanwhile, to be delivered again, and counts them.
    pub(in crate::consumer) fn take_dropped(&self, due: &Ranges) -> Ranges {
        let mut acks = self.acks();
        let first = !acks.has_pending();
        let warning = acks.warning_of(due);
        let dropped = acks.take_dropped(due);
        let wake_keeper = first && acks.has_pending();
        drop(acks);
        self.warn(warning);
        if wake_keeper {
            self.work.notify_one();
        }
        dropped
    }

    /// Takes what is due to be delivered again; waits until something is.
    pub(in crate::consumer) async fn retries(&self) -> Ranges {
        let clock = self.flow.clock();
        loop {
            let (now, next) = (clock.now(), self.acks().retries().next_due());
            match next {
                Some(due) if due <= now => {
                    let retries = self.acks().take_due(now);
                    if !retries.is_empty() {
                        return retries;
                    }
                }
                Some(due) => tokio::select! {
                    biased;
                    () = clock.sleep_until(due) => {}
                    () = self.due.notified() => {}
                },
                None => self.due.notified().await,
            }
        }
    }

    /// Keeps back those of `offsets` that were begun too often, to be moved away.
    pub(in crate::consumer) fn exhaust(&self, offsets: Range<u64>) -> Ranges {
        let mut acks = self.acks();
        let exhausted = acks.retries_mut().exhaust(offsets, self.max_attempts);
        if !exhausted.is_empty() {
            self.update(acks);
            self.exhausted.notify_one();
        }
        exhausted
    }

    /// Takes what is to be moved away; waits until something is.
    pub(in crate::consumer) async fn exhausted(&self) -> Ranges {
        loop {
            let exhausted = self.acks().take_exhausted();
            if !exhausted.is_empty() {
                return exhausted;
            }
            self.exhausted.notified().await;
        }
    }

    /// A handle is made for a message that is moved away.
    pub(in crate::consumer) fn begin_move(&self) {
        self.moves.fetch_add(1, Ordering::Release);
    }

    /// How often the messages of `offsets` were begun before, those that were.
    pub(in crate::consumer) fn attempts(&self, offsets: Range<u64>) -> Vec<(u64, u32)> {
        self.acks().retries().begun(offsets)
    }

    /// Whether the pipeline has nothing to do: it is asleep and holds nothing, and what is left
    /// comes again later. Then it is not stuck.
    pub(in crate::consumer) fn only_waits(&self) -> bool {
        let acks = self.acks();
        let held = self.handles().saturating_sub(acks.finished());
        !acks.retries().scheduled().is_empty()
            && held <= acks.retries().moving() as u64
            && self.shared.is_asleep()
    }
}
