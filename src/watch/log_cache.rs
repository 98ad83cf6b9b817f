//! The newest batches of a partition, in memory.
//!
//! What a producer of this process wrote, and what one of its consumers read at the end of the log, the
//! others need not read again. Only a consumer whose lease is not in question may look here: a read of
//! the storage is also what tells it that it lost the lease.
//!
//! It is one segment of one log, without gaps. It begins with a read of the storage, which says in which
//! incarnation that was, and it begins anew whenever something does not fit.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::storage::{Fetched, StoredBatch};
use crate::sync::{Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct LogCache {
    me: Weak<Self>,
    segment: Mutex<Segment>,
    /// Whoever has it reads what follows, for all others who want it and wait.
    permit: tokio::sync::Mutex<()>,
    budget: Arc<CacheBudget>,
}

/// What the caches of all partitions have, in bytes: where it is too much, the oldest batch goes first,
/// whichever partition it is of. The newest stays in any case, as a read gives one in any case.
#[derive(Debug, Default)]
pub(crate) struct CacheBudget(Mutex<KeptBatches>);

#[derive(Debug, Default)]
struct KeptBatches {
    max_bytes: usize,
    bytes: usize,
    /// The batches in the order in which they came; some may be gone by now.
    order: VecDeque<Kept>,
}

#[derive(Debug)]
struct Kept {
    cache: Weak<LogCache>,
    /// Where the batch ends.
    end: u64,
    bytes: usize,
}

/// The right to read what follows, for all who wait. Dropped, it goes to the next of them.
pub(crate) type ReadPermit<'a> = tokio::sync::MutexGuard<'a, ()>;

#[derive(Debug, Default)]
struct Segment {
    /// The incarnation of the storage that it was read from; `None` while nothing is known.
    incarnation: Option<u64>,
    /// Changes when it begins anew.
    version: u64,
    batches: VecDeque<StoredBatch>,
    /// Where it ends.
    end: u64,
}

/// How it stood when a call of the storage began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentMark {
    version: u64,
    end: u64,
}

/// What follows an offset.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Batches(Vec<StoredBatch>),
    /// Nothing yet: the segment ends at this offset.
    End,
    /// Only the storage knows.
    Elsewhere,
}

impl CacheBudget {
    /// So many bytes may be kept, or what was allowed before.
    pub(crate) fn allow(&self, bytes: usize) {
        let mut batches = self.batches();
        batches.max_bytes = batches.max_bytes.max(bytes);
    }

    /// This was added to a cache. Caches let go of what is too much with it.
    fn add(&self, kept: Kept) {
        let gone: Vec<Kept> = {
            let mut batches = self.batches();
            batches.bytes += kept.bytes;
            batches.order.push_back(kept);
            let mut gone = Vec::new();
            while batches.bytes > batches.max_bytes && batches.order.len() > 1 {
                gone.extend(batches.order.pop_front());
                batches.bytes -= gone.last().map_or(0, |kept| kept.bytes);
            }
            gone
        };
        for kept in gone {
            if let Some(cache) = kept.cache.upgrade() {
                cache.let_go_to(kept.end);
            }
        }
    }

    // Nothing that holds this lock can panic halfway through a change. No other lock is taken under it.
    fn batches(&self) -> MutexGuard<'_, KeptBatches> {
        self.0.lock()
    }
}

impl LogCache {
    pub(crate) fn new(budget: Arc<CacheBudget>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            segment: Mutex::default(),
            permit: tokio::sync::Mutex::default(),
            budget,
        })
    }

    pub(crate) fn mark(&self) -> SegmentMark {
        let segment = self.segment();
        SegmentMark {
            version: segment.version,
            end: segment.end,
        }
    }

    /// What a [read](crate::storage::Storage::read) from this offset would give whoever has a lease of
    /// this incarnation of the storage.
    pub(crate) fn next(&self, incarnation: u64, from: u64, max_bytes: usize) -> Next {
        let segment = self.segment();
        if segment.incarnation != Some(incarnation) || from > segment.end || from < segment.start()
        {
            return Next::Elsewhere;
        }
        if from == segment.end {
            return Next::End;
        }
        let mut room = max_bytes.max(1);
        let batches = segment.batches.range(segment.position(from)..);
        let batches = batches.take_while(|batch| {
            let is_wanted = room > 0;
            room = room.saturating_sub(batch.records.size());
            is_wanted
        });
        Next::Batches(batches.cloned().collect())
    }

    /// Resolves when nobody else reads what follows. Cancel safe.
    pub(crate) async fn permit(&self) -> ReadPermit<'_> {
        self.permit.lock().await
    }

    /// The permit, if nobody has it.
    pub(crate) fn try_permit(&self) -> Option<ReadPermit<'_>> {
        self.permit.try_lock().ok()
    }

    /// A batch was written by an append that began at the mark.
    pub(crate) fn wrote(&self, mark: SegmentMark, batch: StoredBatch) {
        let mut segment = self.segment();
        if mark.version != segment.version || segment.incarnation.is_none() {
            return;
        }
        if !segment.agrees_with(&batch) {
            let gone = segment.forget();
            drop(segment);
            drop(gone);
        } else if batch.base_offset == segment.end {
            let kept = self.kept_of(&batch);
            segment.push(batch);
            drop(segment);
            self.budget.add(kept);
        }
        // What was written in between by others is read with it.
    }

    /// This was read from an offset on, in this incarnation, by a call that began at the mark.
    pub(crate) fn read(&self, mark: SegmentMark, incarnation: u64, from: u64, fetched: &Fetched) {
        let mut segment = self.segment();
        let start = fetched.batches.first().map_or(from, |it| it.base_offset);
        // A group may wait for an offset that the log has not reached.
        let start = start.min(fetched.bounds.end);
        let went_back = mark.version == segment.version && fetched.bounds.end < mark.end;
        let fits = segment.incarnation == Some(incarnation)
            && !went_back
            && start <= segment.end
            && fetched.batches.iter().all(|it| segment.agrees_with(it));
        let mut gone = VecDeque::new();
        if !fits {
            gone = segment.forget();
            segment.incarnation = Some(incarnation);
            segment.end = start;
        }
        let mut kept = Vec::new();
        for batch in &fetched.batches {
            if batch.base_offset == segment.end {
                kept.push(self.kept_of(batch));
                segment.push(batch.clone());
            }
        }
        drop(segment);
        drop(gone);
        kept.into_iter().for_each(|kept| self.budget.add(kept));
    }

    fn kept_of(&self, batch: &StoredBatch) -> Kept {
        Kept {
            cache: self.me.clone(),
            end: batch.offsets().end,
            bytes: size(batch),
        }
    }

    /// Lets go of the batches that end there, or earlier.
    fn let_go_to(&self, end: u64) {
        let gone: Vec<StoredBatch> = {
            let mut segment = self.segment();
            // Mostly one: the first.
            let ends = |batch: &StoredBatch| batch.offsets().end <= end;
            let count = segment
                .batches
                .iter()
                .take_while(|batch| ends(batch))
                .count();
            segment.batches.drain(..count).collect()
        };
        drop(gone);
    }

    pub(crate) fn forget(&self) {
        let gone = self.segment().forget();
        drop(gone);
    }

    // Nothing that holds this lock can panic halfway through a change. Batches are dropped outside of
    // it: their bytes may be somebody else's.
    fn segment(&self) -> MutexGuard<'_, Segment> {
        self.segment.lock()
    }
}

impl Segment {
    fn start(&self) -> u64 {
        self.batches.front().map_or(self.end, |it| it.base_offset)
    }

    /// The place of the first batch that ends behind this offset. It is looked for from the end, where most read, in
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
        debug_assert_eq!(batch.base_offset, self.end, "a segment has no gaps");
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
mod tests;
