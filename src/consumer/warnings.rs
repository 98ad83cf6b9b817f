//! Says that a pipeline forgets verdicts, well before that stops anything; and says it sparingly.

use super::acks::Acks;
use super::session::MAX_BEYOND;
use crate::storage::Group;

/// What was said of one lease.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    forgotten: Sparingly,
    crowded: Sparingly,
    /// Whether it is crowded now, and how often it became so.
    is_crowded: bool,
    crowds: u64,
}

/// What to say now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Warning {
    /// The first message that is in the way, and how many were dropped in all.
    Forgotten { offset: u64, dropped: u64 },
    /// So much is kept beyond the position, or waits to be retried.
    Crowded { ranges: usize, retries: usize },
}

impl Warnings {
    /// Looks at the book after a change.
    #[inline]
    pub(super) fn look(&mut self, acks: &Acks, has_hole: bool) -> Option<Warning> {
        let ranges = acks.progress().acked().len();
        let retries = acks.retries().scheduled().len();
        if has_hole || self.is_crowded || ranges.max(retries) >= MAX_BEYOND / 2 {
            return self.weigh(acks, has_hole, ranges, retries);
        }
        None
    }

    #[cold]
    fn weigh(
        &mut self,
        acks: &Acks,
        has_hole: bool,
        ranges: usize,
        retries: usize,
    ) -> Option<Warning> {
        let most = ranges.max(retries);
        if !self.is_crowded && most >= MAX_BEYOND / 2 {
            self.is_crowded = true;
            self.crowds += 1;
            if self.crowded.is_due(self.crowds) {
                return Some(Warning::Crowded { ranges, retries });
            }
        } else if most < MAX_BEYOND / 4 {
            self.is_crowded = false;
        }
        let (offset, dropped) = acks.forgotten().filter(|_| has_hole)?;
        self.forgotten
            .is_due(dropped)
            .then_some(Warning::Forgotten { offset, dropped })
    }
}

impl Warning {
    pub(super) fn tell(&self, group: &Group) {
        let (stream, partition) = (&group.partition.stream, group.partition.index);
        let group = &group.name;
        match self {
            Self::Forgotten { offset, dropped } => tracing::warn!(
                %stream, partition, %group, offset, dropped,
                "a delivery was dropped without a verdict while later ones are done, and will come \
                 again: ack what is left out on purpose"
            ),
            Self::Crowded { ranges, retries } => tracing::warn!(
                %stream, partition, %group, acked_ranges = ranges, retries, limit = MAX_BEYOND,
                "much is done beyond a message that is not, or waits to be retried: the consumer \
                 pauses at the limit"
            ),
        }
    }
}

/// The first time, and each time that there are ten times as many.
#[derive(Debug, Default)]
struct Sparingly {
    next: u64,
}

impl Sparingly {
    fn is_due(&mut self, count: u64) -> bool {
        let is_due = count >= self.next.max(1);
        if is_due {
            self.next = count.saturating_mul(10);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::Progress;

    #[test]
    fn the_first_is_told_and_then_one_in_ten() {
        let mut sparingly = Sparingly::default();
        let told: Vec<u64> = (0..2000).filter(|n| sparingly.is_due(*n)).collect();
        assert_eq!(told, [1, 10, 100, 1000]);
    }

    #[test]
    fn a_crowd_is_told_once_until_it_has_gone() {
        let mut acks = Acks::new(Progress::at(0), &[]);
        let mut warnings = Warnings::default();
        let mut told = Vec::new();
        for at in 0..600 {
            acks.done(2 * at + 1..2 * at + 2);
            told.extend(warnings.look(&acks, false));
        }
        let (ranges, retries) = (MAX_BEYOND / 2, 0);
        assert_eq!(told, [Warning::Crowded { ranges, retries }]);
        acks.done(0..1200);
        assert_eq!(warnings.look(&acks, false), None);
        assert!(!warnings.is_crowded);
    }
}
