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
mod flight;
mod route;
mod statement;

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Batch;
use crate::name::Name;
use crate::retry::RetryPolicy;
use crate::storage::{Appended, Id, Partition, Storage};
use crate::watch::Watch;

use chain::Break;
pub(crate) use chain::Chain;
use flight::{Landing, Task};
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
    /// What it keeps its place in.
    pub(crate) chain: Chain,
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
        self.chain.end(Break::Failed(error.share_undoubted()));
        // A caller that is gone does not want to know.
        let _ = self.answer.send(Err(Unsent::Failed(error, self.batch)));
    }

    fn orphan(self) {
        self.chain.end(Break::Orphaned);
        let _ = self.answer.send(Err(Unsent::Orphaned(self.batch)));
    }

    /// Gives it back if one before it failed.
    fn check_chain(self) -> Option<Self> {
        let error = match self.chain.broken() {
            None => return Some(self),
            Some(Break::Failed(error)) => Some(error.share()),
            Some(Break::Orphaned) => None,
        };
        match error {
            Some(error) => self.fail(error),
            None => self.orphan(),
        }
        None
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
    watch: Watch,
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
        watch: Watch,
    ) -> Self {
        Self(Arc::new(Shared {
            storage,
            clock,
            retry,
            watch,
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
            runtime.spawn(Task::new(self.0.clone()).run());
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
            chain: Chain::new(),
            answer: oneshot::channel().0,
        };
        if let Err(error) = shared.learn_streams(&submission).await {
            return Err(Unsent::Failed(error, submission.batch));
        }
        let mut statement = Statement::default();
        statement.add(submission, &shared.routes, &shared.storage);
        let append = statement.seal(Id::random(), None);
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
    /// How many statements to one partition may be under way at once.
    fn depth(&self) -> usize {
        self.storage.append_depth().max(1)
    }

    // Nothing that holds this lock can panic halfway through a change.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what waits into the statement while there is room, up to a submission that needs a
    /// look at the storage first: that one comes back.
    fn gather(&self, statement: &mut Statement) -> Option<Submission> {
        while statement.has_room() {
            let submission = {
                let mut queue = self.queue();
                if self.depth() > 1 && statement.is_enough_for(queue.waiting.front()?) {
                    statement.close();
                    return None;
                }
                queue.waiting.pop_front()?
            };
            let Some(submission) = submission.check_chain() else {
                continue;
            };
            if submission.batch.in_doubt() || self.routes.lacks(&submission) {
                return Some(submission);
            }
            statement.add(submission, &self.routes, &self.storage);
        }
        None
    }

    /// Writes a statement, and answers all who wait for it. Units of a lease that was lost are
    /// taken out, and the others go again without them, at once, under a new id. Where a stream is
    /// gone, each goes on its own. Nothing is written before the statement that this one follows.
    async fn write(
        &self,
        mut statement: Statement,
        landing: Arc<Landing>,
        before: Option<Arc<Landing>>,
    ) {
        let mut is_in_log = false;
        let mut id = landing.id();
        let mut after = before.as_ref().map(|before| before.id());
        // What is left of a statement after an error that is about one of its units.
        let mut behind = VecDeque::new();
        let mut waited = false;
        loop {
            let append = statement.seal(id, after);
            let witness = self.watch.witness(&append.rows);
            let began = self.clock.now();
            let written = self
                .retry
                .run(&*self.clock, || self.storage.append(append.clone()))
                .await;
            statement = match written {
                Ok(Appended::Written(rows)) => {
                    witness.wrote(&append.rows, &rows);
                    let bases: Vec<u64> = rows.iter().map(|row| row.base_offset).collect();
                    is_in_log |= id == landing.id();
                    statement.written(&bases, began, &self.storage);
                    Statement::default()
                }
                Ok(Appended::Known(bases)) => {
                    is_in_log |= id == landing.id();
                    statement.written(&bases, began, &self.storage);
                    Statement::default()
                }
                Ok(Appended::Early) => {
                    let Some(before) = before.as_ref().filter(|_| after.is_some()) else {
                        statement.failed(&early());
                        break;
                    };
                    if before.landed().await && !waited {
                        waited = true;
                        continue;
                    }
                    // It follows nothing any more. An attempt of it may be under way all the same.
                    after = None;
                    let partitions = statement.partitions();
                    match self.settle(append.id, &partitions).await {
                        Ok(Some(bases)) => {
                            is_in_log |= id == landing.id();
                            statement.written(&bases, began, &self.storage);
                            Statement::default()
                        }
                        Ok(None) => statement.unchained(&self.routes, &self.storage),
                        Err(error) => {
                            statement.failed(&error.with_doubt());
                            Statement::default()
                        }
                    }
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
            id = Id::random();
            while statement.is_empty() {
                match behind.pop_front() {
                    Some(next) => statement = next.unchained(&self.routes, &self.storage),
                    None => return landing.end(is_in_log),
                }
            }
        }
        landing.end(is_in_log);
    }

    /// Whether this append is in the log, and where; if not, it never will be.
    async fn settle(&self, id: Id, partitions: &[Partition]) -> Result<Option<Vec<u64>>> {
        let settling = || self.storage.settle(id, partitions);
        self.retry.run(&*self.clock, settling).await
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
            match self.settle(doubt.id, &doubt.partitions).await {
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

/// Said by a storage of an append that follows none.
fn early() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the storage waits for an append that this one does not follow",
    )
}
