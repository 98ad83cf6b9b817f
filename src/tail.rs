//! The newest batches of a partition, in memory.
//!
//! What a producer of this process wrote, and what one of its consumers read at the end of the log, the
//! others need not read again. Only a consumer whose lease is not in question may look here: a read of
//! the storage is also what tells it that it lost the lease.
//!
//! It is one piece of one log, without gaps. It begins with a read of the storage, which says in which
//! incarnation that was, and it begins anew whenever something does not fit.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::storage::{Fetched, StoredBatch};

#[derive(Debug)]
pub(crate) struct Tail {
    me: Weak<Self>,
    piece: Mutex<Piece>,
    /// Of those who want what follows one reads, and the others wait.
    turn: tokio::sync::Mutex<()>,
    kept: Arc<Kept>,
}

/// What the tails of all partitions have, in bytes: where it is too much, the oldest batch goes first,
/// whichever partition it is of. The newest stays in any case, as a read gives one in any case.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Batches>);

#[derive(Debug, Default)]
struct Batches {
    max_bytes: usize,
    bytes: usize,
    /// As they came; some may be gone by now.
    order: VecDeque<Age>,
}

#[derive(Debug)]
struct Age {
    tail: Weak<Tail>,
    /// Where the batch ends.
    end: u64,
    bytes: usize,
}

/// The right to read what follows, for all who wait. Dropped, it goes to the next of them.
pub(crate) type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

#[derive(Debug, Default)]
struct Piece {
    /// Of the storage that it was read from; `None` while nothing is known.
    incarnation: Option<u64>,
    /// Changes when it begins anew.
    version: u64,
    batches: VecDeque<StoredBatch>,
    /// Where it ends.
    end: u64,
}

/// How it stood when a call of the storage began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    version: u64,
    end: u64,
}

/// What follows an offset.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Batches(Vec<StoredBatch>),
    /// Not here yet: the piece ends there.
    End,
    /// Only the storage knows.
    Elsewhere,
}

impl Kept {
    /// So many bytes may be kept, or what was allowed before.
    pub(crate) fn allow(&self, bytes: usize) {
        let mut batches = self.batches();
        batches.max_bytes = batches.max_bytes.max(bytes);
    }

    /// This was added to a tail. Tails let go of what is too much with it.
    fn add(&self, age: Age) {
        let gone: Vec<Age> = {
            let mut batches = self.batches();
            batches.bytes += age.bytes;
            batches.order.push_back(age);
            let mut gone = Vec::new();
            while batches.bytes > batches.max_bytes && batches.order.len() > 1 {
                gone.extend(batches.order.pop_front());
                batches.bytes -= gone.last().map_or(0, |age| age.bytes);
            }
            gone
        };
        for age in gone {
            if let Some(tail) = age.tail.upgrade() {
                tail.let_go_to(age.end);
            }
        }
    }

    // Nothing that holds this lock can panic halfway through a change. No other lock is taken under it.
    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tail {
    pub(crate) fn new(kept: Arc<Kept>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            piece: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            kept,
        })
    }

    pub(crate) fn mark(&self) -> Mark {
        let piece = self.piece();
        Mark {
            version: piece.version,
            end: piece.end,
        }
    }

    /// As a [read](crate::storage::Storage::read) from this offset, for whoever was given a lease in
    /// this incarnation of the storage.
    pub(crate) fn next(&self, incarnation: u64, from: u64, max_bytes: usize) -> Next {
        let piece = self.piece();
        if piece.incarnation != Some(incarnation) || from > piece.end || from < piece.start() {
            return Next::Elsewhere;
        }
        if from == piece.end {
            return Next::End;
        }
        let mut room = max_bytes.max(1);
        let batches = piece.batches.range(piece.position(from)..);
        let batches = batches.take_while(|batch| {
            let is_wanted = room > 0;
            room = room.saturating_sub(batch.records.size());
            is_wanted
        });
        Next::Batches(batches.cloned().collect())
    }

    /// Resolves when nobody else reads what follows. Cancel safe.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        self.turn.lock().await
    }

    /// The turn, if nobody has it.
    pub(crate) fn try_turn(&self) -> Option<Turn<'_>> {
        self.turn.try_lock().ok()
    }

    /// A batch was written by an append that began at the mark.
    pub(crate) fn wrote(&self, mark: Mark, batch: StoredBatch) {
        let mut piece = self.piece();
        if mark.version != piece.version || piece.incarnation.is_none() {
            return;
        }
        if !piece.agrees_with(&batch) {
            let gone = piece.forget();
            drop(piece);
            drop(gone);
        } else if batch.base_offset == piece.end {
            let age = self.age_of(&batch);
            piece.push(batch);
            drop(piece);
            self.kept.add(age);
        }
        // What was written in between by others is read with it.
    }

    /// This was read from an offset on, in this incarnation, by a call that began at the mark.
    pub(crate) fn read(&self, mark: Mark, incarnation: u64, from: u64, fetched: &Fetched) {
        let mut piece = self.piece();
        let start = fetched.batches.first().map_or(from, |it| it.base_offset);
        // A group may wait for an offset that the log has not reached.
        let start = start.min(fetched.bounds.end);
        let went_back = mark.version == piece.version && fetched.bounds.end < mark.end;
        let fits = piece.incarnation == Some(incarnation)
            && !went_back
            && start <= piece.end
            && fetched.batches.iter().all(|it| piece.agrees_with(it));
        let mut gone = VecDeque::new();
        if !fits {
            gone = piece.forget();
            piece.incarnation = Some(incarnation);
            piece.end = start;
        }
        let mut ages = Vec::new();
        for batch in &fetched.batches {
            if batch.base_offset == piece.end {
                ages.push(self.age_of(batch));
                piece.push(batch.clone());
            }
        }
        drop(piece);
        drop(gone);
        ages.into_iter().for_each(|age| self.kept.add(age));
    }

    fn age_of(&self, batch: &StoredBatch) -> Age {
        Age {
            tail: self.me.clone(),
            end: batch.offsets().end,
            bytes: size(batch),
        }
    }

    /// Lets go of the batches that end there, or earlier.
    fn let_go_to(&self, end: u64) {
        let gone: Vec<StoredBatch> = {
            let mut piece = self.piece();
            // Mostly one: the first.
            let ends = |batch: &StoredBatch| batch.offsets().end <= end;
            let count = piece.batches.iter().take_while(|batch| ends(batch)).count();
            piece.batches.drain(..count).collect()
        };
        drop(gone);
    }

    pub(crate) fn forget(&self) {
        let gone = self.piece().forget();
        drop(gone);
    }

    // Nothing that holds this lock can panic halfway through a change. Batches are dropped outside of
    // it: their bytes may be somebody else's.
    fn piece(&self) -> MutexGuard<'_, Piece> {
        self.piece.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Piece {
    fn start(&self) -> u64 {
        self.batches.front().map_or(self.end, |it| it.base_offset)
    }

    /// Of the first batch that ends behind this offset. Looked for from the end, where most read, in
    /// steps that double. (Exponential search: Bentley and Yao, 1976.)
    fn position(&self, offset: u64) -> usize {
        let ends = |at: usize| self.batches[at].offsets().end <= offset;
        let (mut high, mut step) = (self.batches.len(), 1);
        let mut low = loop {
            match high.checked_sub(step) {
                None => break 0,
                Some(at) if ends(at) => break at + 1,
                Some(at) => high = at,
            }
            step *= 2;
        };
        while low < high {
            let middle = low.midpoint(high);
            match ends(middle) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// Whether this batch may be of the same log: at its offsets there is nothing here, or itself.
    fn agrees_with(&self, batch: &StoredBatch) -> bool {
        let offsets = batch.offsets();
        if offsets.start >= self.end || offsets.end <= self.start() {
            return true;
        }
        let found = self.batches.get(self.position(offsets.start));
        found.is_some_and(|found| {
            found.offsets() == offsets && found.appended_at == batch.appended_at
        })
    }

    fn push(&mut self, batch: StoredBatch) {
        self.end = batch.offsets().end;
        self.batches.push_back(batch);
    }

    /// Begins anew. What it had is dropped by the caller.
    fn forget(&mut self) -> VecDeque<StoredBatch> {
        self.incarnation = None;
        self.version += 1;
        std::mem::take(&mut self.batches)
    }
}

/// What a batch takes in memory: the messages, and what is kept beside them.
pub(crate) fn size(batch: &StoredBatch) -> usize {
    const ALLOCATIONS: usize = 128;
    batch.records.size() + size_of::<StoredBatch>() + ALLOCATIONS
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use futures::FutureExt;

    use super::*;
    use crate::message::Message;
    use crate::storage::RecordsBuilder;

    /// Messages of ten bytes, appended at such a second.
    fn batch(offsets: std::ops::Range<u64>, second: u64) -> StoredBatch {
        let messages = offsets.clone().map(|_| Message::new("ten bytes."));
        let messages: Vec<Message> = messages.collect();
        let records: RecordsBuilder = messages.iter().collect();
        StoredBatch {
            base_offset: offsets.start,
            appended_at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            records: records.build().unwrap(),
        }
    }

    fn fetched(batches: &[StoredBatch], end: u64) -> Fetched {
        Fetched {
            batches: batches.to_vec(),
            bounds: 0..end,
            epoch: 1,
        }
    }

    fn empty(max_bytes: usize) -> Arc<Tail> {
        let kept = Arc::new(Kept::default());
        kept.allow(max_bytes);
        Tail::new(kept)
    }

    /// Read up to offset 2, where the log ended.
    fn tail() -> Arc<Tail> {
        let tail = empty(1 << 20);
        tail.read(tail.mark(), 7, 0, &fetched(&[batch(0..2, 0)], 2));
        tail
    }

    fn offsets(tail: &Tail, from: u64) -> Option<std::ops::Range<u64>> {
        match tail.next(7, from, usize::MAX) {
            Next::Batches(batches) => {
                let (first, last) = (batches.first().unwrap(), batches.last().unwrap());
                Some(first.base_offset..last.offsets().end)
            }
            Next::End => Some(from..from),
            Next::Elsewhere => None,
        }
    }

    #[test]
    fn each_offset_is_found_in_its_batch() {
        for batches in 0..20 {
            let mut piece = Piece::default();
            (0..batches).for_each(|at| piece.push(batch(3 * at..3 * at + 3, 0)));
            for offset in 0..3 * batches {
                assert_eq!(piece.position(offset) as u64, offset / 3, "{batches}");
            }
            assert_eq!(piece.position(3 * batches) as u64, batches);
        }
    }

    #[test]
    fn what_is_written_follows_what_was_read() {
        let tail = tail();
        tail.wrote(tail.mark(), batch(2..5, 1));
        tail.wrote(tail.mark(), batch(5..6, 2));
        assert_eq!(offsets(&tail, 0), Some(0..6));
        assert_eq!(offsets(&tail, 3), Some(2..6), "whole batches");
        assert_eq!(offsets(&tail, 6), Some(6..6));
        assert_eq!(offsets(&tail, 7), None, "it may be in the log already");
        assert_eq!(tail.next(8, 2, usize::MAX), Next::Elsewhere);
        let first = Next::Batches(vec![batch(2..5, 1)]);
        assert_eq!(tail.next(7, 2, 1), first, "no more than was asked");
    }

    #[test]
    fn nothing_is_known_before_a_read() {
        let tail = empty(1 << 20);
        tail.wrote(tail.mark(), batch(0..1, 0));
        assert_eq!(offsets(&tail, 0), None);
        tail.read(tail.mark(), 7, 0, &fetched(&[], 0));
        tail.wrote(tail.mark(), batch(0..1, 0));
        assert_eq!(offsets(&tail, 0), Some(0..1));
    }

    #[test]
    fn what_others_wrote_in_between_is_read() {
        let tail = tail();
        let late = tail.mark();
        tail.wrote(tail.mark(), batch(4..5, 2));
        assert_eq!(offsets(&tail, 2), Some(2..2), "no gap");
        tail.wrote(late, batch(2..4, 1));
        assert_eq!(offsets(&tail, 2), Some(2..4), "answered in another order");
        let both = [batch(2..4, 1), batch(4..5, 2)];
        tail.read(tail.mark(), 7, 2, &fetched(&both, 5));
        assert_eq!(offsets(&tail, 2), Some(2..5));
        tail.wrote(late, batch(4..5, 2));
        assert_eq!(offsets(&tail, 0), Some(0..5), "it was read before");
    }

    #[test]
    fn it_is_bounded_in_bytes() {
        let tail = empty(3 * size(&batch(0..1, 0)));
        tail.read(tail.mark(), 7, 0, &fetched(&[], 0));
        for offset in 0..10 {
            tail.wrote(tail.mark(), batch(offset..offset + 1, offset));
        }
        assert_eq!(offsets(&tail, 6), None);
        assert_eq!(offsets(&tail, 7), Some(7..10));
        tail.wrote(tail.mark(), batch(10..100, 10));
        assert_eq!(offsets(&tail, 9), None);
        assert_eq!(offsets(&tail, 10), Some(10..100), "the newest in any case");
        assert_eq!(tail.kept.batches().bytes, size(&batch(10..100, 10)));
    }

    #[test]
    fn what_is_kept_of_all_partitions_is_bounded_together() {
        let first = empty(3 * size(&batch(0..1, 0)));
        let second = Tail::new(first.kept.clone());
        for tail in [&first, &second] {
            tail.read(tail.mark(), 7, 0, &fetched(&[], 0));
            for offset in 0..2 {
                tail.wrote(tail.mark(), batch(offset..offset + 1, offset));
            }
        }
        assert_eq!((offsets(&first, 0), offsets(&first, 1)), (None, Some(1..2)));
        assert_eq!(offsets(&second, 0), Some(0..2), "the oldest has gone");
        // One that nobody watches any more.
        drop(first);
        second.wrote(second.mark(), batch(2..3, 2));
        assert_eq!(offsets(&second, 0), Some(0..3));
    }

    #[test]
    fn who_is_behind_changes_nothing_and_who_is_ahead_begins_anew() {
        let tail = tail();
        tail.wrote(tail.mark(), batch(2..3, 1));
        tail.read(tail.mark(), 7, 0, &fetched(&[batch(0..2, 0)], 3));
        assert_eq!(offsets(&tail, 0), Some(0..3));
        tail.read(tail.mark(), 7, 9, &fetched(&[batch(9..10, 3)], 10));
        assert_eq!((offsets(&tail, 2), offsets(&tail, 9)), (None, Some(9..10)));
        tail.read(tail.mark(), 7, 50, &fetched(&[], 10));
        assert_eq!(offsets(&tail, 9), Some(9..10), "one that waits for 50");
    }

    #[test]
    fn nothing_is_left_of_a_log_that_went_back() {
        // Other messages have taken the place of what was lost.
        let other = tail();
        other.wrote(other.mark(), batch(1..3, 9));
        assert_eq!(offsets(&other, 0), None);
        let other = tail();
        other.read(other.mark(), 7, 0, &fetched(&[batch(0..2, 9)], 2));
        let Next::Batches(batches) = other.next(7, 0, 1) else {
            panic!("what was read last");
        };
        assert_eq!(batches, [batch(0..2, 9)]);
        // It is shorter.
        let shorter = tail();
        shorter.read(shorter.mark(), 7, 1, &fetched(&[], 1));
        assert_eq!(
            (offsets(&shorter, 0), offsets(&shorter, 1)),
            (None, Some(1..1))
        );
        // Another incarnation.
        let promoted = tail();
        let before = promoted.mark();
        promoted.read(promoted.mark(), 8, 2, &fetched(&[], 2));
        assert_eq!(offsets(&promoted, 2), None, "for an owner of before");
        promoted.wrote(before, batch(2..3, 1));
        assert_eq!(promoted.next(8, 2, 1), Next::End, "written before");
    }

    #[test]
    fn a_read_that_began_before_a_write_takes_nothing_back() {
        let tail = tail();
        let before = tail.mark();
        tail.wrote(tail.mark(), batch(2..3, 1));
        tail.read(before, 7, 2, &fetched(&[], 2));
        assert_eq!(offsets(&tail, 0), Some(0..3));
    }

    #[test]
    fn a_turn_that_is_dropped_goes_to_the_next() {
        let tail = tail();
        let turn = tail.turn().now_or_never().unwrap();
        let (mut gone, mut next) = (Box::pin(tail.turn()), Box::pin(tail.turn()));
        assert!((&mut gone).now_or_never().is_none());
        assert!((&mut next).now_or_never().is_none());
        drop(gone);
        drop(turn);
        assert!(next.now_or_never().is_some());
    }
}
