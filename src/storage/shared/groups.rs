//! The rules of groups and leases: once for all storages of this crate.

use std::ops::Range;

use crate::clock::to_micros;
use crate::error::{Error, Result};
use crate::storage::{
    Claim, GroupState, Id, Lease, Liveness, Name, Over, Progress, Ranges, Start, Verdicts,
};

/// A group in a partition, as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::storage) struct StoredGroup {
    pub(in crate::storage) owner: Option<Id>,
    pub(in crate::storage) epoch: u64,
    pub(in crate::storage) generation: u64,
    pub(in crate::storage) progress: Progress,
    /// Sorted by offset.
    pub(in crate::storage) attempts: Vec<(u64, u32)>,
}

impl StoredGroup {
    pub(in crate::storage) fn at(position: u64) -> Self {
        Self {
            progress: Progress::at(position),
            ..Self::default()
        }
    }

    pub(in crate::storage) fn holds(&self, lease: &Lease) -> bool {
        self.owner == Some(lease.owner) && self.epoch == lease.epoch
    }

    /// Gives the lease to the claimer if the claim may have it, and says whether.
    pub(in crate::storage) fn claim(&mut self, claim: &Claim, bounds: &Range<u64>) -> bool {
        match self.owner {
            // Its first answer got lost. It counts as a write: the owner trusts its lease from now.
            Some(owner) if owner == claim.owner => {}
            Some(_) => {
                let is_this =
                    |over: &Over| (over.epoch, over.generation) == (self.epoch, self.generation);
                let Some(over) = claim.over.filter(is_this) else {
                    return false;
                };
                if over.counts_attempt {
                    self.count_attempt(bounds);
                }
                self.epoch += 1;
            }
            None => self.epoch += 1,
        }
        self.owner = Some(claim.owner);
        self.generation += 1;
        true
    }

    /// The first message that is not done may be what the last owner died of.
    fn count_attempt(&mut self, bounds: &Range<u64>) {
        let state = self.state(Liveness::Unknown, bounds.clone());
        let Some(offset) = state.next_pending() else {
            return;
        };
        match self.attempts.binary_search_by_key(&offset, |a| a.0) {
            Ok(at) => self.attempts[at].1 = self.attempts[at].1.saturating_add(1),
            Err(at) => self.attempts.insert(at, (offset, 1)),
        }
    }

    pub(in crate::storage) fn commit(&mut self, verdicts: &Verdicts) {
        for (offset, count) in &verdicts.attempts {
            self.raise_attempts(*offset, *count);
        }
        self.advance(&verdicts.done);
    }

    /// Counts these as done, as a commit does that comes with an append.
    pub(in crate::storage) fn advance(&mut self, done: &Ranges) {
        self.generation += 1;
        self.progress.merge(done);
        if !self.attempts.is_empty() {
            let progress = &self.progress;
            self.attempts.retain(|a| !progress.is_done(a.0));
            self.attempts.truncate(MAX_ATTEMPTS);
        }
    }

    fn raise_attempts(&mut self, offset: u64, count: u32) {
        match self.attempts.binary_search_by_key(&offset, |a| a.0) {
            Ok(at) => self.attempts[at].1 = self.attempts[at].1.max(count),
            Err(at) => self.attempts.insert(at, (offset, count)),
        }
    }

    pub(in crate::storage) fn release(&mut self) {
        self.owner = None;
        self.generation += 1;
    }

    /// Nobody has the lease any more. With a position, it goes on there.
    pub(in crate::storage) fn reset(&mut self, position: Option<u64>) {
        if let Some(position) = position {
            self.progress = Progress::at(position);
            self.attempts.clear();
        }
        self.epoch += 1;
        self.release();
    }

    pub(in crate::storage) fn state(&self, liveness: Liveness, bounds: Range<u64>) -> GroupState {
        GroupState {
            owner: self.owner,
            liveness,
            epoch: self.epoch,
            generation: self.generation,
            progress: self.progress.clone(),
            attempts: self.attempts.clone(),
            bounds,
            incarnation: 0,
        }
    }
}

/// Attempts are kept of so many messages, the first ones.
const MAX_ATTEMPTS: usize = 1000;

/// The position of a new group. `appended_since` finds the base of the first batch that was
/// appended at that time (microseconds since the epoch) or later.
pub(in crate::storage) fn position_at<E>(
    start: Start,
    bounds: &Range<u64>,
    appended_since: impl FnOnce(i64) -> Result<Option<u64>, E>,
) -> Result<u64, E> {
    Ok(match start {
        Start::Earliest => bounds.start,
        Start::Latest => bounds.end,
        Start::Offset(offset) => offset,
        Start::Time(time) => appended_since(to_micros(time))?.unwrap_or(bounds.end),
    })
}

/// The most partitions that a stream can have: a bound on what one call can allocate.
const MAX_PARTITIONS: u32 = 65_536;

/// The number of partitions of a new stream.
pub(in crate::storage) fn partitions(stream: &Name, wanted: Option<u32>) -> Result<u32> {
    let partitions = wanted.unwrap_or(1);
    if !(1..=MAX_PARTITIONS).contains(&partitions) {
        return Err(Error::invalid(format!(
            "the stream {stream} cannot have {partitions} partitions: give it 1 to {MAX_PARTITIONS}"
        )));
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::storage::{Group, Partition};

    fn claim(owner: u128, over: Option<(u64, u64)>) -> Claim {
        Claim {
            group: Group {
                partition: Partition {
                    stream: Name::new("orders").unwrap(),
                    index: 0,
                },
                name: Name::new("billing").unwrap(),
            },
            owner: Id(owner),
            over: over.map(|(epoch, generation)| Over::another(epoch, generation)),
        }
    }

    fn lease(owner: u128, epoch: u64) -> Lease {
        Lease {
            group: claim(0, None).group,
            owner: Id(owner),
            epoch,
        }
    }

    #[test]
    fn a_claim_takes_what_is_free_its_own_or_named() {
        let mut group = StoredGroup::at(0);
        assert!(group.claim(&claim(1, None), &(0..5)));
        assert_eq!((group.epoch, group.generation), (1, 1));
        assert!(group.claim(&claim(1, None), &(0..5)), "its own");
        assert_eq!((group.epoch, group.generation), (1, 2));
        for over in [None, Some((1, 1)), Some((0, 2))] {
            let before = group.clone();
            assert!(!group.claim(&claim(2, over), &(0..5)));
            assert_eq!(group, before);
        }
        assert!(group.attempts.is_empty());
        assert!(group.claim(&claim(2, Some((1, 2))), &(0..5)));
        assert_eq!((group.epoch, group.generation), (2, 3));
        assert_eq!(group.attempts, [(0, 1)]);
        assert!(!group.holds(&lease(1, 1)) && !group.holds(&lease(2, 1)));
        assert!(group.holds(&lease(2, 2)));
        group.release();
        assert!(group.claim(&claim(3, None), &(0..5)));
        assert_eq!(group.attempts, [(0, 1)], "nobody died");
    }

    #[test]
    fn an_attempt_counts_for_the_first_message_that_is_left() {
        let mut group = StoredGroup::at(0);
        group.claim(&claim(1, None), &(0..0));
        let mut take_over = |owner, bounds| {
            let over = Some((group.epoch, group.generation));
            assert!(group.claim(&claim(owner, over), &bounds));
            group.attempts.clone()
        };
        assert_eq!(take_over(2, 0..0), [], "there is no message");
        assert_eq!(take_over(3, 0..9), [(0, 1)]);
        assert_eq!(take_over(4, 0..9), [(0, 2)]);
        assert_eq!(take_over(5, 3..9), [(0, 2), (3, 1)], "0 to 2 were trimmed");
        group.commit(&Verdicts::from(3..9));
        assert_eq!(group.attempts, [(0, 2)]);
        group.advance(&Ranges::from(0..1));
        assert_eq!(group.attempts, []);
    }

    #[test]
    fn no_attempt_is_counted_where_the_claim_says_so() {
        let mut group = StoredGroup::at(0);
        assert!(group.claim(&claim(1, None), &(0..9)));
        let mut own = claim(2, Some((1, 1)));
        own.over.as_mut().unwrap().counts_attempt = false;
        assert!(group.claim(&own, &(0..9)));
        assert_eq!((group.epoch, group.attempts.len()), (2, 0));
    }

    #[test]
    fn attempts_are_raised_and_bounded() {
        let mut group = StoredGroup::at(0);
        let mut commit = |done: Range<u64>, attempts: &[(u64, u32)]| {
            let attempts = attempts.to_vec();
            let done = Ranges::from(done);
            group.commit(&Verdicts { done, attempts });
            group.attempts.clone()
        };
        assert_eq!(commit(0..1, &[(0, 1), (1, 1), (4, 2)]), [(1, 1), (4, 2)]);
        assert_eq!(commit(0..0, &[(1, 3), (4, 1)]), [(1, 3), (4, 2)]);
        assert_eq!(commit(4..5, &[(1, 3)]), [(1, 3)]);
        let many: Vec<(u64, u32)> = (10..3000).map(|offset| (offset, 1)).collect();
        let kept = commit(0..0, &many);
        assert_eq!(kept.len(), MAX_ATTEMPTS);
        assert_eq!(kept[..2], [(1, 3), (10, 1)], "the first ones");
    }

    #[test]
    fn a_group_starts_where_it_is_told() {
        let at = |start| {
            let since = |micros| Ok::<_, Error>((micros <= 1).then_some(5));
            position_at(start, &(2..7), since).unwrap()
        };
        let time = |micros| Start::Time(SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
        assert_eq!(at(Start::Earliest), 2);
        assert_eq!(at(Start::Latest), 7);
        assert_eq!(at(Start::Offset(20)), 20);
        assert_eq!(at(time(1)), 5);
        assert_eq!(at(time(2)), 7);
    }
}
