//! What waits for its group write.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::runtime;

use super::request::AppendRequest;
use super::sequence::SetAside;

/// Producers wait once so many bytes do.
pub(super) const FULL_BYTES: usize = 16 << 20;

/// Set aside behind this are those that wait until a look at the storage may begin for them.
pub(super) const A_LOOK: u64 = 0;

/// What was handed in and is in no group write yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By their place. The first one is there.
    waiting: VecDeque<Waiting>,
    /// How many of these places are empty: never more than there are others.
    emptied: usize,
    /// What cannot go now and is in nobody's way: by what it is behind, and by its place.
    aside: BTreeMap<(u64, u64), (AppendRequest, SetAside)>,
    next_place: u64,
    bytes: usize,
    pub(super) is_closed: bool,
    /// The runtime that the task ran on when it was dropped with it for the last time.
    pub(super) ended: Option<runtime::Id>,
}

/// A place among those that wait.
#[derive(Debug)]
struct Waiting {
    place: u64,
    /// `None` once it was taken out from between others.
    request: Option<AppendRequest>,
}

impl Queue {
    pub(super) fn has_room(&self) -> bool {
        self.bytes < FULL_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.aside.is_empty()
    }

    /// Puts it behind all that came before, and gives its place.
    pub(super) fn push(&mut self, mut request: AppendRequest) -> u64 {
        self.next_place += 1;
        request.place = self.next_place;
        self.put_back(request);
        self.next_place
    }

    /// Puts it where it was.
    pub(super) fn put_back(&mut self, request: AppendRequest) {
        self.bytes += request.bytes;
        let waiting = Waiting::new(request);
        // Mostly behind all others, or before them.
        match self.find(waiting.place) {
            // Nothing has the place of another.
            Ok(at) | Err(at) => self.waiting.insert(at, waiting),
        }
    }

    fn find(&self, place: u64) -> Result<usize, usize> {
        match self.waiting.back() {
            Some(last) if last.place < place => Err(self.waiting.len()),
            _ => self.waiting.binary_search_by_key(&place, |it| it.place),
        }
    }

    pub(super) fn first(&self) -> Option<&AppendRequest> {
        debug_assert!(
            !self.is_empty() || self.bytes == 0,
            "what is gone is not counted"
        );
        self.waiting.front()?.request.as_ref()
    }

    pub(super) fn pop(&mut self) -> Option<AppendRequest> {
        let first = self.waiting.pop_front()?.request;
        debug_assert!(first.is_some(), "the first place is not empty");
        let request = first?;
        self.bytes -= request.bytes;
        self.skip_empty();
        Some(request)
    }

    /// Lets go of the places that are empty, up to the first that is not.
    fn skip_empty(&mut self) {
        while (self.waiting.front()).is_some_and(|first| first.request.is_none()) {
            self.waiting.pop_front();
            self.emptied -= 1;
        }
    }

    fn skip_all_empty(&mut self) {
        self.waiting.retain(|it| it.request.is_some());
        self.emptied = 0;
    }

    fn take_out(&mut self, place: u64) -> Option<AppendRequest> {
        let at = self.find(place).ok()?;
        let taken = self.waiting[at].request.take()?;
        self.emptied += 1;
        self.skip_empty();
        if self.emptied > self.waiting.len() / 2 {
            self.skip_all_empty();
        }
        Some(taken)
    }

    pub(super) fn set_aside(&mut self, request: AppendRequest, behind: u64) {
        self.bytes += request.bytes;
        let mark = request.sequence.set_aside(behind);
        let key = (behind, request.place);
        self.aside.insert(key, (request, mark));
    }

    /// The first of those that wait for a look.
    pub(super) fn pop_for_a_look(&mut self) -> Option<AppendRequest> {
        let first = self.aside.first_entry()?;
        if first.key().0 != A_LOOK {
            return None;
        }
        let (request, _) = first.remove();
        self.bytes -= request.bytes;
        Some(request)
    }

    /// What is behind this waits in its place again.
    pub(super) fn release(&mut self, behind: u64) {
        let mut released = self.aside.split_off(&(behind, 0));
        self.aside.append(&mut released.split_off(&(behind + 1, 0)));
        self.wait_again(released);
    }

    /// All that is set aside waits in its place again.
    pub(super) fn release_all(&mut self) {
        let released = std::mem::take(&mut self.aside);
        self.wait_again(released);
    }

    fn wait_again(&mut self, released: BTreeMap<(u64, u64), (AppendRequest, SetAside)>) {
        if released.is_empty() {
            return;
        }
        let released = released.into_values();
        let released = released.map(|(request, _)| Waiting::new(request));
        self.skip_all_empty();
        self.waiting.extend(released);
        // A few runs that are in order, which are merged.
        let all = self.waiting.make_contiguous();
        all.sort_by_key(|it| it.place);
    }

    /// Takes out what has this place, if it is here.
    pub(super) fn remove(&mut self, place: u64) -> Option<AppendRequest> {
        let removed = self.take_out(place);
        let removed = removed.or_else(|| self.remove_aside(place))?;
        self.bytes -= removed.bytes;
        Some(removed)
    }

    fn remove_aside(&mut self, place: u64) -> Option<AppendRequest> {
        let mut from = 0;
        while let Some((&(behind, _), _)) = self.aside.range((from, 0)..).next() {
            if let Some((request, _)) = self.aside.remove(&(behind, place)) {
                return Some(request);
            }
            from = behind + 1;
        }
        None
    }

    /// Takes out what came in so long ago that its time is over.
    pub(super) fn take_overdue(&mut self, now: Duration) -> Vec<AppendRequest> {
        let aside = self.aside.values().map(|(request, _)| request);
        let waiting = self.waiting.iter().filter_map(|it| it.request.as_ref());
        let all = waiting.chain(aside);
        let places = overdue(all, now);
        self.remove_all(places)
    }

    /// Takes out, of the requests that wait until a look may begin for them, those whose time is over.
    pub(super) fn take_overdue_looks(&mut self, now: Duration) -> Vec<AppendRequest> {
        let waiting = self.aside.range(..(A_LOOK + 1, 0));
        let places = overdue(waiting.map(|(_, (request, _))| request), now);
        self.remove_all(places)
    }

    fn remove_all(&mut self, places: Vec<u64>) -> Vec<AppendRequest> {
        let removed = places.into_iter().filter_map(|place| self.remove(place));
        removed.collect()
    }

    /// Takes out all.
    pub(super) fn drain(&mut self) -> Vec<AppendRequest> {
        self.bytes = 0;
        self.release_all();
        self.emptied = 0;
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        waiting.filter_map(|it| it.request).collect()
    }
}

impl Waiting {
    fn new(request: AppendRequest) -> Self {
        Self {
            place: request.place,
            request: Some(request),
        }
    }
}

fn overdue<'a>(all: impl Iterator<Item = &'a AppendRequest>, now: Duration) -> Vec<u64> {
    let overdue = all.filter(|request| request.deadline <= now);
    overdue.map(|request| request.place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appender::{Sequence, Ticket};
    use crate::message::{Batch, Message};
    use crate::name::Name;

    fn request(sequence: &Sequence, deadline: u64) -> (AppendRequest, Ticket) {
        let (stream, batch) = (Name::new("s").unwrap(), Batch::from(Message::new("m")));
        AppendRequest::unit(
            stream,
            batch,
            sequence.clone(),
            Duration::from_secs(deadline),
        )
    }

    #[test]
    fn what_was_set_aside_comes_back_in_its_place() {
        let (mut queue, sequence) = (Queue::default(), Sequence::new());
        let mut tickets = Vec::new();
        for deadline in 0..6 {
            let (request, ticket) = request(&sequence, deadline);
            tickets.push((queue.push(request), ticket));
        }
        let bytes = queue.bytes;
        // One is behind a look, three behind a group write.
        for behind in [7, A_LOOK, 7, 7] {
            let first = queue.pop().unwrap();
            queue.set_aside(first, behind);
        }
        assert_eq!((queue.bytes, sequence.is_behind()), (bytes, Some(7)));
        assert_eq!(queue.take_overdue_looks(Duration::ZERO).len(), 0);
        assert_eq!(queue.pop_for_a_look().unwrap().place, tickets[1].0);
        assert!(queue.pop_for_a_look().is_none());
        assert_eq!(queue.remove(tickets[2].0).unwrap().place, tickets[2].0);
        let overdue = queue.take_overdue(Duration::from_secs(4));
        let overdue: Vec<u64> = overdue.iter().map(|it| it.deadline.as_secs()).collect();
        assert_eq!(overdue, [4, 0, 3]);
        queue.release(7);
        assert_eq!(
            (sequence.is_behind(), queue.pop().unwrap().place),
            (None, 6)
        );
        assert!(queue.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn what_is_taken_out_leaves_no_room_behind() {
        let (mut queue, sequence) = (Queue::default(), Sequence::new());
        let (first, _ticket) = request(&sequence, 0);
        let first = queue.push(first);
        for _ in 0..100 {
            let (request, _ticket) = request(&sequence, 0);
            let place = queue.push(request);
            assert_eq!(queue.remove(place).unwrap().place, place);
            assert!(queue.remove(place).is_none());
            assert!(queue.waiting.len() <= 2);
        }
        // From before others, and put back there.
        let (second, _ticket) = request(&sequence, 0);
        let second = queue.push(second);
        let taken = queue.pop().unwrap();
        queue.put_back(taken);
        assert_eq!(queue.remove(first).unwrap().place, first);
        assert_eq!(queue.first().unwrap().place, second);
        assert_eq!(queue.pop().unwrap().place, second);
        assert!(queue.is_empty() && queue.bytes == 0 && queue.emptied == 0);
    }
}
