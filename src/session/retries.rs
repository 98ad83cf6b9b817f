//! Messages that were begun and are not done: how often, and which of them come again, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::ranges::Ranges;

/// So many messages that were dropped are counted. Those that are to be retried always are.
const MAX_COUNTED: usize = 1000;

/// A part of the book of a lease. What is scheduled is a part of what was begun.
#[derive(Debug, Default)]
pub(super) struct Retries {
    /// How often, before the delivery that is out or comes next.
    begun: BTreeMap<u64, u32>,
    /// The messages whose count the storage does not know yet.
    raised: BTreeSet<u64>,
    /// To be delivered again, or to be moved away; not handed out before.
    scheduled: BTreeSet<u64>,
    /// When, for those that are to be delivered again.
    due: BTreeSet<(Duration, u64)>,
    due_at: BTreeMap<u64, Duration>,
    /// The scheduled messages that were begun as often as they may be.
    exhausted: BTreeSet<u64>,
    /// The scheduled messages that are on their way to the dead letters.
    moving: BTreeSet<u64>,
}

impl Retries {
    /// What the storage knows of earlier owners.
    pub(super) fn new(begun: &[(u64, u32)]) -> Self {
        Self {
            begun: begun.iter().copied().collect(),
            ..Self::default()
        }
    }

    /// Whether nothing is known of any message.
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// The messages that are out of everybody's hands: neither done nor held by the pipeline.
    pub(super) fn scheduled(&self) -> &BTreeSet<u64> {
        &self.scheduled
    }

    pub(super) fn moving(&self) -> usize {
        self.moving.len()
    }

    /// How often the messages of `offsets` were begun, those that were.
    pub(super) fn begun(&self, offsets: Range<u64>) -> Vec<(u64, u32)> {
        if offsets.is_empty() {
            return Vec::new();
        }
        let begun = self.begun.range(offsets);
        begun.map(|(offset, times)| (*offset, *times)).collect()
    }

    /// These are done: nothing more is known of them.
    pub(super) fn done(&mut self, offsets: Range<u64>) {
        if self.begun.is_empty() || offsets.is_empty() {
            return;
        }
        if offsets.end - offsets.start == 1 && !self.begun.contains_key(&offsets.start) {
            return;
        }
        let begun = self.begun.extract_if(offsets, |_, _| true);
        let done: Vec<u64> = begun.map(|(offset, _)| offset).collect();
        for offset in done {
            self.raised.remove(&offset);
            self.scheduled.remove(&offset);
            self.not_due(offset);
            self.exhausted.remove(&offset);
            self.moving.remove(&offset);
        }
    }

    /// One that was dropped comes again.
    pub(super) fn begin_again(&mut self, offset: u64) {
        if self.begun.len() < MAX_COUNTED || self.begun.contains_key(&offset) {
            self.count(offset);
        }
    }

    /// To be delivered again at this time.
    pub(super) fn schedule(&mut self, offset: u64, due: Duration) {
        self.count(offset);
        self.scheduled.insert(offset);
        self.put_off(offset, due);
    }

    fn count(&mut self, offset: u64) {
        let times = self.begun.entry(offset).or_default();
        *times = times.saturating_add(1);
        self.raised.insert(offset);
    }

    /// The message comes again not before this time.
    pub(super) fn put_off(&mut self, offset: u64, due: Duration) {
        self.not_due(offset);
        self.due.insert((due, offset));
        self.due_at.insert(offset, due);
    }

    /// The message does not come again by itself any more.
    fn not_due(&mut self, offset: u64) {
        if let Some(due) = self.due_at.remove(&offset) {
            self.due.remove(&(due, offset));
        }
    }

    /// When the next one is to be delivered again.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The messages whose time has come. They stay scheduled until they are handed out.
    pub(super) fn take_due(&mut self, now: Duration) -> Ranges {
        let due = self.due.extract_if(..=(now, u64::MAX), |_| true);
        let offsets: BTreeSet<u64> = due.map(|(_, offset)| offset).collect();
        for offset in &offsets {
            self.due_at.remove(offset);
        }
        ranges(offsets)
    }

    pub(super) fn hand_out(&mut self, offset: u64) {
        self.scheduled.remove(&offset);
    }

    /// Marks those of `offsets` that were begun so often that they are moved away instead of being
    /// delivered again, and gives them.
    pub(super) fn exhaust(&mut self, offsets: Range<u64>, max: u32) -> Ranges {
        if self.begun.is_empty() || offsets.is_empty() {
            return Ranges::new();
        }
        let begun = self.begun.range(offsets);
        let exhausted = begun.filter(|(_, times)| **times >= max);
        let exhausted: BTreeSet<u64> = exhausted.map(|(offset, _)| *offset).collect();
        self.scheduled.extend(&exhausted);
        for offset in &exhausted {
            self.not_due(*offset);
        }
        // What is on its way already does not go once more.
        self.exhausted.extend(exhausted.difference(&self.moving));
        ranges(exhausted)
    }

    /// Takes those that are to be moved away and that nothing keeps here.
    pub(super) fn take_exhausted(&mut self, is_kept: impl Fn(u64) -> bool) -> Ranges {
        let exhausted = self.exhausted.extract_if(.., |offset| !is_kept(*offset));
        let exhausted: BTreeSet<u64> = exhausted.collect();
        self.moving.extend(&exhausted);
        ranges(exhausted)
    }

    pub(super) fn has_raised(&self) -> bool {
        !self.raised.is_empty()
    }

    /// Takes the counts that the storage does not know.
    pub(super) fn take_raised(&mut self) -> Vec<(u64, u32)> {
        let raised = std::mem::take(&mut self.raised);
        let counted = raised.into_iter();
        counted
            .filter_map(|offset| Some((offset, *self.begun.get(&offset)?)))
            .collect()
    }

    /// They could not be written.
    pub(super) fn put_back(&mut self, raised: &[(u64, u32)]) {
        let offsets = raised.iter().map(|(offset, _)| *offset);
        let offsets = offsets.filter(|offset| self.begun.contains_key(offset));
        self.raised.extend(offsets);
    }
}

fn ranges(offsets: BTreeSet<u64>) -> Ranges {
    offsets.into_iter().map(|at| at..at + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_scheduled_comes_when_it_is_due() {
        let mut retries = Retries::new(&[(4, 2)]);
        retries.schedule(7, SECOND * 3);
        retries.schedule(4, SECOND);
        retries.schedule(5, SECOND);
        assert_eq!(retries.next_due(), Some(SECOND));
        assert!(retries.take_due(SECOND / 2).is_empty());
        assert_eq!(retries.take_due(SECOND), Ranges::from(4..6));
        assert_eq!(retries.scheduled().len(), 3, "until they are handed out");
        retries.hand_out(4);
        assert_eq!(retries.begun(0..9), [(4, 3), (5, 1), (7, 1)]);
        retries.done(4..8);
        assert!(retries.take_due(SECOND * 9).is_empty() && retries.scheduled().is_empty());
        assert!(retries.begun(0..9).is_empty() && !retries.has_raised());
    }

    #[test]
    fn counts_are_written_once_they_changed() {
        let mut retries = Retries::new(&[(1, 5)]);
        assert!(!retries.has_raised());
        retries.begin_again(1);
        retries.begin_again(2);
        let raised = retries.take_raised();
        assert_eq!(raised, [(1, 6), (2, 1)]);
        retries.done(2..3);
        retries.put_back(&raised);
        assert_eq!(retries.take_raised(), [(1, 6)]);
        assert!(!retries.has_raised());
    }

    #[test]
    fn what_was_begun_too_often_is_taken_once() {
        let mut retries = Retries::new(&[(1, 2), (2, 3), (9, 3)]);
        assert_eq!(retries.exhaust(0..5, 3), Ranges::from(2..3));
        retries.schedule(1, SECOND);
        assert_eq!(retries.exhaust(1..2, 3), Ranges::from(1..2));
        assert!(retries.take_due(SECOND).is_empty(), "it is not delivered");
        assert_eq!(retries.take_exhausted(|at| at == 2), Ranges::from(1..2));
        assert_eq!(retries.take_exhausted(|_| false), Ranges::from(2..3));
        assert_eq!(retries.take_exhausted(|_| false), Ranges::new());
        assert_eq!((retries.moving(), retries.scheduled().len()), (2, 2));
        retries.done(0..2);
        assert_eq!(retries.moving(), 1);
    }

    #[test]
    fn nothing_is_kept_of_what_is_over() {
        let mut retries = Retries::default();
        for offset in 0..1000 {
            retries.schedule(offset, SECOND * 1000);
            match offset % 2 {
                0 => drop(retries.exhaust(offset..offset + 1, 1)),
                _ => retries.schedule(offset, SECOND * 2000),
            }
        }
        assert_eq!((retries.due.len(), retries.due_at.len()), (500, 500));
        assert_eq!(retries.take_exhausted(|_| false).count(), 500);
        retries.done(0..1000);
        let Retries {
            begun,
            raised,
            scheduled,
            due,
            due_at,
            exhausted,
            moving,
        } = retries;
        assert!(begun.is_empty() && raised.is_empty() && scheduled.is_empty());
        assert!(due.is_empty() && due_at.is_empty());
        assert!(exhausted.is_empty() && moving.is_empty());
    }

    #[test]
    fn what_is_moved_away_is_not_moved_twice() {
        let mut retries = Retries::new(&[(1, 3)]);
        let one = Ranges::from(1..2);
        assert_eq!(retries.exhaust(0..5, 3), one);
        assert_eq!(retries.take_exhausted(|_| false), one);
        // It is read once more.
        assert_eq!(retries.exhaust(0..5, 3), one);
        assert_eq!(retries.take_exhausted(|_| false), Ranges::new());
    }

    #[test]
    fn dropped_messages_are_counted_up_to_a_bound() {
        let mut retries = Retries::default();
        for offset in 0..5000 {
            retries.begin_again(offset);
            retries.begin_again(offset);
        }
        assert_eq!(retries.take_raised().len(), MAX_COUNTED);
        retries.schedule(4999, SECOND);
        assert_eq!(retries.begun(4000..5000), [(4999, 1)]);
    }
}
