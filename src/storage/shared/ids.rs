//! Which appends were made and which were refused, newest first to stay.

use std::collections::{HashMap, VecDeque};

use crate::storage::Id;

/// How many appends, and how many refusals, are remembered: at least the last thousand is promised.
pub(in crate::storage) const REMEMBERED: usize = 4096;

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage) enum Outcome {
    /// The base offset of each row.
    Written(Vec<u64>),
    Refused,
}

/// The last appends, and the last refusals. They are counted apart, because there are few
/// refusals, and they have to stay the longest.
#[derive(Debug, Default)]
pub(in crate::storage) struct Ids {
    outcomes: HashMap<Id, Outcome>,
    written: VecDeque<Id>,
    refused: VecDeque<Id>,
    /// The greatest that was let go of. Ids grow with time, by and large.
    forgotten: Option<Id>,
}

impl Ids {
    pub(in crate::storage) fn get(&self, id: Id) -> Option<&Outcome> {
        self.outcomes.get(&id)
    }

    pub(in crate::storage) fn is_written(&self, id: Id) -> bool {
        matches!(self.get(id), Some(Outcome::Written(_)))
    }

    /// Whether this one, which is not known, may have been known once.
    pub(in crate::storage) fn may_have_forgotten(&self, id: Id) -> bool {
        self.forgotten.is_some_and(|forgotten| id <= forgotten)
    }

    /// This one and those before it may have been known once.
    #[cfg(feature = "redb")]
    pub(in crate::storage) fn forget_until(&mut self, id: Id) {
        self.forgotten = self.forgotten.max(Some(id));
    }

    pub(in crate::storage) fn insert(&mut self, id: Id, outcome: Outcome) {
        let ring = match outcome {
            Outcome::Written(_) => &mut self.written,
            Outcome::Refused => &mut self.refused,
        };
        if ring.len() == REMEMBERED
            && let Some(oldest) = ring.pop_front()
        {
            self.outcomes.remove(&oldest);
            self.forgotten = self.forgotten.max(Some(oldest));
        }
        ring.push_back(id);
        self.outcomes.insert(id, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_and_refusals_apart() {
        let mut ids = Ids::default();
        ids.insert(Id(0), Outcome::Refused);
        for id in 1..=REMEMBERED as u128 + 1 {
            ids.insert(Id(id), Outcome::Written(vec![7]));
        }
        assert_eq!(ids.get(Id(0)), Some(&Outcome::Refused));
        assert_eq!(ids.get(Id(1)), None);
        assert_eq!(ids.get(Id(2)), Some(&Outcome::Written(vec![7])));
        assert_eq!(ids.outcomes.len(), REMEMBERED + 1);
        assert!(ids.may_have_forgotten(Id(1)) && !ids.may_have_forgotten(Id(2)));
    }
}
