//! Says that a pipeline forgets verdicts, well before that stops anything; and says it sparingly.

use std::time::Duration;

use crate::storage::Group;
use crate::sync::atomic::{AtomicBool, AtomicU64};

/// A group keeps at most so many acked ranges beyond its position, and so many messages wait to be
/// retried; then nothing new is handed out until there are less.
pub(super) const MAX_BEYOND: usize = 1000;

/// So many deliveries of which nothing is said are no accident.
pub(super) const MANY: u64 = 1000;

/// What was said already of what holds a lease up.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Whether it was told that nothing is said of any delivery.
    pub(super) silence: AtomicBool,
    /// Which delivery that is held keeps others waiting: one more than its offset.
    pub(super) held: AtomicU64,
}

/// What was said already of verdicts that are forgotten, of one lease.
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
    /// So many were handed out, and nothing was ever said of any.
    Silent { delivered: u64 },
    /// Nobody has polled or said anything for so long, with so many in hand, of which this is the first.
    Stuck {
        held: u64,
        first: Option<u64>,
        max_processing: Duration,
    },
}

impl Warnings {
    /// Looks at what stands in the book after a change: ranges beyond the position, messages that
    /// wait to be retried, and the first that was dropped and is in the way, with how many were.
    #[inline]
    pub(super) fn look(
        &mut self,
        ranges: usize,
        retries: usize,
        forgotten: Option<(u64, u64)>,
    ) -> Option<Warning> {
        if forgotten.is_some() || self.is_crowded || ranges.max(retries) >= MAX_BEYOND / 2 {
            return self.weigh(ranges, retries, forgotten);
        }
        None
    }

    #[cold]
    fn weigh(
        &mut self,
        ranges: usize,
        retries: usize,
        forgotten: Option<(u64, u64)>,
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
        let (offset, dropped) = forgotten?;
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
                "a delivery was dropped without a verdict, and will come again: ack what is left out \
                 on purpose"
            ),
            Self::Crowded { ranges, retries } => tracing::warn!(
                %stream, partition, %group, acked_ranges = ranges, retries, limit = MAX_BEYOND,
                "much is done beyond a message that is not, or waits to be retried: the consumer \
                 pauses at the limit"
            ),
            Self::Silent { delivered } => tracing::warn!(
                %stream, partition, %group, delivered,
                "messages were delivered and none was ever committed: the group begins with them again; \
                 commit or ack each delivery that is done"
            ),
            Self::Stuck {
                held,
                first,
                max_processing,
            } => tracing::warn!(
                %stream, partition, %group, held, first, ?max_processing,
                "the lease is given up: nothing was polled or committed for max_processing, with \
                 deliveries in hand; they reach the group again"
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

    #[test]
    fn the_first_is_told_and_then_one_in_ten() {
        let mut sparingly = Sparingly::default();
        let told: Vec<u64> = (0..2000).filter(|n| sparingly.is_due(*n)).collect();
        assert_eq!(told, [1, 10, 100, 1000]);
    }

    #[test]
    fn a_crowd_is_told_once_until_it_has_gone() {
        let mut warnings = Warnings::default();
        let (ranges, retries) = (MAX_BEYOND / 2, 0);
        let crowded = Some(Warning::Crowded { ranges, retries });
        assert_eq!(warnings.look(ranges - 1, retries, None), None);
        assert_eq!(warnings.look(ranges, retries, None), crowded);
        assert_eq!(warnings.look(ranges + 9, retries, None), None);
        assert_eq!(warnings.look(0, 0, None), None);
        // The second to the ninth time, nothing is said.
        for time in 2..=10 {
            let told = warnings.look(ranges, retries, None);
            assert_eq!(told.is_some(), time == 10, "{time}");
            warnings.look(0, 0, None);
        }
    }

    #[test]
    fn what_was_forgotten_is_told_first_and_then_sparingly() {
        let mut warnings = Warnings::default();
        let mut told = Vec::new();
        for dropped in 1..=100 {
            told.extend(warnings.look(3, 0, Some((7, dropped))));
        }
        let forgotten = |dropped| Warning::Forgotten { offset: 7, dropped };
        assert_eq!(told, [1, 10, 100].map(forgotten));
    }

    #[test]
    fn a_crowd_has_gone_once_there_is_less_than_half_of_it() {
        let mut warnings = Warnings::default();
        assert!(warnings.look(MAX_BEYOND / 2, 0, None).is_some());
        for _ in 0..20 {
            assert_eq!(warnings.look(MAX_BEYOND / 4, 0, None), None);
            assert_eq!(warnings.look(MAX_BEYOND / 2, 0, None), None);
        }
    }
}
