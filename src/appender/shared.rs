//! What the producers and the task of an appender share.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::failure::Failure;
use super::queue::Queue;
use super::request::AppendRequest;
use super::routing::Routing;
use crate::clock::Clock;
use crate::error::Error;
use crate::retry::RetryPolicy;
use crate::storage::Storage;
use crate::sync::{Mutex, MutexGuard};
use crate::task::OnDemand;
use crate::watch::LogWatch;

/// What the producers and the task of an appender share.
#[derive(Debug)]
pub(super) struct AppenderShared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) retry: RetryPolicy,
    pub(super) watch: LogWatch,
    pub(super) routing: Routing,
    /// Taken before the lock of a sequence. Requests are answered, and dropped, outside of it.
    queue: Mutex<Queue>,
    pub(super) on_demand: OnDemand,
    /// The error of the last attempt to write, if that failed.
    pub(super) failure: Failure,
    /// The error of the last look at the storage, if that failed.
    pub(super) look_failure: Failure,
    /// Something was handed in.
    pub(super) arrived: Notify,
    /// An attempt failed.
    pub(super) failed: Notify,
    /// There is room in the queue, or something to say to those who wait for it.
    pub(super) freed: Arc<Notify>,
    /// The task has ended.
    pub(super) rested: Notify,
}

impl AppenderShared {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        retry: RetryPolicy,
        watch: LogWatch,
    ) -> Self {
        Self {
            storage,
            clock,
            retry,
            watch,
            routing: Routing::default(),
            queue: Mutex::default(),
            on_demand: OnDemand::new(),
            failure: Failure::default(),
            look_failure: Failure::default(),
            arrived: Notify::new(),
            failed: Notify::new(),
            freed: Arc::default(),
            rested: Notify::new(),
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Ready once there is room, or something to say, from now on.
    pub(super) fn listen(&self) -> Pin<Box<OwnedNotified>> {
        let mut freed = Box::pin(self.freed.clone().notified_owned());
        freed.as_mut().enable();
        freed
    }

    pub(super) fn needs_a_look(&self, request: &AppendRequest) -> bool {
        request.batch.in_doubt() || self.routing.is_unknown(request)
    }

    /// An attempt failed: those whose budget is over share the error. Without a budget each has one
    /// attempt.
    pub(super) fn fails(&self, failure: &Failure, error: &Error) {
        if self.retry.budget.is_zero() {
            return;
        }
        failure.set(error);
        self.failed.notify_one();
        self.freed.notify_waiters();
    }

    pub(super) fn failure_behind(&self, deadline: Duration) -> Option<Error> {
        let error = self.failure.get()?;
        (deadline <= self.clock.now()).then_some(error)
    }
}
