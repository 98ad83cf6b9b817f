//! Sets of offsets as ranges, and a group's place in a partition.

use std::ops::Range;

/// A set of offsets, run-length encoded: sorted ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

/// So many ranges are added or taken out one by one; more in one pass.
const FEW: usize = 4;

impl Ranges {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds the offsets of `range`; returns whether any of them was not in the set. Adding at the end is
    /// cheap; elsewhere it costs a binary search, and a move of the ranges behind.
    pub fn insert(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        match self.0.last_mut() {
            Some(last) if last.end == range.start => {
                last.end = range.end;
                return true;
            }
            Some(last) if last.end > range.start => {}
            _ => {
                self.0.push(range);
                return true;
            }
        }
        // Those from `first` up to `after` overlap or touch the new one: few, so one search will do.
        let after = self.0.partition_point(|r| r.start <= range.end);
        let touching = self.0[..after].iter().rev();
        let first = after - touching.take_while(|r| r.end >= range.start).count();
        let Some(merged) = self.0[..after].get_mut(first) else {
            self.0.insert(first, range);
            return true;
        };
        let is_new = merged.start > range.start || merged.end < range.end;
        merged.start = merged.start.min(range.start);
        merged.end = merged.end.max(range.end);
        if after - first > 1 {
            self.0[first].end = self.0[after - 1].end.max(range.end);
            self.0.drain(first + 1..after);
        }
        is_new
    }

    /// Adds all offsets of `other`.
    pub fn union(&mut self, other: &Self) {
        if other.0.len() <= FEW {
            for range in &other.0 {
                self.insert(range.clone());
            }
            return;
        }
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(&other.0);
        all.sort_unstable_by_key(|range| range.start);
        for range in all {
            match self.0.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => self.0.push(range),
            }
        }
    }

    /// Takes the offsets of `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|r| r.end <= range.start);
        let after = self.0.partition_point(|r| r.start < range.end);
        if first >= after {
            return;
        }
        let left = self.0[first].start..range.start;
        let right = range.end..self.0[after - 1].end;
        let kept = [left, right].into_iter().filter(|r| !r.is_empty());
        self.0.splice(first..after, kept);
    }

    /// Whether `offset` is in the set.
    pub fn contains(&self, offset: u64) -> bool {
        let at = self.0.partition_point(|r| r.end <= offset);
        self.0.get(at).is_some_and(|r| r.contains(&offset))
    }

    /// The range that `offset` is in, if it is in the set.
    pub(crate) fn containing(&self, offset: u64) -> Option<Range<u64>> {
        let at = self.0.partition_point(|r| r.end <= offset);
        self.0.get(at).filter(|r| r.contains(&offset)).cloned()
    }

    /// Takes out all offsets of `other`.
    pub(crate) fn subtract(&mut self, other: &Self) {
        if other.0.len() <= FEW {
            for range in &other.0 {
                self.remove(range.clone());
            }
            return;
        }
        let all = std::mem::take(&mut self.0);
        for range in all {
            self.0.extend(other.gaps(range));
        }
    }

    /// The offsets that are in both sets.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let (mut both, mut rest) = (Vec::new(), &other.0[..]);
        for range in &self.0 {
            rest = &rest[rest.partition_point(|r| r.end <= range.start)..];
            let shared = rest.iter().take_while(|r| r.start < range.end);
            both.extend(shared.map(|r| r.start.max(range.start)..r.end.min(range.end)));
        }
        Self(both)
    }

    /// The parts of `range` that are not in the set, in order.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Self::new();
        gaps.insert(range.clone());
        let first = self.0.partition_point(|r| r.end <= range.start);
        for taken in self.0[first..].iter().take_while(|r| r.start < range.end) {
            gaps.remove(taken.clone());
        }
        gaps.0
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<u64>> + DoubleEndedIterator {
        self.0.iter().cloned()
    }

    /// The number of ranges (not of offsets).
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no offset is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of offsets in the set.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl From<Range<u64>> for Ranges {
    fn from(range: Range<u64>) -> Self {
        std::iter::once(range).collect()
    }
}

/// How far a group is in a partition: everything before `position` is done, and so is what is in
/// `acked`, which begins beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    position: u64,
    acked: Ranges,
}

impl Progress {
    /// Everything before `position` is done, nothing beyond it.
    pub const fn at(position: u64) -> Self {
        Self {
            position,
            acked: Ranges::new(),
        }
    }

    /// All offsets before this one are done; it is not.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What is done beyond the position.
    pub fn acked(&self) -> &Ranges {
        &self.acked
    }

    /// Whether `offset` is done.
    pub fn is_done(&self, offset: u64) -> bool {
        offset < self.position || self.acked.contains(offset)
    }

    /// Adds what is done; the position moves up as far as there is no gap. It never goes back. Returns
    /// whether any of it was not done.
    pub fn insert(&mut self, done: Range<u64>) -> bool {
        if done.is_empty() || done.end <= self.position {
            return false;
        }
        // The common case: the next one, with nothing beyond.
        if done.start <= self.position && self.acked.is_empty() {
            self.position = done.end;
            return true;
        }
        let is_new = self.acked.insert(done.start.max(self.position)..done.end);
        if let Some(first) = self.acked.0.first()
            && first.start <= self.position
        {
            self.position = first.end;
            self.acked.0.remove(0);
        }
        is_new
    }

    /// Adds all of `done`: the union of both. Merging twice changes nothing.
    pub fn merge(&mut self, done: &Ranges) {
        for range in &done.0 {
            self.insert(range.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn offsets(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flatten().collect()
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0u64..60, 0u64..12).prop_map(|(start, len)| start..start + len)
    }

    fn assert_normal(ranges: &Ranges) {
        assert!(ranges.iter().all(|r| !r.is_empty()));
        assert!(ranges.0.windows(2).all(|w| w[0].end < w[1].start));
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(ops in prop::collection::vec((any::<bool>(), range()), 0..40), probe in range()) {
            let mut ranges = Ranges::new();
            let mut model = BTreeSet::new();
            for (add, range) in ops {
                if add {
                    let before = model.len();
                    let is_new = ranges.insert(range.clone());
                    model.extend(range);
                    prop_assert_eq!(is_new, model.len() > before);
                } else {
                    ranges.remove(range.clone());
                    model.retain(|offset| !range.contains(offset));
                }
                assert_normal(&ranges);
                prop_assert_eq!(offsets(&ranges), model.clone());
                prop_assert_eq!(ranges.count(), model.len() as u64);
            }
            for offset in 0..80 {
                prop_assert_eq!(ranges.contains(offset), model.contains(&offset));
            }
            let gaps: Vec<u64> = ranges.gaps(probe.clone()).into_iter().flatten().collect();
            let expected: Vec<u64> = probe.filter(|offset| !model.contains(offset)).collect();
            prop_assert_eq!(gaps, expected);
            for offset in 0..80 {
                let found = ranges.containing(offset);
                prop_assert_eq!(found.is_some(), model.contains(&offset));
                prop_assert!(found.is_none_or(|range| ranges.iter().any(|r| r == range)));
            }
        }

        #[test]
        fn two_sets_share_and_lose_what_is_in_both(a in prop::collection::vec(range(), 0..20), b in prop::collection::vec(range(), 0..20)) {
            let (a, b): (Ranges, Ranges) = (a.into_iter().collect(), b.into_iter().collect());
            let (in_a, in_b) = (offsets(&a), offsets(&b));
            let both = a.intersection(&b);
            assert_normal(&both);
            prop_assert_eq!(offsets(&both), &in_a & &in_b);
            let mut rest = a.clone();
            rest.subtract(&b);
            assert_normal(&rest);
            prop_assert_eq!(offsets(&rest), &in_a - &in_b);
            let mut all = a.clone();
            all.union(&b);
            assert_normal(&all);
            prop_assert_eq!(offsets(&all), &in_a | &in_b);
        }

        #[test]
        fn progress_is_the_naive_model(start in 0u64..20, ops in prop::collection::vec(range(), 0..40)) {
            let mut progress = Progress::at(start);
            let mut model: BTreeSet<u64> = (0..start).collect();
            for range in ops {
                let (before, known) = (progress.position(), model.len());
                let is_new = progress.insert(range.clone());
                model.extend(range);
                prop_assert_eq!(is_new, model.len() > known);
                let position = (0..).find(|offset| !model.contains(offset)).unwrap();
                prop_assert_eq!(progress.position(), position);
                prop_assert!(progress.position() >= before);
                let beyond: BTreeSet<u64> = model.range(position..).copied().collect();
                prop_assert_eq!(offsets(progress.acked()), beyond);
                assert_normal(progress.acked());
            }
        }

        #[test]
        fn merging_is_idempotent_and_has_no_order(a in prop::collection::vec(range(), 0..20), b in prop::collection::vec(range(), 0..20)) {
            let (a, b): (Ranges, Ranges) = (a.into_iter().collect(), b.into_iter().collect());
            let mut one = Progress::at(3);
            one.merge(&a);
            one.merge(&b);
            one.merge(&a);
            let mut other = Progress::at(3);
            other.merge(&b);
            other.merge(&a);
            prop_assert_eq!(one, other);
        }
    }
}
