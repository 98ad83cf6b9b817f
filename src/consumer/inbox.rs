//! What the partitions of a consumer have for it, and whose turn it is.
//!
//! Each partition has at most one chunk here that the consumer has begun, and one that follows. Those
//! that have something take turns. One that is paused is put aside until it goes on; what was read
//! ahead of it is let go of where others need the room, and read again.

use std::collections::VecDeque;

use tokio::sync::Notify;

use super::chunk::Chunk;
use crate::error::Error;
use crate::sync::{Mutex, MutexGuard};

/// What a partition has for the consumer.
#[derive(Debug)]
pub(super) enum Event {
    Messages(Chunk),
    Error(Error),
}

#[derive(Debug)]
pub(super) struct Inbox {
    places: Mutex<Places>,
    /// One a partition: told once there is room for what follows.
    room: Box<[Notify]>,
}

#[derive(Debug)]
struct Places {
    all: Box<[Place]>,
    /// The partitions that have something and are not paused, in the order of their turns.
    ready: VecDeque<usize>,
    is_closed: bool,
}

/// What one partition has for the consumer.
#[derive(Debug, Default)]
struct Place {
    begun: Option<Chunk>,
    next: Option<Event>,
    is_ready: bool,
    /// What was here was let go of: it is to be read again from this offset on.
    again_from: Option<u64>,
}

impl Inbox {
    pub(super) fn new(partitions: usize) -> Self {
        Self {
            places: Mutex::new(Places {
                all: (0..partitions).map(|_| Place::default()).collect(),
                ready: VecDeque::new(),
                is_closed: false,
            }),
            room: (0..partitions).map(|_| Notify::new()).collect(),
        }
    }

    // The partitions.

    /// Waits until there is room for what follows. Cancel safe.
    pub(super) async fn room(&self, partition: usize) {
        while self.places().all[partition].next.is_some() {
            self.room[partition].notified().await;
        }
    }

    /// From where what was let go of is to be read again, if it was.
    pub(super) fn take_again_from(&self, partition: usize) -> Option<u64> {
        self.places().all[partition].again_from.take()
    }

    /// Gives what follows; the partition has waited for [`room`](Self::room). Whether it was taken:
    /// it is not where something before it is to be read again.
    pub(super) fn give(&self, partition: usize, event: Event) -> bool {
        let mut places = self.places();
        let place = &mut places.all[partition];
        let is_gap = place.again_from.is_some() && matches!(event, Event::Messages(_));
        let refused = match places.is_closed || is_gap {
            true => Some(event),
            false => places.all[partition].next.replace(event),
        };
        if refused.is_none() {
            places.set_ready(partition);
        }
        drop(places);
        refused.is_none()
    }

    /// Lets go of what a partition has, and of its turn.
    pub(super) fn clear(&self, partition: usize) {
        let gone = {
            let mut places = self.places();
            places.ready.retain(|ready| *ready != partition);
            std::mem::take(&mut places.all[partition])
        };
        self.room[partition].notify_one();
        drop(gone);
    }

    /// Lets go of what was read ahead of a partition that is paused, if there is one. Whether there
    /// was.
    pub(super) fn let_go_of_a_paused_one(&self) -> bool {
        let gone = self.places().let_go_of_a_paused_one();
        let Some((partition, chunks)) = gone else {
            return false;
        };
        self.room[partition].notify_one();
        drop(chunks);
        true
    }

    // The consumer.

    /// Whatever has the next turn.
    pub(super) fn next(&self) -> Option<Event> {
        let mut places = self.places();
        while let Some(partition) = places.ready.pop_front() {
            let place = &mut places.all[partition];
            place.is_ready = false;
            let (event, made_room) = place.take();
            let Some(event) = event else { continue };
            if place.has_more() {
                places.set_ready(partition);
            }
            drop(places);
            if made_room {
                self.room[partition].notify_one();
            }
            return Some(event);
        }
        None
    }

    /// The turn of this chunk is over: whatever has the next one, which may be the same.
    pub(super) fn take_turns(&self, chunk: Chunk) -> Option<Event> {
        let others_wait = {
            let places = self.places();
            places.ready.iter().any(|other| *other != chunk.partition())
        };
        if !others_wait {
            return Some(Event::Messages(chunk));
        }
        self.put_back(chunk);
        self.next()
    }

    /// Puts what is left of a chunk aside for the next turn of its partition.
    pub(super) fn put_back(&self, chunk: Chunk) {
        let partition = chunk.partition();
        let mut places = self.places();
        let refused = match places.is_closed {
            true => Some(chunk),
            false => places.all[partition].begun.replace(chunk),
        };
        places.set_ready(partition);
        drop(places);
        drop(refused);
    }

    /// The partitions that were paused get their turns again.
    pub(super) fn resume(&self) {
        let mut places = self.places();
        for partition in 0..places.all.len() {
            places.set_ready(partition);
        }
    }

    /// Nothing is given any more, and what is here is let go of.
    pub(super) fn close(&self) {
        let gone: Vec<Place> = {
            let mut places = self.places();
            places.is_closed = true;
            places.ready.clear();
            places.all.iter_mut().map(std::mem::take).collect()
        };
        self.room.iter().for_each(Notify::notify_one);
        drop(gone);
    }

    // Chunks are dropped outside of it: what they hold may be the last of a session.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock()
    }
}

impl Places {
    fn let_go_of_a_paused_one(&mut self) -> Option<(usize, [Option<Chunk>; 2])> {
        let mut all = self.all.iter_mut().enumerate();
        let (partition, place) = all.find(|(_, place)| place.is_paused())?;
        Some((partition, place.let_go()))
    }

    /// The partition gets a turn, if it has something that is not paused.
    fn set_ready(&mut self, partition: usize) {
        let place = &mut self.all[partition];
        if !place.is_ready && place.has_more() {
            place.is_ready = true;
            self.ready.push_back(partition);
            debug_assert!(self.ready.len() <= self.all.len(), "one turn a partition");
        }
    }
}

impl Place {
    fn is_paused(&self) -> bool {
        let chunks = self.begun.iter().chain(self.next_chunk());
        chunks.into_iter().any(Chunk::is_paused)
    }

    fn next_chunk(&self) -> Option<&Chunk> {
        match &self.next {
            Some(Event::Messages(chunk)) => Some(chunk),
            _ => None,
        }
    }

    /// Whether it has anything to hand out now.
    fn has_more(&self) -> bool {
        match (&self.begun, &self.next) {
            (Some(chunk), _) | (None, Some(Event::Messages(chunk))) => !chunk.is_paused(),
            (None, Some(Event::Error(_))) => true,
            (None, None) => false,
        }
    }

    /// What comes first, and whether there is room for another now.
    fn take(&mut self) -> (Option<Event>, bool) {
        if !self.has_more() {
            return (None, false);
        }
        match self.begun.take() {
            Some(chunk) => (Some(Event::Messages(chunk)), false),
            None => (self.next.take(), true),
        }
    }

    /// Lets go of its chunks, which are to be read again.
    fn let_go(&mut self) -> [Option<Chunk>; 2] {
        let next = match self.next.take() {
            Some(Event::Messages(chunk)) => Some(chunk),
            other => {
                self.next = other;
                None
            }
        };
        let begun = self.begun.take();
        let first = begun.iter().chain(&next).find_map(Chunk::first);
        self.again_from = first.or(self.again_from);
        [begun, next]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each lease that ended before its messages were polled left a turn behind.
    #[test]
    fn a_partition_that_is_cleared_loses_its_turn() {
        let inbox = Inbox::new(2);
        for _ in 0..10 {
            assert!(inbox.give(0, Event::Error(Error::closed("over"))));
            inbox.clear(0);
        }
        assert!(inbox.give(1, Event::Error(Error::closed("over"))));
        assert!(inbox.give(0, Event::Error(Error::closed("over"))));
        assert_eq!(inbox.places().ready, [1, 0]);
        assert!(inbox.next().is_some() && inbox.next().is_some());
        assert!(inbox.next().is_none());
    }
}
