//! Messages that were let go of without a verdict, and since when nobody can be expected to give one.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ranges::Ranges;

/// What was dropped of one lease.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    offsets: Ranges,
    /// How many there ever were.
    times: u64,
    /// One more than the greatest offset whose handle went since the last look.
    gone_to: u64,
    ages: Ages,
    /// The ages of those of the offsets that are holes.
    hole_ages: Ages,
}

/// When what was dropped comes again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Once it is a hole.
    pub(crate) hole: Duration,
    /// In any case: somebody has had a message behind it in hand for so long.
    pub(crate) longest: Duration,
}

/// What a look shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// These are to come again.
    pub(crate) due: Ranges,
    /// When to look again; `None` if nothing is left.
    pub(crate) next: Option<Duration>,
}

/// Who may still give a verdict on what was dropped, by one on a message behind it.
#[derive(Debug, Clone, Default)]
pub(super) struct Others {
    /// The greatest offset that somebody has in hand.
    pub(super) held: Option<u64>,
    /// Where the last range of what is done begins.
    pub(super) done: Option<u64>,
    /// Transactions of the application have left these undone: nobody else answers for them.
    pub(super) lost: Ranges,
}

impl Dropped {
    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub(super) fn offsets(&self) -> &Ranges {
        &self.offsets
    }

    pub(super) fn times(&self) -> u64 {
        self.times
    }

    pub(super) fn insert(&mut self, offset: u64) {
        self.offsets.insert(offset..offset + 1);
        self.times += 1;
    }

    pub(super) fn remove(&mut self, offsets: std::ops::Range<u64>) {
        self.offsets.remove(offsets);
    }

    /// Takes those of `due` that are here, to come again.
    pub(super) fn take(&mut self, due: &Ranges) -> Ranges {
        let taken = self.offsets.intersection(due);
        self.offsets.subtract(&taken);
        // Dropped once more, they are as old as that.
        self.ages.forget(due);
        self.hole_ages.forget(due);
        taken
    }

    /// A handle went, with or without a verdict: until now, its owner could have given one on all
    /// before it.
    pub(super) fn handle_went(&mut self, offset: u64) {
        self.gone_to = self.gone_to.max(offset + 1);
    }

    /// What is due at this time, and when to look again. A message is a *hole* if one behind it is
    /// done, or nobody has it or one behind it in hand.
    pub(super) fn look(&mut self, now: Duration, others: &Others, patience: Patience) -> Look {
        let mut passed = self.offsets.clone();
        passed.remove(others.done.unwrap_or(0)..u64::MAX);
        passed.union(&others.lost);
        let mut left = self.offsets.clone();
        left.remove(0..others.held.map_or(0, |held| held + 1));
        left.subtract(&passed);

        // Of these somebody may have had one in hand since the last look: they begin anew.
        let mut begin_anew = left.clone();
        begin_anew.remove(std::mem::take(&mut self.gone_to)..u64::MAX);
        self.hole_ages.forget(&begin_anew);
        let mut holes = passed;
        holes.union(&left);

        self.ages.see(now, &self.offsets, step(patience.longest));
        self.hole_ages.see(now, &holes, step(patience.hole));
        let mut due = self.hole_ages.older(now, patience.hole);
        due.union(&self.ages.older(now, patience.longest.max(patience.hole)));
        let is_left = !self.offsets.is_empty() || !holes.is_empty();
        // What changes meanwhile is seen with the next step.
        let soon = now.saturating_add(step(patience.hole));
        let next = is_left.then(|| soon.min(self.hole_ages.due(patience.hole).unwrap_or(soon)));
        Look { due, next }
    }
}

/// How exact a time is.
fn step(time: Duration) -> Duration {
    (time / 8).max(Duration::from_millis(1))
}

/// The offsets of a set, by the time since which they are in it without a break.
#[derive(Debug, Default)]
struct Ages(VecDeque<Age>);

#[derive(Debug)]
struct Age {
    /// The first of them was seen then.
    first: Duration,
    /// The last of the offsets was seen then.
    last: Duration,
    offsets: Ranges,
}

impl Ages {
    /// The set is this one now. What came within a step is of one age, that of the youngest.
    fn see(&mut self, now: Duration, set: &Ranges, step: Duration) {
        let mut new = set.clone();
        for age in &mut self.0 {
            age.offsets = age.offsets.intersection(set);
            new.subtract(&age.offsets);
        }
        self.0.retain(|age| !age.offsets.is_empty());
        if new.is_empty() {
            return;
        }
        match self.0.back_mut() {
            Some(age) if now.saturating_sub(age.first) < step => {
                age.last = now;
                age.offsets.union(&new);
            }
            _ => self.0.push_back(Age {
                first: now,
                last: now,
                offsets: new,
            }),
        }
    }

    fn forget(&mut self, offsets: &Ranges) {
        if offsets.is_empty() {
            return;
        }
        for age in &mut self.0 {
            age.offsets.subtract(offsets);
        }
    }

    fn older(&self, now: Duration, time: Duration) -> Ranges {
        let mut older = Ranges::new();
        let ages = self.0.iter();
        for age in ages.take_while(|age| age.last.saturating_add(time) <= now) {
            older.union(&age.offsets);
        }
        older
    }

    /// When the oldest are so old.
    fn due(&self, time: Duration) -> Option<Duration> {
        self.0.front().map(|age| age.last.saturating_add(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Patience = Patience {
        hole: Duration::from_secs(8),
        longest: Duration::from_secs(80),
    };

    fn dropped(offsets: impl IntoIterator<Item = u64>) -> Dropped {
        let mut dropped = Dropped::default();
        for offset in offsets {
            dropped.insert(offset);
            dropped.handle_went(offset);
        }
        dropped
    }

    fn held(offset: u64) -> Others {
        Others {
            held: Some(offset),
            ..Others::default()
        }
    }

    fn done(offset: u64) -> Others {
        Others {
            done: Some(offset),
            ..held(99)
        }
    }

    #[track_caller]
    fn assert_due(dropped: &mut Dropped, seconds: u32, others: &Others, due: &[u64]) {
        let look = dropped.look(SECOND * seconds, others, PATIENCE);
        let found: Vec<u64> = look.due.iter().flatten().collect();
        assert_eq!(found, due, "at {seconds} s");
    }

    #[test]
    fn what_nobody_can_do_any_more_comes_again_at_the_end_of_the_log() {
        let mut dropped = dropped([3, 4]);
        let nobody = Others::default();
        assert_due(&mut dropped, 1, &nobody, &[]);
        assert_due(&mut dropped, 8, &nobody, &[]);
        assert_due(&mut dropped, 9, &nobody, &[3, 4]);
    }

    #[test]
    fn who_has_one_behind_it_in_hand_may_still_do_it() {
        let mut dropped = dropped([3, 7]);
        assert_due(&mut dropped, 1, &held(5), &[]);
        assert_due(&mut dropped, 9, &held(5), &[7]);
        assert_due(&mut dropped, 80, &held(5), &[7]);
        assert_due(&mut dropped, 81, &held(5), &[3, 7]);
    }

    #[test]
    fn the_time_begins_anew_with_each_handle_behind_it() {
        let mut dropped = dropped([3]);
        assert_due(&mut dropped, 1, &Others::default(), &[]);
        // One that was handed out and has gone between two looks.
        dropped.handle_went(4);
        assert_due(&mut dropped, 9, &Others::default(), &[]);
        // One before it has nothing to do with it.
        dropped.handle_went(2);
        assert_due(&mut dropped, 17, &Others::default(), &[3]);
    }

    #[test]
    fn what_is_passed_comes_again_whoever_has_what_in_hand() {
        let mut dropped = dropped([3, 7]);
        assert_due(&mut dropped, 1, &done(5), &[]);
        dropped.handle_went(9);
        assert_due(&mut dropped, 9, &done(5), &[3]);
    }

    #[test]
    fn each_comes_at_its_own_time() {
        let mut dropped = dropped([3]);
        assert_due(&mut dropped, 1, &done(9), &[]);
        dropped.insert(5);
        assert_due(&mut dropped, 7, &done(9), &[]);
        assert_due(&mut dropped, 9, &done(9), &[3]);
        dropped.remove(3..4);
        assert_due(&mut dropped, 14, &done(9), &[]);
        assert_due(&mut dropped, 15, &done(9), &[5]);
    }

    #[test]
    fn what_comes_again_and_is_dropped_again_waits_as_long_again() {
        let mut dropped = dropped([3, 4]);
        assert_due(&mut dropped, 1, &done(9), &[]);
        assert_due(&mut dropped, 9, &done(9), &[3, 4]);
        assert_eq!(dropped.take(&Ranges::from(0..4)), Ranges::from(3..4));
        dropped.insert(3);
        assert_due(&mut dropped, 9, &done(9), &[4]);
        assert_due(&mut dropped, 17, &done(9), &[3, 4]);
    }

    #[test]
    fn what_a_transaction_left_undone_waits_for_nobody() {
        let mut dropped = Dropped::default();
        let others = Others {
            lost: Ranges::from(6..7),
            ..held(99)
        };
        assert_due(&mut dropped, 1, &others, &[]);
        assert_due(&mut dropped, 9, &others, &[6]);
    }

    #[test]
    fn it_is_looked_at_as_long_as_something_is_left() {
        let mut dropped = dropped([3]);
        let look = |dropped: &mut Dropped, seconds| {
            let look = dropped.look(SECOND * seconds, &done(9), PATIENCE);
            look.next
        };
        assert_eq!(look(&mut dropped, 1), Some(SECOND * 2));
        assert_eq!(look(&mut dropped, 2), Some(SECOND * 3));
        assert_eq!(look(&mut dropped, 8), Some(SECOND * 9));
        dropped.remove(0..9);
        assert_eq!(look(&mut dropped, 9), None);
    }

    #[test]
    fn many_that_are_dropped_one_by_one_are_of_few_ages() {
        let mut dropped = Dropped::default();
        for step in 0..400_u64 {
            dropped.insert(2 * step);
            let now = Duration::from_millis(50 * step);
            let look = dropped.look(now, &done(u64::MAX - 1), PATIENCE);
            for range in look.due.iter() {
                dropped.remove(range);
            }
            assert!(dropped.hole_ages.0.len() <= 10, "{step}");
        }
        assert!(
            (160..190).contains(&dropped.offsets.len()),
            "they came again"
        );
    }
}
