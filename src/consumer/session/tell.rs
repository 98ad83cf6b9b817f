//! The part of a session that tells how it stands: whether it is paused, and what holds it up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{MAX_BEYOND, Session};
use crate::consumer::control::Pause;
use crate::consumer::warnings::{MANY, Warning};

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// That nothing is said of anything.
    silence: AtomicBool,
    /// Which delivery that is held keeps others waiting: one more than its offset.
    held: AtomicU64,
}

/// A partition is paused, for another reason than before, or goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    before: Option<Pause>,
    now: Option<Pause>,
}

impl Session {
    /// Whether this much makes it pause; told if that has changed. Under the lock of the book.
    pub(super) fn weigh(&self, ranges: usize, retries: usize) -> Option<Change> {
        let now = match (ranges >= MAX_BEYOND, retries >= MAX_BEYOND) {
            (true, _) => Some(Pause::AckedRanges),
            (false, true) => Some(Pause::Retries),
            (false, false) => None,
        };
        let before = self.pause();
        if before == now {
            return None;
        }
        let code = now.map_or(0, |why| match why {
            Pause::AckedRanges => 1,
            Pause::Retries => 2,
        });
        self.paused.store(code, Ordering::Relaxed);
        Some(Change { before, now })
    }

    fn pause(&self) -> Option<Pause> {
        match self.paused.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Pause::AckedRanges),
            _ => Some(Pause::Retries),
        }
    }

    /// Not under the lock: whoever watches the status is woken.
    #[cold]
    pub(super) fn tell_pause(&self, change: Change, held: Option<u64>) {
        let epoch = self.lease.epoch;
        self.shared
            .set_pause(self.partition, epoch, || self.pause());
        let group = &self.lease.group;
        match (change.before, change.now) {
            (None, Some(why)) => {
                tracing::debug!(%group, ?why, held, "paused: nothing new is handed out");
                self.shared.paused();
            }
            (Some(_), None) => {
                tracing::debug!(%group, "goes on");
                self.resumed.notify_one();
                self.shared.resumed();
            }
            _ => {}
        }
    }

    /// Whoever takes a pipeline down drops what it holds: that is not worth a word.
    pub(super) fn warn(&self, warning: Option<Warning>) {
        if let Some(warning) = warning
            && self.is_live()
            && !self.shared.is_stopped()
        {
            warning.tell(&self.lease.group);
        }
    }

    /// Warns, once, where many were handed out and nothing was ever said of any.
    pub(in crate::consumer) fn tell_of_silence(&self) {
        let delivered = self.handed_out.load(Ordering::Acquire);
        if delivered < MANY || !self.acks().is_silent() {
            return;
        }
        if !self.told.silence.swap(true, Ordering::Relaxed) {
            Warning::Silent { delivered }.tell(&self.lease.group);
        }
    }

    /// Warns that the lease is given up, because nobody has polled or said anything for so long.
    pub(in crate::consumer) fn tell_of_standstill(&self, max_processing: Duration) {
        let acks = self.acks();
        let first = acks.first_held(self.handed_out_to());
        let held = self.handles().saturating_sub(acks.finished());
        drop(acks);
        self.warn(Some(Warning::Stuck {
            held,
            first,
            max_processing,
        }));
    }

    /// A message is pending, and the pipeline goes on: what it holds for the longest is what the group
    /// waits for.
    pub(in crate::consumer) fn tell_of_held(&self) {
        let acks = self.acks();
        let first = acks.first_held(self.handed_out_to());
        let held = self.handles().saturating_sub(acks.finished());
        drop(acks);
        if let Some(offset) = first
            && held > 0
        {
            let group = &self.lease.group;
            tracing::debug!(%group, offset, held, "waits for a verdict on a delivery that is held");
        }
    }

    /// Something was dropped, and does not come again as long as this one is held, which is behind it.
    pub(super) fn tell_of_waiting(&self, dropped: u64, offset: u64) {
        if self.told.held.swap(offset + 1, Ordering::Relaxed) != offset + 1 {
            let group = &self.lease.group;
            tracing::debug!(
                %group, offset, dropped,
                "what was dropped comes again once the delivery at this offset, which is held, is done \
                 or dropped, too"
            );
        }
    }
}
