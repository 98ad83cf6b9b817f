//! What a consumer may have read ahead, in bytes, over all of its partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// So many reads are under way at once: each may give a batch that is larger than what was reserved
/// for it.
const READS: usize = 4;

/// What is freed in smaller pieces is said later.
const PIECE: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Budget {
    max: usize,
    used: AtomicUsize,
    /// Given in the order in which they were asked for.
    reads: Arc<Semaphore>,
    freed: Notify,
}

/// The right to read, and then the bytes that what was read takes. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
    /// How many of the bytes are free already, which was not said yet.
    unsaid: usize,
    reading: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            used: AtomicUsize::new(0),
            reads: Arc::new(Semaphore::new(READS)),
            freed: Notify::new(),
        })
    }

    /// Waits until it may be read, and so many bytes are free, or all are. While they are not, it
    /// asks for room: whether there is some now. Cancel safe.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: usize, ask: impl Fn() -> bool) -> Charge {
        // It is never closed.
        let reading = self.reads.clone().acquire_owned().await.ok();
        loop {
            let freed = self.freed.notified();
            if self.take(bytes) {
                return Charge {
                    budget: self.clone(),
                    bytes,
                    unsaid: 0,
                    reading,
                };
            }
            if !ask() {
                freed.await;
            }
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| {
            let after = used.saturating_add(bytes);
            (used == 0 || after <= self.max).then_some(after)
        };
        // It counts; what it counts is ordered by locks of its own.
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.look_again();
    }

    /// Whoever waits for room looks again whether there is some.
    pub(super) fn look_again(&self) {
        self.freed.notify_waiters();
    }
}

impl Charge {
    /// It was read, and takes so many bytes: others may read.
    pub(super) fn settle(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            self.budget
                .used
                .fetch_add(bytes - before, Ordering::Relaxed);
        } else if bytes < before {
            self.budget.give_back(before - bytes);
        }
        self.reading = None;
    }

    /// So many bytes of it are free.
    pub(super) fn free(&mut self, bytes: usize) {
        self.unsaid += bytes;
        if self.unsaid >= PIECE {
            let bytes = std::mem::take(&mut self.unsaid).min(self.bytes);
            self.bytes -= bytes;
            self.budget.give_back(bytes);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn reserve(budget: &Arc<Budget>, bytes: usize) -> Option<Charge> {
        budget.reserve(bytes, || false).now_or_never()
    }

    fn read(budget: &Arc<Budget>, bytes: usize, found: usize) -> Charge {
        let mut charge = reserve(budget, bytes).expect("room");
        charge.settle(found);
        charge
    }

    #[test]
    fn what_is_read_ahead_is_bounded_but_for_the_last_batch() {
        let budget = Budget::new(100);
        let first = read(&budget, 40, 40);
        let second = read(&budget, 40, 300);
        assert!(reserve(&budget, 1).is_none());
        drop(second);
        let third = reserve(&budget, 60).expect("room");
        assert!(reserve(&budget, 1).is_none());
        drop((first, third));
        assert!(reserve(&budget, 1_000).is_some(), "one in any case");
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn so_many_read_at_once() {
        let budget = Budget::new(1_000);
        let mut reading: Vec<Charge> = (0..READS)
            .map(|_| reserve(&budget, 1).expect("a turn"))
            .collect();
        assert!(reserve(&budget, 1).is_none());
        reading[0].settle(5);
        assert!(reserve(&budget, 1).is_some());
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_there_is_room() {
        let budget = Budget::new(10 * PIECE);
        let mut first = read(&budget, 1, 10 * PIECE);
        let mut waits = Box::pin(budget.reserve(PIECE, || false));
        assert!((&mut waits).now_or_never().is_none());
        first.free(PIECE / 2);
        assert!((&mut waits).now_or_never().is_none(), "it is not said yet");
        first.free(PIECE / 2);
        assert!(waits.now_or_never().is_some());
        drop(first);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn whoever_finds_no_room_asks_for_it() {
        let budget = Budget::new(10);
        let paused = std::cell::RefCell::new(Some(read(&budget, 10, 10)));
        let ask = || paused.borrow_mut().take().is_some();
        assert!(budget.reserve(10, ask).now_or_never().is_some());
    }
}
