//! Watching a consumer and shutting it down, from outside of the pipeline that took it.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::budget::{Budget, Charge};
use super::chunk::Chunk;
use super::inbox::Inbox;
use super::session::Session;
use crate::error::Error;

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
    /// It has the lease with this epoch, and hands out nothing new until less is left undone. What was
    /// dropped or is to be retried still comes again.
    ///
    /// Only these limits pause a partition. What is read ahead
    /// ([`prefetch`](crate::ConsumerBuilder::prefetch)) waits for polls, and deliveries that are held
    /// pause it by what is done beyond them alone.
    Paused {
        /// The fencing token: grows with each change of owner.
        epoch: u64,
        /// Which limit it has reached.
        why: Pause,
    },
    /// It was shut down: nothing of it is under way any more.
    Closed,
}

impl Status {
    /// Whether it has the lease, paused or not.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Active { .. } | Self::Paused { .. })
    }

    /// Whether it has the lease, and hands out nothing new for now.
    pub fn is_paused(self) -> bool {
        matches!(self, Self::Paused { .. })
    }

    /// Of the lease with this epoch.
    fn of(epoch: u64, pause: Option<Pause>) -> Self {
        match pause {
            Some(why) => Self::Paused { epoch, why },
            None => Self::Active { epoch },
        }
    }

    fn has_lease(self, of: u64) -> bool {
        match self {
            Self::Active { epoch } | Self::Paused { epoch, .. } => epoch == of,
            _ => false,
        }
    }
}

/// Why nothing new of a partition is handed out, though the consumer has the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pause {
    /// About 1,000 ranges of messages are done beyond one that is not, which is as many as a group keeps.
    /// It goes on once the first of those that are not done are: some are held, or were dropped, or wait
    /// to be retried.
    AckedRanges,
    /// About 1,000 messages wait to be delivered again ([`retry_after`](crate::Commit::retry_after)). It
    /// goes on once some have come.
    Retries,
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
        loop {
            // What is wanted is asked outside of the lock.
            let status = overall(&statuses.borrow_and_update());
            if status == Status::Closed || wanted(status) {
                return status;
            }
            if statuses.changed().await.is_err() {
                return Status::Closed;
            }
        }
    }

    /// Shuts the consumer down: at once what is prefetched is dropped, and the stream ends. In the
    /// background it waits for the deliveries that are still held (as long as
    /// [`drain`](crate::ConsumerBuilder::drain) says), writes the commits, and gives the lease
    /// back, for which it takes as long again at most. The future resolves after that; it need not
    /// be awaited.
    pub fn shutdown(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.shut_down();
        self.0.closed()
    }
}

fn overall(statuses: &[Status]) -> Status {
    let rank = |status: &Status| match status {
        Status::Active { .. } => 4,
        Status::Paused { .. } => 3,
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
    /// What the consumer has to look at before it hands out the next message: see [`attention`].
    attention: AtomicU8,
    /// Counts the polls of the stream.
    polls: AtomicU64,
    /// Somebody waits for a poll.
    polled: Notify,
    waker: Mutex<Option<Waker>>,
    inbox: Inbox,
    budget: Arc<Budget>,
    /// Of each read.
    share: usize,
    /// Messages to deliver again, before all others.
    again: Mutex<Option<Chunk>>,
    /// What comes again is read once there is nothing that does, or is handed out.
    redelivering: Arc<Semaphore>,
    /// Dead letters are read once the ones before are written.
    moving: Arc<Semaphore>,
    /// What ended it otherwise than by a shutdown.
    failure: Mutex<Option<Error>>,
}

/// Why the consumer is to look up from what it hands out. It is set after what it speaks of, and
/// taken before that is looked at: release and acquire.
pub(super) mod attention {
    pub(in crate::consumer) const STOPPED: u8 = 1;
    pub(in crate::consumer) const AGAIN: u8 = 2;
    pub(in crate::consumer) const RESUMED: u8 = 4;
    pub(in crate::consumer) const POLL: u8 = 8;
}

impl Shared {
    /// Of so many partitions; `prefetch` is what they may have read ahead together, in bytes.
    pub(super) fn new(partitions: usize, prefetch: usize) -> Self {
        Self {
            statuses: watch::Sender::new(vec![Status::Idle; partitions]),
            stopping: watch::Sender::new(false),
            attention: AtomicU8::new(0),
            polls: AtomicU64::new(0),
            polled: Notify::new(),
            waker: Mutex::new(None),
            inbox: Inbox::new(partitions),
            budget: Budget::new(prefetch),
            share: prefetch / (partitions + 1),
            again: Mutex::new(None),
            redelivering: Arc::new(Semaphore::new(1)),
            moving: Arc::new(Semaphore::new(1)),
            failure: Mutex::new(None),
        }
    }

    pub(super) fn set_status(&self, partition: usize, status: Status) {
        self.statuses.send_if_modified(|statuses| {
            let changes = statuses[partition] != status;
            statuses[partition] = status;
            changes
        });
    }

    /// Whether a partition is paused, as long as the consumer has this lease of it.
    pub(super) fn set_pause(
        &self,
        partition: usize,
        epoch: u64,
        pause: impl Fn() -> Option<Pause>,
    ) {
        self.statuses.send_if_modified(|statuses| {
            let before = statuses[partition];
            if before.has_lease(epoch) {
                // Asked here, so that the last who says so has seen the last change.
                statuses[partition] = Status::of(epoch, pause());
            }
            statuses[partition] != before
        });
    }

    /// Resolves once nothing of it is under way any more.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut statuses = self.statuses.subscribe();
        async move {
            // An error means that all is gone: nothing is left to wait for.
            let _ = statuses
                .wait_for(|all| all.iter().all(|status| *status == Status::Closed))
                .await;
        }
    }

    pub(crate) fn shut_down(&self) {
        self.attract(attention::STOPPED);
        self.stopping.send_replace(true);
        // Their sessions hold this.
        self.inbox.close();
        drop(self.take_again());
        self.wake();
    }

    /// Shuts it down because of this error, which the stream gives before it ends.
    pub(super) fn fail(&self, error: Error) {
        let late = {
            let mut failure = lock(&self.failure);
            match self.is_stopped() || failure.is_some() {
                true => Some(error),
                false => failure.replace(error),
            }
        };
        drop(late);
        self.shut_down();
    }

    pub(super) fn take_failure(&self) -> Option<Error> {
        lock(&self.failure).take()
    }

    #[inline]
    pub(super) fn is_stopped(&self) -> bool {
        self.attention.load(Ordering::Acquire) & attention::STOPPED != 0
    }

    pub(super) async fn until_stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender is here: it cannot be gone.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    // What the consumer hands out.

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// What one read is to give, in bytes; it may be over by a batch.
    pub(super) fn share(&self) -> usize {
        self.share
    }

    /// Waits until a share may be read, and there is room for it: what was read ahead of partitions
    /// that are paused makes room. Cancel safe.
    pub(super) async fn reserve(&self) -> Charge {
        let ask = || self.inbox.let_go_of_a_paused_one();
        self.budget.reserve(self.share, ask).await
    }

    /// A partition is paused: others may have its room.
    pub(super) fn paused(&self) {
        self.budget.look_again();
    }

    /// A partition is not paused any more.
    pub(super) fn resumed(&self) {
        self.attract(attention::RESUMED);
        self.wake();
    }

    /// Waits until nothing that comes again is read or handed out.
    pub(super) async fn redeliver(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.redelivering.clone().acquire_owned().await.ok()
    }

    /// Waits until no dead letters are read or written.
    pub(super) async fn move_away(&self) -> Option<OwnedSemaphorePermit> {
        self.moving.clone().acquire_owned().await.ok()
    }

    /// Hands messages to the consumer that go before all others. Whoever does has waited for
    /// [`redeliver`](Self::redeliver).
    pub(super) fn deliver_again(&self, chunk: Chunk) {
        let chunk = {
            let mut again = lock(&self.again);
            match self.is_stopped() {
                true => Some(chunk),
                false => again.replace(chunk),
            }
        };
        drop(chunk);
        self.attract(attention::AGAIN);
        self.wake();
    }

    pub(super) fn take_again(&self) -> Option<Chunk> {
        lock(&self.again).take()
    }

    /// Lets go of what is to be handed out under a lease that ended.
    pub(super) fn let_go_of(&self, session: &Session) {
        let gone = lock(&self.again).take_if(|chunk| std::ptr::eq(chunk.session(), session));
        drop(gone);
    }

    // Polls.

    /// Asks for the attention of the consumer.
    fn attract(&self, reason: u8) {
        self.attention.fetch_or(reason, Ordering::Release);
    }

    /// Whether there is any reason to look up.
    #[inline]
    pub(super) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire) != 0
    }

    /// Takes the reasons to look up, but for the one that stays.
    pub(super) fn take_attention(&self) -> u8 {
        self.attention
            .fetch_and(attention::STOPPED, Ordering::AcqRel)
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

    /// The consumer is polled.
    pub(super) fn was_polled(&self) {
        self.polled.notify_waiters();
    }

    /// Resolves once it was polled.
    pub(super) async fn first_poll(&self) {
        if self.polls() == 0 {
            self.next_poll().await;
        }
    }

    /// Resolves with the next poll, whatever it finds. A consumer that only waits for messages is
    /// woken for it.
    pub(super) async fn next_poll(&self) {
        let polled = self.polled.notified();
        self.attract(attention::POLL);
        // One that is about to sleep looks once more, and sees it.
        self.wake();
        polled.await;
    }

    /// The consumer found nothing and goes to sleep. It looks again after this.
    pub(super) fn sleep(&self, waker: &Waker) {
        let is_known = |known: &Waker| known.will_wake(waker);
        if lock(&self.waker).as_ref().is_some_and(is_known) {
            return;
        }
        // A waker is somebody else's code: it is cloned and dropped outside of the lock.
        let waker = waker.clone();
        let before = lock(&self.waker).replace(waker);
        drop(before);
    }

    /// Whether the last poll of the consumer found nothing, and nobody has woken it since. Whoever has
    /// messages for it does.
    pub(super) fn is_asleep(&self) -> bool {
        lock(&self.waker).is_some()
    }

    /// Wakes the consumer.
    pub(super) fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

// Nothing that holds one of these locks can panic halfway through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("statuses", &*self.statuses.borrow())
            .field("stopping", &self.is_stopped())
            .finish_non_exhaustive()
    }
}
