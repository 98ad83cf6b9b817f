//! Gathers the appends of all producers into few statements: group commit.
//!
//! One statement is under way at a time; what arrives meanwhile is encoded into the next. So a
//! thousand tasks that each send one message pay for a few writes, and a single producer encodes
//! while the disk works. (Group commit: DeWitt et al., SIGMOD 1984.)

mod route;
mod statement;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Batch;
use crate::name::Name;
use crate::retry::RetryPolicy;
use crate::storage::{Appended, Storage};

pub(crate) use route::Routes;
pub(crate) use statement::Doubt;
use statement::Statement;

/// What a producer hands in.
#[derive(Debug)]
pub(crate) struct Submission {
    /// The stream of the messages that name none.
    pub(crate) stream: Name,
    pub(crate) batch: Batch,
    /// Whether all messages are one unit, or each one with the commits that ride in it.
    pub(crate) atomic: bool,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Where the messages are now, or the messages.
pub(crate) type Answer = Result<Vec<AppendedRow>, Unsent>;

/// A batch that was not written, or is in doubt.
#[derive(Debug)]
pub(crate) enum Unsent {
    Failed(Error, Batch),
    /// The runtime ended that the task ran on. That need not be the one of the producer.
    Orphaned(Batch),
}

impl Unsent {
    pub(crate) fn into_parts(self) -> (Error, Batch) {
        match self {
            Self::Failed(error, batch) => (error, batch),
            Self::Orphaned(batch) => {
                let error = Error::closed("the runtime that appends ran on has ended");
                let in_doubt = batch.in_doubt();
                let error = if in_doubt { error.with_doubt() } else { error };
                (error, batch)
            }
        }
    }
}

/// The part of an append that went to one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendedRow {
    /// The stream.
    pub stream: Name,
    /// The partition, counted from 0.
    pub partition: u32,
    /// The offsets of the messages that went there, in their order.
    pub offsets: Range<u64>,
}

impl Submission {
    fn fail(self, error: Error) {
        // A caller that is gone does not want to know.
        let _ = self.answer.send(Err(Unsent::Failed(error, self.batch)));
    }

    fn orphan(self) {
        let _ = self.answer.send(Err(Unsent::Orphaned(self.batch)));
    }
}

/// The handle to hand appends in. Its task exists only while there is work.
#[derive(Debug, Clone)]
pub(crate) struct Appender(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    retry: RetryPolicy,
    routes: Routes,
    queue: Mutex<Queue>,
    arrived: Notify,
    rested: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Submission>,
    running: bool,
}

impl Appender {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        retry: RetryPolicy,
    ) -> Self {
        Self(Arc::new(Shared {
            storage,
            clock,
            retry,
            routes: Routes::default(),
            queue: Mutex::default(),
            arrived: Notify::new(),
            rested: Notify::new(),
        }))
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.0.routes
    }

    /// Hands a batch in. Those that one producer hands in are written in that order.
    pub(crate) fn submit(&self, submission: Submission, runtime: &Handle) {
        let mut queue = self.0.queue();
        queue.waiting.push_back(submission);
        if queue.running {
            drop(queue);
            self.0.arrived.notify_one();
        } else {
            queue.running = true;
            drop(queue);
            let task = Task {
                shared: self.0.clone(),
                rested: false,
            };
            runtime.spawn(task.run());
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
        let submission = Submission {
            stream: stream.clone(),
            batch,
            atomic: true,
            answer: oneshot::channel().0,
        };
        if let Err(error) = shared.learn_streams(&submission).await {
            return Err(Unsent::Failed(error, submission.batch));
        }
        let mut statement = Statement::default();
        statement.add(submission, &shared.routes, &shared.storage);
        let append = statement.seal();
        Ok((append, statement.into_batch()))
    }

    /// Resolves once nothing is under way.
    pub(crate) async fn settled(&self) {
        loop {
            let mut rested = pin!(self.0.rested.notified());
            rested.as_mut().enable();
            if !self.0.queue().running {
                return;
            }
            rested.await;
        }
    }
}

impl Shared {
    // Nothing that holds this lock can panic halfway through a change.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what waits into the statement while there is room, up to a submission that needs a
    /// look at the storage first: that one comes back.
    fn gather(&self, statement: &mut Statement) -> Option<Submission> {
        while statement.has_room() {
            let submission = self.queue().waiting.pop_front()?;
            if submission.batch.in_doubt() || self.routes.lacks(&submission) {
                return Some(submission);
            }
            statement.add(submission, &self.routes, &self.storage);
        }
        None
    }

    /// Writes a statement, and answers all who wait for it. Units of a lease that was lost are
    /// taken out, and the others go again without them, at once, under a new id. Where a stream is
    /// gone, each goes on its own.
    async fn write(&self, mut statement: Statement) {
        // What is left of a statement after an error that is about one of its units.
        let mut behind = VecDeque::new();
        loop {
            let append = statement.seal();
            let began = self.clock.now();
            let written = self
                .retry
                .run(&*self.clock, || self.storage.append(append.clone()))
                .await;
            statement = match written {
                Ok(Appended::Written(bases)) => {
                    statement.written(&bases, began, &self.storage);
                    Statement::default()
                }
                Ok(Appended::Fenced(leases)) => {
                    let (routes, storage) = (&self.routes, &self.storage);
                    statement.without(&leases, routes, storage)
                }
                Ok(Appended::Refused) => statement.again(&self.routes, &self.storage),
                Err(error) if error.kind() == ErrorKind::NotFound && statement.is_shared() => {
                    behind.extend(statement.apart(&self.routes, &self.storage));
                    Statement::default()
                }
                Err(error) => {
                    if error.kind() == ErrorKind::NotFound {
                        // Made again for the next that goes there.
                        self.routes.doubt(&append.rows);
                    }
                    statement.failed(&error);
                    Statement::default()
                }
            };
            if statement.is_empty() {
                match behind.pop_front() {
                    Some(next) => statement = next,
                    None => return,
                }
            }
        }
    }

    async fn learn_streams(&self, submission: &Submission) -> Result<()> {
        for stream in self.routes.lacking(submission) {
            let settings = self
                .retry
                .run(&*self.clock, || self.storage.create_stream(&stream, None))
                .await?;
            self.routes.learn(stream, settings);
        }
        Ok(())
    }

    /// Finds out what has to be known before this batch can be part of a statement: the streams
    /// that it names, and whether an earlier attempt is in the log.
    async fn prepare(&self, mut submission: Submission) {
        if let Err(error) = self.learn_streams(&submission).await {
            return submission.fail(error);
        }
        if let Some(doubt) = submission.batch.doubt.take() {
            let settled = self
                .retry
                .run(&*self.clock, || {
                    self.storage.settle(doubt.id, &doubt.partitions)
                })
                .await;
            match settled {
                Ok(Some(bases)) => return doubt.confirm(submission, &bases, &self.storage),
                Ok(None) => doubt.refute(),
                Err(error) => {
                    submission.batch.doubt = Some(doubt);
                    return submission.fail(error.with_doubt());
                }
            }
        }
        self.queue().waiting.push_front(submission);
    }
}

/// The task. Dropped with its runtime, it answers all who wait.
struct Task {
    shared: Arc<Shared>,
    rested: bool,
}

type Flight<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl Task {
    async fn run(mut self) {
        let shared = self.shared.clone();
        let mut next = Statement::default();
        let mut flight: Option<Flight<'_>> = None;
        loop {
            let unprepared = shared.gather(&mut next);
            let blocked = unprepared.is_some();
            if flight.is_some() || !next.is_empty() {
                if let Some(submission) = unprepared {
                    shared.queue().waiting.push_front(submission);
                }
                flight.get_or_insert_with(|| Box::pin(shared.write(std::mem::take(&mut next))));
            } else if let Some(submission) = unprepared {
                flight = Some(Box::pin(shared.prepare(submission)));
            } else if self.rest() {
                return;
            } else {
                continue;
            }

            let may_gather = next.has_room() && !blocked;
            let mut arrived = pin!(shared.arrived.notified());
            poll_fn(|cx| {
                if let Some(landing) = &mut flight
                    && landing.as_mut().poll(cx).is_ready()
                {
                    flight = None;
                    return Poll::Ready(());
                }
                if may_gather {
                    arrived.as_mut().poll(cx)
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
    }

    /// Ends the task, unless something arrived meanwhile.
    fn rest(&mut self) -> bool {
        let mut queue = self.shared.queue();
        self.rested = queue.waiting.is_empty();
        if self.rested {
            queue.running = false;
            drop(queue);
            self.shared.rested.notify_waiters();
        }
        self.rested
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.rested {
            return;
        }
        let left = {
            let mut queue = self.shared.queue();
            queue.running = false;
            std::mem::take(&mut queue.waiting)
        };
        self.shared.rested.notify_waiters();
        left.into_iter().for_each(Submission::orphan);
    }
}
