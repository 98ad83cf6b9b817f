//! What a consumer, its assignments and whoever controls it share.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task::Waker;

use futures_core::future::BoxFuture;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::attention;
use super::budget::{Budget, Charge};
use super::chunk::Chunk;
use super::inbox::Inbox;
use super::status::Status;
use crate::context::{Context, ShutDown};
use crate::error::Error;
use crate::session::{LeaseHolder, Pause, Session};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What a consumer, its assignments and whoever controls it share.
///
/// Each lock is for itself: no other one is taken under it.
pub(crate) struct ConsumerShared {
    context: Arc<Context>,
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
    /// What one read is to give, in bytes.
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

impl ConsumerShared {
    /// What a consumer of so many partitions shares; `prefetch` is what they may have read ahead
    /// together, in bytes.
    pub(super) fn new(context: Arc<Context>, partitions: usize, prefetch: usize) -> Self {
        Self {
            context,
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

    pub(super) fn statuses(&self) -> &watch::Sender<Vec<Status>> {
        &self.statuses
    }

    pub(super) fn set_status(&self, partition: usize, status: Status) {
        self.statuses.send_if_modified(|statuses| {
            let changes = statuses[partition] != status;
            statuses[partition] = status;
            changes
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
            let mut failure = self.failure.lock();
            match self.is_stopped() || failure.is_some() {
                true => Some(error),
                false => failure.replace(error),
            }
        };
        drop(late);
        self.shut_down();
    }

    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().take()
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
            let mut again = self.again.lock();
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
        self.again.lock().take()
    }

    /// Lets go of what is to be handed out under a lease that ended.
    pub(super) fn let_go_of(&self, session: &Session) {
        let gone = self
            .again
            .lock()
            .take_if(|chunk| std::ptr::eq(chunk.session(), session));
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
        // Relaxed: there is one consumer, and nobody else writes this.
        let polls = self.polls.load(Ordering::Relaxed).wrapping_add(1);
        self.polls.store(polls, Ordering::Relaxed);
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
        if self.waker.lock().as_ref().is_some_and(is_known) {
            return;
        }
        // A waker is somebody else's code: it is cloned and dropped outside of the lock.
        let waker = waker.clone();
        let before = self.waker.lock().replace(waker);
        drop(before);
    }

    /// Wakes the consumer.
    pub(super) fn wake(&self) {
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl LeaseHolder for ConsumerShared {
    fn context(&self) -> &dyn Any {
        &*self.context
    }

    fn wake(&self) {
        Self::wake(self);
    }

    fn is_asleep(&self) -> bool {
        // Whoever has messages for it wakes it, which takes its waker.
        self.waker.lock().is_some()
    }

    fn is_stopped(&self) -> bool {
        Self::is_stopped(self)
    }

    fn polls(&self) -> u64 {
        // Relaxed: a count that changes, and says nothing of other memory.
        self.polls.load(Ordering::Relaxed)
    }

    fn set_pause(&self, partition: usize, epoch: u64, pause: &dyn Fn() -> Option<Pause>) {
        self.statuses.send_if_modified(|statuses| {
            let before = statuses[partition];
            if before.has_lease(epoch) {
                // Asked here, so that the last who says so has seen the last change.
                statuses[partition] = Status::of(epoch, pause());
            }
            statuses[partition] != before
        });
    }

    fn paused(&self) {
        self.budget.look_again();
    }

    fn resumed(&self) {
        self.attract(attention::RESUMED);
        self.wake();
    }
}

impl ShutDown for ConsumerShared {
    fn shut_down(&self) {
        Self::shut_down(self);
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        Box::pin(Self::closed(self))
    }
}

impl fmt::Debug for ConsumerShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("statuses", &*self.statuses.borrow())
            .field("stopping", &self.is_stopped())
            .finish_non_exhaustive()
    }
}
