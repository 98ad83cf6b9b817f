//! Statements under way.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::watch;

use super::statement::Statement;
use super::{Shared, Submission};
use crate::storage::{Id, Partition};

/// Where a statement gets to, for the one that follows it.
#[derive(Debug)]
pub(super) struct Landing {
    id: Id,
    /// Whether it is in the log under this id, once that is known.
    ended: watch::Sender<Option<bool>>,
}

impl Landing {
    fn new() -> Self {
        Self {
            id: Id::random(),
            ended: watch::Sender::new(None),
        }
    }

    /// The id that the statement is tried with first.
    pub(super) fn id(&self) -> Id {
        self.id
    }

    pub(super) fn end(&self, is_in_log: bool) {
        self.ended.send_replace(Some(is_in_log));
    }

    /// Once the statement is settled: whether it is in the log under its first id.
    pub(super) async fn landed(&self) -> bool {
        let mut ended = self.ended.subscribe();
        // Whoever asks keeps the sender: it is not gone.
        let ended = ended.wait_for(Option::is_some).await;
        ended.is_ok_and(|ended| *ended == Some(true))
    }
}

/// One statement under way, or a look at the storage before one.
struct Flight<'a> {
    landing: Arc<Landing>,
    /// What it goes to, if that is one partition: then another may follow it.
    partition: Option<Partition>,
    work: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

impl<'a> Flight<'a> {
    fn write(shared: &'a Shared, statement: Statement, before: Option<Arc<Landing>>) -> Self {
        let landing = Arc::new(Landing::new());
        Self {
            partition: statement.partition().cloned(),
            work: Box::pin(shared.write(statement, landing.clone(), before)),
            landing,
        }
    }

    fn prepare(shared: &'a Shared, submission: Submission) -> Self {
        Self {
            landing: Arc::new(Landing::new()),
            partition: None,
            work: Box::pin(shared.prepare(submission)),
        }
    }
}

/// The task of the appender. Dropped with its runtime, it answers all who wait.
pub(super) struct Task {
    shared: Arc<Shared>,
    rested: bool,
}

impl Task {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            rested: false,
        }
    }

    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let depth = shared.depth();
        let mut next = Statement::default();
        // In the order in which they began.
        let mut flights: VecDeque<Flight<'_>> = VecDeque::with_capacity(depth);
        loop {
            let unprepared = shared.gather(&mut next);
            let blocked = unprepared.is_some();
            if !next.is_empty() || !flights.is_empty() {
                if let Some(submission) = unprepared {
                    shared.queue().waiting.push_front(submission);
                }
                if !next.is_empty() && flights.len() < depth && may_follow(&next, flights.back()) {
                    let before = flights.back().map(|flight| flight.landing.clone());
                    let statement = std::mem::take(&mut next);
                    flights.push_back(Flight::write(&shared, statement, before));
                }
            } else if let Some(submission) = unprepared {
                flights.push_back(Flight::prepare(&shared, submission));
            } else if self.rest() {
                return;
            } else {
                continue;
            }

            let may_gather = next.has_room() && !blocked;
            let mut arrived = pin!(shared.arrived.notified());
            let has_landed = poll_fn(|cx| {
                let under_way = flights.len();
                flights.retain_mut(|flight| flight.work.as_mut().poll(cx).is_pending());
                if flights.len() < under_way {
                    return Poll::Ready(true);
                }
                if may_gather {
                    arrived.as_mut().poll(cx).map(|()| false)
                } else {
                    Poll::Pending
                }
            })
            .await;
            if has_landed && next.has_broken_chain() {
                next = next.unchained(&shared.routes, &shared.storage);
            }
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

/// Whether a statement may be under way together with those that began before: where each waits for
/// the lock of the same partition, the one after the other.
fn may_follow(next: &Statement, last: Option<&Flight<'_>>) -> bool {
    let Some(last) = last else { return true };
    // Single messages of many producers gather until the statement before has landed.
    next.has_batches() && last.partition.is_some() && last.partition.as_ref() == next.partition()
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
