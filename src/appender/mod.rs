//! Gathers the appends of all producers into few statements: group commit.
//!
//! What arrives while statements are under way is encoded into the next. So a thousand tasks that
//! each send one message pay for a few writes, and a single producer encodes while the disk works.
//! (Group commit: DeWitt et al., SIGMOD 1984.)
//!
//! Where the storage wants more than one statement under way ([`Storage::append_depth`]), those to
//! one partition are a chain: each names the one before, and is not written unless that one is in
//! the log. (As the sequence numbers of Kafka's idempotent producer, KIP-98, keep the order of
//! requests in flight.)

mod chain;
mod doubt;
mod failure;
mod flight;
mod landing;
mod look;
mod queue;
mod rebuild;
mod route;
mod rows;
mod statement;
mod submission;
mod task;
mod write;

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::clock::Clock;
use crate::error::{Error, Result};
#[cfg(feature = "postgres")]
use crate::message::Batch;
use crate::name::Name;
use crate::retry::RetryPolicy;
use crate::storage::Storage;
use crate::watch::Watch;

pub(crate) use chain::Chain;
pub(crate) use doubt::Doubt;
use failure::Failure;
use queue::Queue;
pub(crate) use route::Routes;
pub use submission::AppendedRow;
pub(crate) use submission::{Answer, Submission, Ticket, Unsent};

/// The handle to hand appends in. Its task exists only while there is work.
#[derive(Debug, Clone)]
pub(crate) struct Appender(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    retry: RetryPolicy,
    watch: Watch,
    routes: Routes,
    queue: Mutex<Queue>,
    /// Of attempts to write.
    failure: Failure,
    /// Of looks.
    look_failure: Failure,
    arrived: Notify,
    failed: Notify,
    /// There is room in the queue, or something to say to those who wait for it.
    freed: Arc<Notify>,
    rested: Notify,
}

/// Waits until there is room in the queue.
#[derive(Debug)]
pub(crate) struct Door {
    deadline: Duration,
    freed: Pin<Box<OwnedNotified>>,
}

impl Appender {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        retry: RetryPolicy,
        watch: Watch,
    ) -> Self {
        Self(Arc::new(Shared {
            storage,
            clock,
            retry,
            watch,
            routes: Routes::default(),
            queue: Mutex::default(),
            failure: Failure::default(),
            look_failure: Failure::default(),
            arrived: Notify::new(),
            failed: Notify::new(),
            freed: Arc::default(),
            rested: Notify::new(),
        }))
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.0.routes
    }

    /// When the budget is over of what is handed in now.
    pub(crate) fn deadline(&self) -> Duration {
        self.0.retry.deadline(&*self.0.clock)
    }

    pub(crate) fn has_room(&self) -> bool {
        let queue = self.0.queue();
        queue.has_room() || queue.is_closed
    }

    /// Ready once there is room in the queue, or none will be: what is handed in after a close is
    /// refused. An error, if the storage failed until the deadline of the first poll was over.
    pub(crate) fn poll_room(
        &self,
        door: &mut Option<Door>,
        deadline: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        loop {
            if self.has_room() {
                *door = None;
                return Poll::Ready(Ok(()));
            }
            // What is freed from now on wakes it: it looks once more before it waits.
            let Some(waiting) = door else {
                let freed = self.0.listen();
                *door = Some(Door { deadline, freed });
                continue;
            };
            ready!(waiting.freed.as_mut().poll(cx));
            waiting.freed = self.0.listen();
            if let Some(error) = self.0.failure_behind(waiting.deadline) {
                *door = None;
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Hands a batch in. Those that one producer hands in are written in that order. The task runs on
    /// the runtime that polls, or on that of the caller where there is none.
    pub(crate) fn submit(
        &self,
        (submission, mut ticket): (Submission, Ticket),
        callers: &Handle,
    ) -> Ticket {
        let mut queue = self.0.queue();
        if queue.is_closed {
            drop(queue);
            submission.fail(Error::closed(
                "the storage was closed, and nothing is appended any more: open it again",
            ));
            return ticket;
        }
        ticket.set_place(queue.push(submission));
        let is_running = std::mem::replace(&mut queue.is_running, true);
        drop(queue);
        match is_running {
            true => self.0.arrived.notify_one(),
            false => task::start(&self.0, &here(callers)),
        }
        ticket
    }

    /// Takes a unit back that nobody wants any more, if it is in no statement yet. If it is in one
    /// that is not under way it is let go of later.
    pub(crate) fn withdraw(&self, ticket: &mut Ticket) -> bool {
        let mut queue = self.0.queue();
        let withdrawn = queue.remove(ticket.place());
        drop(queue);
        ticket.renounce();
        match withdrawn {
            None => false,
            Some(submission) => {
                submission.let_go();
                self.0.freed.notify_waiters();
                true
            }
        }
    }

    /// Whether batches that come back because a runtime ended can go on: on the one that polls, or
    /// on that of the caller where there is none.
    pub(crate) fn can_go_on(&self, callers: &Handle) -> bool {
        self.0.queue().ended != Some(here(callers).id())
    }

    /// The answer to a unit with nothing behind it. Where the runtime ended that the task ran on,
    /// the unit goes on on another.
    pub(crate) fn poll_unit(
        &self,
        ticket: &mut Ticket,
        stream: &Name,
        callers: &Handle,
        cx: &mut Context<'_>,
    ) -> Poll<Answer> {
        loop {
            match ready!(ticket.poll(cx)) {
                Err(Unsent::Orphaned(batch)) if self.can_go_on(callers) => {
                    let again = ticket.again(stream.clone(), batch);
                    *ticket = self.submit(again, callers);
                }
                answer => return Poll::Ready(answer),
            }
        }
    }

    /// From now on nothing is taken. Resolves once all that was is answered: while the storage fails
    /// that takes as long as the budgets.
    pub(crate) async fn close(&self) {
        self.0.queue().is_closed = true;
        self.0.freed.notify_waiters();
        loop {
            let mut rested = pin!(self.0.rested.notified());
            rested.as_mut().enable();
            if !self.0.queue().is_running {
                return;
            }
            rested.await;
        }
    }

    /// A batch as rows, for a transaction of the application; and the batch.
    #[cfg(feature = "postgres")]
    pub(crate) async fn lay_out(
        &self,
        stream: &Name,
        batch: Batch,
    ) -> Result<(Arc<crate::storage::Append>, Batch), Unsent> {
        let shared = &*self.0;
        let (chain, deadline) = (Chain::new(), self.deadline());
        let (submission, _) = Submission::unit(stream.clone(), batch, chain, deadline);
        if let Err(error) = shared.learn_streams(&submission).await {
            return Err(Unsent::Failed(error, submission.into_batch()));
        }
        let mut statement = statement::Statement::default();
        statement.add(submission, &shared.routes, &shared.storage);
        let append = statement.seal(crate::storage::Id::random(), None);
        Ok((append, statement.into_batch()))
    }
}

impl Shared {
    // Nothing that holds this lock can panic halfway through a change.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready once there is room, or something to say, from now on.
    fn listen(&self) -> Pin<Box<OwnedNotified>> {
        let mut freed = Box::pin(self.freed.clone().notified_owned());
        freed.as_mut().enable();
        freed
    }

    /// Whether nothing waits: then the task ends.
    fn rest(&self) -> bool {
        let mut queue = self.queue();
        queue.is_running = !queue.is_empty();
        !queue.is_running
    }

    fn needs_a_look(&self, submission: &Submission) -> bool {
        submission.batch.in_doubt() || self.routes.lacks(submission)
    }

    /// An attempt failed: those whose budget is over share the error. Without a budget each has one
    /// attempt.
    fn fails(&self, failure: &Failure, error: &Error) {
        if self.retry.budget.is_zero() {
            return;
        }
        failure.set(error);
        self.failed.notify_one();
        self.freed.notify_waiters();
    }

    fn failure_behind(&self, deadline: Duration) -> Option<Error> {
        let error = self.failure.get()?;
        (deadline <= self.clock.now()).then_some(error)
    }
}

/// The runtime that polls, or the other one where there is none.
fn here(other: &Handle) -> Handle {
    Handle::try_current().unwrap_or_else(|_| other.clone())
}
