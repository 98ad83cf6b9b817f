//! What waits for its statement.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::runtime;

use super::chain::SetAside;
use super::submission::Submission;

/// Producers wait once so many bytes do.
pub(super) const FULL_BYTES: usize = 16 << 20;

/// Set aside behind this are those that wait until a look at the storage may begin for them.
pub(super) const A_LOOK: u64 = 0;

/// What was handed in and is in no statement yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By their place. In boxes, for a tree of large values is slow, even with one in it.
    waiting: BTreeMap<u64, Box<Submission>>,
    /// What cannot go now and is in nobody's way: by what it is behind, and by its place.
    aside: BTreeMap<(u64, u64), (Submission, SetAside)>,
    next_place: u64,
    bytes: usize,
    pub(super) is_running: bool,
    pub(super) is_closed: bool,
    /// The runtime that the task ran on when it was dropped with it for the last time.
    pub(super) ended: Option<runtime::Id>,
}

impl Queue {
    pub(super) fn has_room(&self) -> bool {
        self.bytes < FULL_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.aside.is_empty()
    }

    /// Puts it behind all that came before, and gives its place.
    pub(super) fn push(&mut self, mut submission: Submission) -> u64 {
        self.next_place += 1;
        submission.place = self.next_place;
        self.put_back(submission);
        self.next_place
    }

    /// Puts it where it was.
    pub(super) fn put_back(&mut self, submission: Submission) {
        self.bytes += submission.bytes;
        self.waiting.insert(submission.place, Box::new(submission));
    }

    pub(super) fn first(&self) -> Option<&Submission> {
        self.waiting.first_key_value().map(|(_, first)| &**first)
    }

    pub(super) fn pop(&mut self) -> Option<Submission> {
        let (_, submission) = self.waiting.pop_first()?;
        self.bytes -= submission.bytes;
        Some(*submission)
    }

    pub(super) fn set_aside(&mut self, submission: Submission, behind: u64) {
        self.bytes += submission.bytes;
        let mark = submission.chain.set_aside(behind);
        let key = (behind, submission.place);
        self.aside.insert(key, (submission, mark));
    }

    /// The first of those that wait for a look.
    pub(super) fn pop_for_a_look(&mut self) -> Option<Submission> {
        let first = self.aside.first_entry()?;
        if first.key().0 != A_LOOK {
            return None;
        }
        let (submission, _) = first.remove();
        self.bytes -= submission.bytes;
        Some(submission)
    }

    /// What is behind this waits in its place again.
    pub(super) fn release(&mut self, behind: u64) {
        let mut released = self.aside.split_off(&(behind, 0));
        self.aside.append(&mut released.split_off(&(behind + 1, 0)));
        for ((_, place), (submission, _)) in released {
            self.waiting.insert(place, Box::new(submission));
        }
    }

    /// All that is set aside waits in its place again.
    pub(super) fn release_all(&mut self) {
        for ((_, place), (submission, _)) in std::mem::take(&mut self.aside) {
            self.waiting.insert(place, Box::new(submission));
        }
    }

    /// Takes out what has this place, if it is here.
    pub(super) fn remove(&mut self, place: u64) -> Option<Submission> {
        let removed = self.waiting.remove(&place).map(|removed| *removed);
        let removed = removed.or_else(|| self.remove_aside(place))?;
        self.bytes -= removed.bytes;
        Some(removed)
    }

    fn remove_aside(&mut self, place: u64) -> Option<Submission> {
        let mut from = 0;
        while let Some((&(behind, _), _)) = self.aside.range((from, 0)..).next() {
            if let Some((submission, _)) = self.aside.remove(&(behind, place)) {
                return Some(submission);
            }
            from = behind + 1;
        }
        None
    }

    /// Takes out what came in so long ago that its time is over.
    pub(super) fn take_overdue(&mut self, now: Duration) -> Vec<Submission> {
        let aside = self.aside.values().map(|(submission, _)| submission);
        let all = self.waiting.values().map(|it| &**it).chain(aside);
        let places = overdue(all, now);
        self.remove_all(places)
    }

    /// The same of those that wait until a look may begin for them.
    pub(super) fn take_overdue_looks(&mut self, now: Duration) -> Vec<Submission> {
        let waiting = self.aside.range(..(A_LOOK + 1, 0));
        let places = overdue(waiting.map(|(_, (submission, _))| submission), now);
        self.remove_all(places)
    }

    fn remove_all(&mut self, places: Vec<u64>) -> Vec<Submission> {
        let removed = places.into_iter().filter_map(|place| self.remove(place));
        removed.collect()
    }

    /// Takes out all.
    pub(super) fn drain(&mut self) -> Vec<Submission> {
        self.bytes = 0;
        let aside = std::mem::take(&mut self.aside).into_values();
        let waiting = std::mem::take(&mut self.waiting).into_values();
        aside
            .map(|(submission, _)| submission)
            .chain(waiting.map(|submission| *submission))
            .collect()
    }
}

fn overdue<'a>(all: impl Iterator<Item = &'a Submission>, now: Duration) -> Vec<u64> {
    let overdue = all.filter(|submission| submission.deadline <= now);
    overdue.map(|submission| submission.place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appender::{Chain, Ticket};
    use crate::message::{Batch, Message};
    use crate::name::Name;

    fn submission(chain: &Chain, deadline: u64) -> (Submission, Ticket) {
        let (stream, batch) = (Name::new("s").unwrap(), Batch::from(Message::new("m")));
        Submission::unit(stream, batch, chain.clone(), Duration::from_secs(deadline))
    }

    #[test]
    fn what_was_set_aside_comes_back_in_its_place() {
        let (mut queue, chain) = (Queue::default(), Chain::new());
        let mut tickets = Vec::new();
        for deadline in 0..6 {
            let (submission, ticket) = submission(&chain, deadline);
            tickets.push((queue.push(submission), ticket));
        }
        let bytes = queue.bytes;
        // One is behind a look, three behind a statement.
        for behind in [7, A_LOOK, 7, 7] {
            let first = queue.pop().unwrap();
            queue.set_aside(first, behind);
        }
        assert_eq!((queue.bytes, chain.is_behind()), (bytes, Some(7)));
        assert_eq!(queue.take_overdue_looks(Duration::ZERO).len(), 0);
        assert_eq!(queue.pop_for_a_look().unwrap().place, tickets[1].0);
        assert!(queue.pop_for_a_look().is_none());
        assert_eq!(queue.remove(tickets[2].0).unwrap().place, tickets[2].0);
        let overdue = queue.take_overdue(Duration::from_secs(4));
        let overdue: Vec<u64> = overdue.iter().map(|it| it.deadline.as_secs()).collect();
        assert_eq!(overdue, [4, 0, 3]);
        queue.release(7);
        assert_eq!((chain.is_behind(), queue.pop().unwrap().place), (None, 6));
        assert!(queue.is_empty() && queue.bytes == 0);
    }
}
