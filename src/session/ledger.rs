//! What became of the messages that were handed out, of one lease.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::dropped::{Dropped, Look, Others, Patience};
use super::open_transactions::OpenTransactions;
use super::retries::Retries;
use super::round::Round;
use super::warnings::{Warning, Warnings};
use crate::ranges::{Progress, Ranges};
use crate::storage::Verdicts;

/// How long a message waits once more whose transaction is open when it is due.
const PUT_OFF: Duration = Duration::from_millis(50);

/// What a commit says of the messages before its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Nothing.
    This,
    /// That they are done as well.
    Through,
}

/// Verdicts, and what of them is not written yet.
#[derive(Debug)]
pub(super) struct Ledger {
    /// All that is done, written or not.
    progress: Progress,
    /// As it was when the lease began: the position, and how many are done beyond it.
    began_with: (u64, u64),
    /// Done and to be written.
    pending: Ranges,
    /// Whether some of it is being written now.
    writing: bool,
    /// All before this one is done, as the storage has said.
    durable_position: u64,
    /// Let go of without a verdict.
    dropped: Dropped,
    retries: Retries,
    warnings: Warnings,
    /// In the hands of transactions of the application.
    transactions: OpenTransactions,
    /// Handles that are gone, whatever became of them.
    finished: u64,
    /// Those who wait for the next write.
    round: Option<Arc<Round>>,
}

impl Ledger {
    pub(super) fn new(progress: Progress, attempts: &[(u64, u32)]) -> Self {
        Self {
            durable_position: progress.position(),
            began_with: (progress.position(), progress.acked().count()),
            progress,
            pending: Ranges::new(),
            writing: false,
            dropped: Dropped::default(),
            retries: Retries::new(attempts),
            warnings: Warnings::default(),
            transactions: OpenTransactions::default(),
            finished: 0,
            round: None,
        }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn durable_position(&self) -> u64 {
        self.durable_position
    }

    pub(super) fn retries(&self) -> &Retries {
        &self.retries
    }

    pub(super) fn retries_mut(&mut self) -> &mut Retries {
        &mut self.retries
    }

    pub(super) fn transactions(&mut self) -> &mut OpenTransactions {
        &mut self.transactions
    }

    pub(super) fn finished(&self) -> u64 {
        self.finished
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.retries.has_raised()
    }

    /// Whether no verdict was ever given.
    pub(super) fn is_silent(&self) -> bool {
        let now = (self.progress.position(), self.progress.acked().count());
        now == self.began_with
            && self.retries.scheduled().is_empty()
            && self.transactions.is_empty()
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
            && self.transactions.is_empty()
            && !self.transactions.has_lost();
        if is_usual {
            self.pending.insert(offset..offset + 1);
            self.progress.insert(offset..offset + 1);
            self.finished += 1;
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

    /// A commit of the message at this offset, to this extent.
    pub(super) fn commit(&mut self, offset: u64, extent: Extent) {
        match extent {
            Extent::Through => self.done_through(offset + 1),
            Extent::This => self.done(offset..offset + 1),
        }
    }

    /// A verdict on all before this offset, but for what is scheduled to come again.
    fn done_through(&mut self, end: u64) {
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
        for offset in self.transactions.among(&due) {
            due.remove(offset..offset + 1);
            self.retries.put_off(offset, now.saturating_add(PUT_OFF));
        }
        due
    }

    /// Takes what is to be moved away; not what is in the hands of a transaction.
    pub(super) fn take_exhausted(&mut self) -> Ranges {
        self.retries
            .take_exhausted(|offset| self.transactions.has(offset))
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
        self.transactions.done(offsets.clone());
        self.progress.insert(offsets)
    }

    /// What is durable, as the storage says.
    pub(super) fn learn(&mut self, durable: &Progress) {
        self.durable_position = self.durable_position.max(durable.position());
        self.written(0..durable.position());
        for range in durable.acked().iter() {
            self.written(range);
        }
    }

    /// No verdict.
    pub(super) fn let_go(&mut self, offset: u64) {
        if !self.progress.is_done(offset) {
            self.dropped.insert(offset);
        }
    }

    /// The handle of this message is gone.
    pub(super) fn finish(&mut self, offset: u64) {
        self.finished += 1;
        if !self.dropped.is_empty() {
            self.dropped.handle_went(offset);
        }
    }

    /// Whether something is to come again because it was dropped, or a transaction has left it undone.
    pub(super) fn has_dropped(&self) -> bool {
        !self.dropped.is_empty() || self.transactions.has_lost()
    }

    /// What of it is due, and when to look again.
    pub(super) fn look_at_dropped(
        &mut self,
        now: Duration,
        handed_out_to: u64,
        patience: Patience,
    ) -> Look {
        let others = Others {
            held: self.greatest_held(handed_out_to),
            done: self.last_done(),
            lost: self.transactions.lost().clone(),
        };
        self.dropped.look(now, &others, patience)
    }

    /// The greatest offset below `end` that somebody has in hand: of what was handed out, what is
    /// neither done nor dropped nor waits to come again.
    fn greatest_held(&self, mut end: u64) -> Option<u64> {
        while end > self.progress.position() {
            let offset = end - 1;
            let (acked, dropped) = (self.progress.acked(), self.dropped.offsets());
            let gone = acked
                .containing(offset)
                .or_else(|| dropped.containing(offset));
            match gone {
                Some(range) => end = range.start,
                None if self.is_out_of_hand(offset) => end = offset,
                None => return Some(offset),
            }
        }
        None
    }

    /// The first offset below `end` that somebody has in hand.
    pub(super) fn first_held(&self, end: u64) -> Option<u64> {
        let mut offset = self.progress.position();
        while offset < end {
            let (acked, dropped) = (self.progress.acked(), self.dropped.offsets());
            let gone = acked
                .containing(offset)
                .or_else(|| dropped.containing(offset));
            match gone {
                Some(range) => offset = range.end,
                None if self.is_out_of_hand(offset) => offset += 1,
                None => return Some(offset),
            }
        }
        None
    }

    /// The first that was dropped, if it waits for one behind it that somebody has in hand; and that one.
    pub(super) fn waits_for_held(&self, handed_out_to: u64) -> Option<(u64, u64)> {
        let first = self.dropped.offsets().iter().next()?.start;
        let held = self.greatest_held(handed_out_to)?;
        let is_passed = self.last_done().is_some_and(|done| first < done);
        (first < held && !is_passed).then_some((first, held))
    }

    fn is_out_of_hand(&self, offset: u64) -> bool {
        self.retries.scheduled().contains(&offset) || self.transactions.is_let_go(offset)
    }

    /// Where the last range of what is done beyond the position begins.
    fn last_done(&self) -> Option<u64> {
        let last = self.progress.acked().iter().next_back()?;
        Some(last.start)
    }

    /// What there is to say after a change: of what was dropped only what something behind is done of.
    pub(super) fn warning(&mut self) -> Option<Warning> {
        let first = self.dropped.offsets().iter().next();
        let passed = first.filter(|first| self.last_done().is_some_and(|done| first.start < done));
        self.warn(passed.map(|first| first.start))
    }

    /// What there is to say when these come again.
    pub(super) fn warning_of(&mut self, due: &Ranges) -> Option<Warning> {
        let first = self.dropped.offsets().intersection(due).iter().next()?;
        self.warn(Some(first.start))
    }

    fn warn(&mut self, forgotten: Option<u64>) -> Option<Warning> {
        let ranges = self.progress.acked().len();
        let retries = self.retries.scheduled().len();
        let forgotten = forgotten.map(|offset| (offset, self.dropped.times()));
        self.warnings.look(ranges, retries, forgotten)
    }

    /// Takes those of `due` that nobody has done meanwhile, to be delivered again.
    pub(super) fn take_dropped(&mut self, due: &Ranges) -> Ranges {
        let mut again = self.dropped.take(due);
        again.union(&self.transactions.take_lost(due));
        for offset in again.iter().flatten() {
            self.retries.begin_again(offset);
        }
        again
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

    /// The write of what was taken has succeeded, and the storage says that all before this offset
    /// is done.
    pub(super) fn wrote(&mut self, position: u64) {
        self.writing = false;
        self.durable_position = self.durable_position.max(position);
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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        hole: Duration::ZERO,
        longest: Duration::MAX,
    };

    /// What comes again at once, of what was handed out up to an offset.
    fn holes(ledger: &mut Ledger, handed_out_to: u64) -> Ranges {
        let look = ledger.look_at_dropped(Duration::ZERO, handed_out_to, PATIENCE);
        look.due
    }

    #[test]
    fn a_hole_is_a_dropped_message_with_done_ones_beyond() {
        let mut ledger = Ledger::new(Progress::at(10), &[]);
        ledger.let_go(11);
        ledger.done(10..11);
        assert_eq!(holes(&mut ledger, 14), Ranges::new(), "12 and 13 are held");
        ledger.let_go(14);
        ledger.done(12..13);
        assert_eq!(holes(&mut ledger, 16), Ranges::from(11..12), "15 is held");
        let due = Ranges::from(11..12);
        assert_eq!(ledger.take_dropped(&due), due);
        assert_eq!(ledger.take_dropped(&due), Ranges::new());
        ledger.let_go(11);
        ledger.done(0..20);
        assert!(!ledger.has_dropped(), "committed through");
        assert_eq!(ledger.progress(), &Progress::at(20));
        ledger.let_go(3);
        assert!(!ledger.has_dropped(), "done before it was dropped");
    }

    #[test]
    fn what_nobody_has_in_hand_is_a_hole() {
        let mut ledger = Ledger::new(Progress::at(0), &[]);
        ledger.let_go(1);
        assert_eq!(holes(&mut ledger, 4), Ranges::new(), "2 and 3 are held");
        ledger.let_go(3);
        assert_eq!(holes(&mut ledger, 4), Ranges::from(3..4), "2 is held");
        ledger.retry(2, Duration::ZERO);
        let mut all = Ranges::from(1..2);
        all.insert(3..4);
        assert_eq!(holes(&mut ledger, 4), all);
        ledger.transactions().join(4, Some(1));
        assert_eq!(holes(&mut ledger, 5), Ranges::new(), "4 is held");
        ledger.transactions().let_go(4);
        assert_eq!(
            holes(&mut ledger, 5),
            all,
            "its transaction decides about it"
        );
    }

    #[test]
    fn only_what_was_not_done_is_written() {
        let mut ledger = Ledger::new(Progress::at(3), &[]);
        ledger.done(0..2);
        assert!(!ledger.is_ahead());
        ledger.done(0..5);
        assert_eq!(ledger.take().0, Verdicts::from(3..5));
        assert!(ledger.is_ahead());
        ledger.wrote(5);
        assert!(!ledger.is_ahead());
        ledger.done(8..9);
        ledger.done(8..9);
        ledger.done(6..10);
        assert_eq!(ledger.take().0, Verdicts::from(6..10));
        ledger.done(8..9);
        assert_eq!(ledger.take().0, Verdicts::default());
    }

    #[test]
    fn the_short_way_is_for_the_next_message_of_a_book_with_nothing_else_in_it() {
        let mut ledger = Ledger::new(Progress::at(0), &[]);
        assert!(ledger.done_next(0) && ledger.done_next(1));
        assert_eq!(
            (ledger.progress(), ledger.finished()),
            (&Progress::at(2), 2)
        );
        assert!(!ledger.done_next(0) && !ledger.done_next(3), "not the next");
        ledger.done(3..4);
        assert!(!ledger.done_next(2), "one beyond is done");
        ledger.done(2..3);
        ledger.let_go(5);
        assert!(!ledger.done_next(4), "one was dropped");
        ledger.done(4..6);
        assert!(ledger.retry(7, Duration::ZERO) && !ledger.done_next(6));
        assert_eq!(ledger.take().0.done, Ranges::from(0..6));
        assert_eq!(
            (ledger.progress(), ledger.finished()),
            (&Progress::at(6), 2)
        );
    }

    #[test]
    fn what_failed_goes_with_the_next_write() {
        let mut ledger = Ledger::new(Progress::at(0), &[]);
        ledger.done(0..1);
        let (first, nobody) = ledger.take();
        assert!(nobody.is_none());
        ledger.done(1..2);
        ledger.put_back(&first);
        assert_eq!(ledger.take().0, Verdicts::from(0..2));
        assert!(!ledger.has_pending());
    }

    #[test]
    fn what_is_scheduled_is_spared_until_it_is_handed_out() {
        let mut ledger = Ledger::new(Progress::at(0), &[(2, 4)]);
        assert!(ledger.retry(2, Duration::ZERO));
        ledger.done_through(5);
        let mut verdicts: Ranges = Ranges::from(0..2);
        verdicts.insert(3..5);
        let attempts = vec![(2, 5)];
        let done = verdicts;
        assert_eq!(ledger.take().0, Verdicts { done, attempts });
        assert_eq!(ledger.progress().position(), 2);
        assert!(!ledger.has_dropped(), "nobody forgot it");
        assert!(ledger.hand_out_again(2));
        ledger.done_through(5);
        assert_eq!(ledger.progress(), &Progress::at(5));
        assert!(!ledger.hand_out_again(2) && !ledger.retry(2, Duration::ZERO));
        assert_eq!(ledger.take().0, Verdicts::from(2..3));
    }

    #[test]
    fn a_hole_that_comes_again_is_counted() {
        let mut ledger = Ledger::new(Progress::at(0), &[]);
        ledger.let_go(0);
        ledger.done(1..2);
        let (offset, dropped) = (0, 1);
        assert_eq!(
            ledger.warning(),
            Some(Warning::Forgotten { offset, dropped })
        );
        let due = Ranges::from(0..1);
        assert_eq!(ledger.take_dropped(&due), due);
        assert_eq!(ledger.retries().begun(0..9), [(0, 1)]);
        assert_eq!(ledger.take().0.attempts, [(0, 1)]);
    }

    #[test]
    fn what_stands_in_a_transaction_does_not_come_when_it_is_due() {
        let mut ledger = Ledger::new(Progress::at(0), &[]);
        ledger.retry(5, Duration::ZERO);
        ledger.transactions().join(5, Some(1));
        assert!(ledger.take_due(Duration::ZERO).is_empty());
        assert!(ledger.take_due(PUT_OFF).is_empty(), "it is still open");
        ledger.transactions().leave(5);
        assert!(ledger.take_due(PUT_OFF).is_empty(), "a while later");
        assert_eq!(ledger.take_due(PUT_OFF * 2), Ranges::from(5..6));
    }
}
