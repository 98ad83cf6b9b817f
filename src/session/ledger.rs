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
    /// It says nothing of the messages before its own.
    This,
    /// It says that all messages before its own are done as well.
    Through,
}

/// Verdicts, and what of them is not written yet.
#[derive(Debug)]
pub(super) struct Ledger {
    /// All that is done, written or not.
    progress: Progress,
    /// How it stood when the lease began: the position, and how many are done beyond it.
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
        let is_done = |range: Range<u64>| self.progress.is_done(range.start);
        debug_assert!(verdicts.done.iter().all(is_done), "written is what is done");
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
mod tests;
