//! Watching a consumer and shutting it down, from outside of the pipeline that took it.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::{Notify, watch};

use super::chunk::Chunk;

/// What a consumer is doing at a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Nobody polls it: it was never polled, or not for so long that it gave its lease up.
    Idle,
    /// Another consumer of the group has the lease.
    Standby,
    /// It has the lease with this epoch.
    Active {
        /// The fencing token: grows with each change of owner.
        epoch: u64,
    },
    /// It was shut down: nothing of it is under way any more.
    Closed,
}

impl Status {
    /// Whether it has the lease.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Active { .. })
    }
}

/// Watches a consumer and shuts it down.
///
/// Combinators take the consumer by value, so this travels on its own. Cheap to clone; it does not
/// keep the consumer alive.
#[derive(Debug, Clone)]
pub struct Control(pub(super) Arc<Shared>);

impl Control {
    /// What the consumer is doing: of all partitions the one where it is most active. Those of a
    /// stream with several partitions are in [`partitions`](Self::partitions).
    pub fn status(&self) -> Status {
        overall(&self.0.statuses.borrow())
    }

    /// What the consumer is doing at each partition.
    pub fn partitions(&self) -> Vec<Status> {
        self.0.statuses.borrow().clone()
    }

    /// Waits until [`status`](Self::status) is as wanted, or [`Closed`](Status::Closed), which is
    /// the last, and gives it. A status that comes and goes between two looks may be missed.
    ///
    /// # Cancel safety
    ///
    /// Yes.
    pub async fn wait_for(&self, mut wanted: impl FnMut(Status) -> bool) -> Status {
        let mut statuses = self.0.statuses.subscribe();
        let mut is_over = |status| status == Status::Closed || wanted(status);
        match statuses.wait_for(|all| is_over(overall(all))).await {
            Ok(all) => overall(&all),
            Err(_) => Status::Closed,
        }
    }

    /// Shuts the consumer down: at once what is prefetched is dropped, and the stream ends. In the
    /// background it waits for the deliveries that are still held (as long as
    /// [`drain`](crate::ConsumerBuilder::drain) says), writes the commits, and gives the lease
    /// back. The future resolves after that; it need not be awaited.
    pub fn shutdown(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.shut_down();
        let mut statuses = self.0.statuses.subscribe();
        async move {
            // An error means that all is gone: nothing is left to wait for.
            let _ = statuses
                .wait_for(|all| all.iter().all(|status| *status == Status::Closed))
                .await;
        }
    }
}

fn overall(statuses: &[Status]) -> Status {
    let rank = |status: &Status| match status {
        Status::Active { .. } => 3,
        Status::Standby => 2,
        Status::Idle => 1,
        Status::Closed => 0,
    };
    statuses
        .iter()
        .copied()
        .max_by_key(rank)
        .unwrap_or(Status::Closed)
}

/// Shared by a consumer, its lanes and whoever controls it.
pub(crate) struct Shared {
    statuses: watch::Sender<Vec<Status>>,
    stopping: watch::Sender<bool>,
    /// The same as `stopping`, for the hot path.
    stopped: AtomicBool,
    /// Counts the polls of the stream.
    polls: AtomicU64,
    /// Counts those that found nothing.
    idle_polls: watch::Sender<u64>,
    waker: Mutex<Option<Waker>>,
    /// Messages to deliver again, before all others.
    again: Mutex<Option<Chunk>>,
    has_again: AtomicBool,
    took_again: Notify,
}

impl Shared {
    pub(super) fn new(partitions: usize) -> Self {
        Self {
            statuses: watch::Sender::new(vec![Status::Idle; partitions]),
            stopping: watch::Sender::new(false),
            stopped: AtomicBool::new(false),
            polls: AtomicU64::new(0),
            idle_polls: watch::Sender::new(0),
            waker: Mutex::new(None),
            again: Mutex::new(None),
            has_again: AtomicBool::new(false),
            took_again: Notify::new(),
        }
    }

    pub(super) fn set_status(&self, partition: usize, status: Status) {
        self.statuses.send_if_modified(|statuses| {
            let changes = statuses[partition] != status;
            statuses[partition] = status;
            changes
        });
    }

    pub(super) fn shut_down(&self) {
        self.stopped.store(true, Ordering::Release);
        self.stopping.send_replace(true);
        // Its session holds this.
        drop(self.take_again());
        self.wake();
    }

    #[inline]
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(super) async fn until_stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender is here: it cannot be gone.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    #[inline]
    pub(super) fn count_poll(&self) {
        // There is one consumer: nobody else writes this.
        let polls = self.polls.load(Ordering::Relaxed).wrapping_add(1);
        self.polls.store(polls, Ordering::Relaxed);
    }

    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// The consumer found nothing and goes to sleep. It looks again after this.
    pub(super) fn sleep(&self, waker: &Waker) {
        let mut slot = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *slot {
            Some(slot) => slot.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        drop(slot);
        self.idle_polls.send_modify(|polls| *polls += 1);
    }

    /// Whether the last poll of the consumer found nothing, and nobody has woken it since. Whoever has
    /// messages for it does.
    pub(super) fn is_asleep(&self) -> bool {
        let slot = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        slot.is_some()
    }

    /// Wakes the consumer.
    pub(super) fn wake(&self) {
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn idle_polls(&self) -> u64 {
        *self.idle_polls.borrow()
    }

    /// Resolves with the next poll that finds nothing after so many.
    pub(super) async fn polled_after(&self, seen: u64) {
        let mut idle_polls = self.idle_polls.subscribe();
        let _ = idle_polls.wait_for(|polls| *polls > seen).await;
    }

    /// Hands messages to the consumer that go before all others. Waits until it took the last.
    pub(super) async fn deliver_again(&self, chunk: Chunk) {
        let mut chunk = Some(chunk);
        loop {
            let took = self.took_again.notified();
            {
                let mut slot = self.again.lock().unwrap_or_else(PoisonError::into_inner);
                if self.is_stopped() {
                    return;
                }
                if slot.is_none() {
                    *slot = chunk.take();
                    self.has_again.store(true, Ordering::Release);
                }
            }
            if chunk.is_none() {
                return self.wake();
            }
            took.await;
        }
    }

    #[inline]
    pub(super) fn has_again(&self) -> bool {
        self.has_again.load(Ordering::Acquire)
    }

    pub(super) fn take_again(&self) -> Option<Chunk> {
        let mut slot = self.again.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_again.store(false, Ordering::Release);
        let chunk = slot.take();
        drop(slot);
        self.took_again.notify_one();
        chunk
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("statuses", &*self.statuses.borrow())
            .field("stopping", &self.is_stopped())
            .finish_non_exhaustive()
    }
}
