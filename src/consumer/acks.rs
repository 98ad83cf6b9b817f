//! What became of the messages that were handed out: the book of one lease.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::retries::Retries;
use super::trust::Trusts;
use super::warnings::{Warning, Warnings};
use crate::error::{Error, Result};
use crate::ranges::{Progress, Ranges};
use crate::storage::Verdicts;

/// How long a message waits once more whose transaction is open when it is due.
const PUT_OFF: Duration = Duration::from_millis(50);

/// Verdicts, and what of them is not written yet.
#[derive(Debug)]
pub(super) struct Acks {
    /// All that is done, written or not.
    progress: Progress,
    /// Done and to be written.
    pending: Ranges,
    /// Whether some of it is being written now.
    writing: bool,
    /// Let go of without a verdict.
    dropped: Ranges,
    /// How many ever were.
    times_dropped: u64,
    retries: Retries,
    warnings: Warnings,
    /// In the hands of transactions of the application.
    trusts: Trusts,
    /// Handles that are gone, whatever became of them.
    finished: u64,
    /// Those who wait for the next write.
    round: Option<Arc<Round>>,
}

impl Acks {
    pub(super) fn new(progress: Progress, attempts: &[(u64, u32)]) -> Self {
        Self {
            progress,
            pending: Ranges::new(),
            writing: false,
            dropped: Ranges::new(),
            times_dropped: 0,
            retries: Retries::new(attempts),
            warnings: Warnings::default(),
            trusts: Trusts::default(),
            finished: 0,
            round: None,
        }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn retries(&self) -> &Retries {
        &self.retries
    }

    pub(super) fn retries_mut(&mut self) -> &mut Retries {
        &mut self.retries
    }

    pub(super) fn trusts(&mut self) -> &mut Trusts {
        &mut self.trusts
    }

    pub(super) fn finished(&self) -> u64 {
        self.finished
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.retries.has_raised()
    }

    /// Whether the storage does not know yet of all that is done.
    pub(super) fn is_ahead(&self) -> bool {
        self.writing || self.has_pending()
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.round.is_some()
    }

    /// A verdict on the very next message while nothing stands in the book that it could touch: the
    /// usual `ack`, of which nobody has to be told. Whether it was that.
    #[inline]
    pub(super) fn done_next(&mut self, offset: u64) -> bool {
        let is_usual = offset == self.progress.position()
            && self.progress.acked().is_empty()
            && self.dropped.is_empty()
            && self.retries.is_empty()
            && self.trusts.is_empty()
            && !self.trusts.has_lost();
        if is_usual {
            self.pending.insert(offset..offset + 1);
            self.progress.insert(offset..offset + 1);
            self.finish();
        }
        is_usual
    }

    /// A verdict, still to be written.
    pub(super) fn done(&mut self, offsets: Range<u64>) {
        if offsets.end.saturating_sub(offsets.start) == 1 {
            // What is done already is written, or pending.
            if self.written(offsets.clone()) {
                self.pending.insert(offsets);
            }
            return;
        }
        let new = offsets.start.max(self.progress.position())..offsets.end;
        for gap in self.progress.acked().gaps(new) {
            self.pending.insert(gap);
        }
        self.written(offsets);
    }

    /// A verdict on all before this offset, but for what is scheduled to come again.
    pub(super) fn done_through(&mut self, end: u64) {
        let scheduled = self.retries.scheduled().range(..end);
        let spared: Ranges = scheduled.map(|at| *at..*at + 1).collect();
        spared
            .gaps(0..end)
            .into_iter()
            .for_each(|gap| self.done(gap));
    }

    /// To come again at this time. Whether it is: one that is done is not.
    pub(super) fn retry(&mut self, offset: u64, due: Duration) -> bool {
        let is_left = !self.progress.is_done(offset);
        if is_left {
            self.retries.schedule(offset, due);
        }
        is_left
    }

    /// Takes what is due to come again; not what is in the hands of a transaction, which will be over.
    pub(super) fn take_due(&mut self, now: Duration) -> Ranges {
        let mut due = self.retries.take_due(now);
        for offset in self.trusts.among(&due) {
            due.remove(offset..offset + 1);
            self.retries.put_off(offset, now.saturating_add(PUT_OFF));
        }
        due
    }

    /// Takes what is to be moved away; not what is in the hands of a transaction.
    pub(super) fn take_exhausted(&mut self) -> Ranges {
        self.retries
            .take_exhausted(|offset| self.trusts.has(offset))
    }

    /// One that comes again is handed out, unless it is done.
    pub(super) fn hand_out_again(&mut self, offset: u64) -> bool {
        self.retries.hand_out(offset);
        !self.progress.is_done(offset)
    }

    /// A verdict that is durable already. Whether any of it is new.
    pub(super) fn written(&mut self, offsets: Range<u64>) -> bool {
        if !self.dropped.is_empty() {
            self.dropped.remove(offsets.clone());
        }
        self.retries.done(offsets.clone());
        self.trusts.done(offsets.clone());
        self.progress.insert(offsets)
    }

    /// What is durable, as the storage says.
    pub(super) fn learn(&mut self, durable: &Progress) {
        self.written(0..durable.position());
        for range in durable.acked().iter() {
            self.written(range);
        }
    }

    /// No verdict.
    pub(super) fn dropped(&mut self, offset: u64) {
        if !self.progress.is_done(offset) {
            self.dropped.insert(offset..offset + 1);
            self.times_dropped += 1;
        }
    }

    /// A handle is gone.
    pub(super) fn finish(&mut self) {
        self.finished += 1;
    }

    /// Whether something beyond a dropped message is done, so that it holds the position up; or a
    /// transaction has left one undone.
    pub(super) fn has_hole(&self) -> bool {
        if self.trusts.has_lost() {
            return true;
        }
        match (
            self.dropped.iter().next(),
            self.progress.acked().iter().next_back(),
        ) {
            (Some(dropped), Some(acked)) => dropped.start < acked.start,
            _ => false,
        }
    }

    /// What there is to say after a change.
    pub(super) fn warning(&mut self, has_hole: bool) -> Option<Warning> {
        let ranges = self.progress.acked().len();
        let retries = self.retries.scheduled().len();
        let forgotten = has_hole.then(|| self.forgotten()).flatten();
        self.warnings.look(ranges, retries, forgotten)
    }

    /// The first message that was dropped and is not done, and how many were dropped ever.
    fn forgotten(&self) -> Option<(u64, u64)> {
        let first = self.dropped.iter().next()?;
        Some((first.start, self.times_dropped))
    }

    /// Takes the messages that hold the position up, to be delivered again.
    pub(super) fn take_holes(&mut self) -> Ranges {
        let mut holes = Ranges::new();
        if let Some(last) = self.progress.acked().iter().next_back() {
            holes = self.dropped.clone();
            holes.remove(last.start..u64::MAX);
        }
        for hole in holes.iter() {
            self.dropped.remove(hole);
        }
        holes.union(&self.trusts.take_lost());
        for offset in holes.iter().flatten() {
            self.retries.begin_again(offset);
        }
        holes
    }

    /// What to write now, and who waits for it.
    pub(super) fn take(&mut self) -> (Verdicts, Option<Arc<Round>>) {
        self.writing = self.has_pending();
        let verdicts = Verdicts {
            done: std::mem::take(&mut self.pending),
            attempts: self.retries.take_raised(),
        };
        (verdicts, self.round.take())
    }

    /// The write of what was taken has succeeded.
    pub(super) fn wrote(&mut self) {
        self.writing = false;
    }

    /// A write failed: what was in it goes with the next.
    pub(super) fn put_back(&mut self, verdicts: &Verdicts) {
        self.writing = false;
        self.pending.union(&verdicts.done);
        self.retries.put_back(&verdicts.attempts);
    }

    /// The write that what is pending now will be part of.
    pub(super) fn next_round(&mut self) -> Arc<Round> {
        self.round.get_or_insert_with(Arc::default).clone()
    }
}

/// One write of commits, and all who wait for it.
#[derive(Debug, Default)]
pub(crate) struct Round {
    result: OnceLock<Result<()>>,
    waiting: Mutex<Vec<Waker>>,
}

impl Round {
    pub(super) fn complete(&self, result: Result<()>) {
        // A round is completed once; a second result would be about another write.
        let _ = self.result.set(result);
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }

    /// The outcome. `slot` is the place of the waker between polls.
    pub(crate) fn poll(&self, slot: &mut Option<usize>, cx: &Context<'_>) -> Poll<Result<()>> {
        if let Some(result) = self.outcome() {
            return Poll::Ready(result);
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Registered first, then looked at again: `complete` sets before it wakes.
        match *slot {
            Some(at) if at < waiting.len() => waiting[at].clone_from(cx.waker()),
            _ => {
                *slot = Some(waiting.len());
                waiting.push(cx.waker().clone());
            }
        }
        drop(waiting);
        self.outcome().map_or(Poll::Pending, Poll::Ready)
    }

    fn outcome(&self) -> Option<Result<()>> {
        Some(match self.result.get()? {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::share(error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_a_dropped_message_with_done_ones_beyond() {
        let mut acks = Acks::new(Progress::at(10), &[]);
        acks.dropped(11);
        assert!(!acks.has_hole());
        acks.done(10..11);
        assert!(!acks.has_hole(), "nothing beyond is done");
        acks.dropped(14);
        acks.done(12..13);
        assert!(acks.has_hole());
        assert_eq!(acks.take_holes(), Ranges::from(11..12));
        assert!(!acks.has_hole() && acks.take_holes().is_empty());
        acks.dropped(11);
        acks.done(0..20);
        assert!(!acks.has_hole(), "committed through");
        assert_eq!(acks.progress(), &Progress::at(20));
        acks.dropped(3);
        assert!(acks.dropped.is_empty(), "done before it was dropped");
    }

    #[test]
    fn only_what_was_not_done_is_written() {
        let mut acks = Acks::new(Progress::at(3), &[]);
        acks.done(0..2);
        assert!(!acks.is_ahead());
        acks.done(0..5);
        assert_eq!(acks.take().0, Verdicts::from(3..5));
        assert!(acks.is_ahead());
        acks.wrote();
        assert!(!acks.is_ahead());
        acks.done(8..9);
        acks.done(8..9);
        acks.done(6..10);
        assert_eq!(acks.take().0, Verdicts::from(6..10));
        acks.done(8..9);
        assert_eq!(acks.take().0, Verdicts::default());
    }

    #[test]
    fn the_short_way_is_for_the_next_message_of_a_book_with_nothing_else_in_it() {
        let mut acks = Acks::new(Progress::at(0), &[]);
        assert!(acks.done_next(0) && acks.done_next(1));
        assert_eq!((acks.progress(), acks.finished()), (&Progress::at(2), 2));
        assert!(!acks.done_next(0) && !acks.done_next(3), "not the next");
        acks.done(3..4);
        assert!(!acks.done_next(2), "one beyond is done");
        acks.done(2..3);
        acks.dropped(5);
        assert!(!acks.done_next(4), "one was dropped");
        acks.done(4..6);
        assert!(acks.retry(7, Duration::ZERO) && !acks.done_next(6));
        assert_eq!(acks.take().0.done, Ranges::from(0..6));
        assert_eq!((acks.progress(), acks.finished()), (&Progress::at(6), 2));
    }

    #[test]
    fn what_failed_goes_with_the_next_write() {
        let mut acks = Acks::new(Progress::at(0), &[]);
        acks.done(0..1);
        let (first, nobody) = acks.take();
        assert!(nobody.is_none());
        acks.done(1..2);
        acks.put_back(&first);
        assert_eq!(acks.take().0, Verdicts::from(0..2));
        assert!(!acks.has_pending());
    }

    #[test]
    fn what_is_scheduled_is_spared_until_it_is_handed_out() {
        let mut acks = Acks::new(Progress::at(0), &[(2, 4)]);
        assert!(acks.retry(2, Duration::ZERO));
        acks.done_through(5);
        let mut verdicts: Ranges = Ranges::from(0..2);
        verdicts.insert(3..5);
        let attempts = vec![(2, 5)];
        let done = verdicts;
        assert_eq!(acks.take().0, Verdicts { done, attempts });
        assert_eq!(acks.progress().position(), 2);
        assert!(!acks.has_hole(), "nobody forgot it");
        assert!(acks.hand_out_again(2));
        acks.done_through(5);
        assert_eq!(acks.progress(), &Progress::at(5));
        assert!(!acks.hand_out_again(2) && !acks.retry(2, Duration::ZERO));
        assert_eq!(acks.take().0, Verdicts::from(2..3));
    }

    #[test]
    fn a_hole_that_comes_again_is_counted() {
        let mut acks = Acks::new(Progress::at(0), &[]);
        acks.dropped(0);
        acks.done(1..2);
        assert_eq!(acks.forgotten(), Some((0, 1)));
        assert_eq!(acks.take_holes(), Ranges::from(0..1));
        assert_eq!(acks.retries().begun(0..9), [(0, 1)]);
        assert_eq!(acks.take().0.attempts, [(0, 1)]);
    }

    #[test]
    fn what_stands_in_a_transaction_does_not_come_when_it_is_due() {
        let mut acks = Acks::new(Progress::at(0), &[]);
        acks.retry(5, Duration::ZERO);
        acks.trusts().put(5, Some(1));
        assert!(acks.take_due(Duration::ZERO).is_empty());
        assert!(acks.take_due(PUT_OFF).is_empty(), "it is still open");
        acks.trusts().take_back(5);
        assert!(acks.take_due(PUT_OFF).is_empty(), "a while later");
        assert_eq!(acks.take_due(PUT_OFF * 2), Ranges::from(5..6));
    }
}
