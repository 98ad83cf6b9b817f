//! Gathers the appends of all producers into few group writes: group commit.
//!
//! What arrives while group writes are under way is encoded into the next. So a thousand tasks that
//! each send one message pay for a few writes, and a single producer encodes while the disk works.
//! (Group commit: DeWitt et al., SIGMOD 1984.)
//!
//! Where the storage wants more than one group write under way ([`Storage::append_depth`]), those to
//! one partition are a sequence: each names the one before, and is not written unless that one is in
//! the log. (As the sequence numbers of Kafka's idempotent producer, KIP-98, keep the order of
//! requests in flight.)

mod completion;
mod failure;
mod group_write;
mod in_flight;
mod lookup;
mod outcome;
mod queue;
mod regroup;
mod request;
mod routing;
mod rows;
mod sequence;
mod shared;
mod task;
mod writer;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::futures::OwnedNotified;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::message::{AppendError, Batch};
use crate::name::Name;
use crate::retry::RetryPolicy;
use crate::storage::Storage;
use crate::task::wake;
use crate::watch::LogWatch;

#[cfg(feature = "postgres")]
use group_write::GroupWrite;
pub use request::AppendedRow;
pub(crate) use request::{AppendRequest, AppendResult, Ticket, Unsent};
pub(crate) use routing::Routing;
pub(crate) use sequence::Sequence;
use shared::AppenderShared;

/// The handle to hand appends in. Its task exists only while there is work.
#[derive(Debug, Clone)]
pub(crate) struct Appender(Arc<AppenderShared>);

/// Waits until there is room in the queue.
#[derive(Debug)]
pub(crate) struct WaitForRoom {
    deadline: Duration,
    freed: Pin<Box<OwnedNotified>>,
}

impl Appender {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        retry: RetryPolicy,
        watch: LogWatch,
    ) -> Self {
        let shared = AppenderShared::new(storage, clock, retry, watch);
        Self(Arc::new(shared))
    }

    pub(crate) fn routing(&self) -> &Routing {
        &self.0.routing
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
        door: &mut Option<WaitForRoom>,
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
                *door = Some(WaitForRoom { deadline, freed });
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
        (request, mut ticket): (AppendRequest, Ticket),
        callers: &Handle,
    ) -> Ticket {
        let mut queue = self.0.queue();
        if queue.is_closed {
            drop(queue);
            request.fail(Error::closed(
                "the storage was closed, and nothing is appended any more: open it again",
            ));
            return ticket;
        }
        ticket.set_place(queue.push(request));
        drop(queue);
        if !wake(&self.0, &here(callers)) {
            self.0.arrived.notify_one();
        }
        ticket
    }

    /// Takes a unit back that nobody wants any more, if it is in no group write yet. If it is in one
    /// that is not under way it is let go of later.
    pub(crate) fn withdraw(&self, ticket: &mut Ticket) -> bool {
        let mut queue = self.0.queue();
        let withdrawn = queue.remove(ticket.place());
        drop(queue);
        ticket.renounce();
        match withdrawn {
            None => false,
            Some(request) => {
                request.let_go();
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
    ) -> Poll<AppendResult> {
        loop {
            match ready!(ticket.poll(cx)) {
                Err(Unsent::RuntimeEnded(batch)) if self.can_go_on(callers) => {
                    let again = ticket.again(stream.clone(), batch);
                    *ticket = self.submit(again, callers);
                }
                answer => return Poll::Ready(answer),
            }
        }
    }

    /// Appends a unit that keeps no order with others: all or nothing.
    pub(crate) async fn append(
        &self,
        stream: &Name,
        batch: Batch,
        callers: &Handle,
    ) -> Result<Vec<AppendedRow>, AppendError> {
        let (sequence, deadline) = (Sequence::new(), self.deadline());
        let unit = AppendRequest::unit(stream.clone(), batch, sequence, deadline);
        let mut ticket = self.submit(unit, callers);
        let answer = poll_fn(|cx| self.poll_unit(&mut ticket, stream, callers, cx)).await;
        answer.map_err(AppendError::from)
    }

    /// From now on nothing is taken. Resolves once all that was is answered: while the storage fails
    /// that takes as long as the budgets.
    pub(crate) async fn close(&self) {
        self.0.queue().is_closed = true;
        self.0.freed.notify_waiters();
        loop {
            let mut rested = pin!(self.0.rested.notified());
            rested.as_mut().enable();
            if !self.0.on_demand.is_running() {
                return;
            }
            rested.await;
        }
    }

    /// A batch as rows, for a transaction of the application; and the batch.
    #[cfg(feature = "postgres")]
    pub(crate) async fn to_rows(
        &self,
        stream: &Name,
        batch: Batch,
    ) -> Result<(Arc<crate::storage::Append>, Batch), AppendError> {
        let shared = &*self.0;
        let (sequence, deadline) = (Sequence::new(), self.deadline());
        let (request, _) = AppendRequest::unit(stream.clone(), batch, sequence, deadline);
        if let Err(error) = shared.learn_streams(&request).await {
            return Err(AppendError::new(error, request.into_batch()));
        }
        let mut group_write = GroupWrite::default();
        group_write.add(request, &shared.routing, &shared.storage);
        let append = group_write.seal(crate::storage::Id::random(), None);
        Ok((append, group_write.into_batch()))
    }
}

/// The runtime that polls, or the other one where there is none.
fn here(other: &Handle) -> Handle {
    Handle::try_current().unwrap_or_else(|_| other.clone())
}
