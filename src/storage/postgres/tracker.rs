//! Tracks transactions of the application that something of ours stands in, until they are over.
//!
//! What they append is moved into the log then, and who waits for what became of a message is told.
//! A commit through [`crate::postgres::commit`] is known at once; any other is found by a look, with
//! longer pauses the longer nothing happens, and only while there is such a transaction.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::{self, Handle};
use tokio::sync::Notify;

use super::columns::Reader;
use super::executor::Executor;
use super::in_flight::{InFlight, InFlightGuard};
use super::open_transactions::{Ending, OpenAck, OpenTransactions, OpenWrite, Transaction};
use super::outbox::Outbox;
use super::pieces::MOST_ROWS;
use crate::clock::Clock;
use crate::error::Result;
use crate::storage::Group;
use crate::sync::{Mutex, MutexGuard};
use crate::task::{OnDemand, Work, wake};

/// The transactions, and the task that looks for their ends while there are some.
pub(super) struct TransactionTracker {
    executor: Arc<Executor>,
    in_flight: InFlight,
    outbox: Outbox,
    /// Guards the transactions, and what the task is told. The count of calls in flight is locked while this
    /// is; nobody is told anything while it is.
    state: Mutex<TrackerState>,
    on_demand: OnDemand,
    /// Wakes the task.
    news: Notify,
}

#[derive(Debug, Default)]
struct TrackerState {
    open: OpenTransactions,
    /// There may be something to move out of the outbox.
    must_move: bool,
    /// When a look into the outbox was asked for last.
    asked: Duration,
    /// Somebody said that a transaction is over. With the guard, closing waits until that was heeded.
    told: Option<InFlightGuard>,
    is_closed: bool,
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So many rounds that failed are tried again before a closing goes on without them: what is left is
/// moved by somebody else.
const TRIES: u32 = 2;
/// How long the outbox of a process that is gone may lie there, while others poll.
const NOW_AND_THEN: Duration = Duration::from_secs(5);

/// The trackers of the process: a transaction does not say which storage it belongs to. Guards the list, and
/// is let go of before a tracker is told anything.
static TRACKERS: Mutex<Vec<Weak<TransactionTracker>>> = Mutex::new(Vec::new());

/// Says that a transaction with this id is over, most likely. A storage of another server only looks once
/// more.
pub(crate) fn ended(xid: u64) {
    let trackers: Vec<Arc<TransactionTracker>> =
        trackers().iter().filter_map(Weak::upgrade).collect();
    for tracker in trackers {
        tracker.told(xid);
    }
}

/// The list, without those that are gone.
fn trackers() -> MutexGuard<'static, Vec<Weak<TransactionTracker>>> {
    let mut trackers = TRACKERS.lock();
    trackers.retain(|tracker| tracker.strong_count() > 0);
    trackers
}

impl TransactionTracker {
    /// A tracker that hears of transactions that are over from now on.
    pub(super) fn new(executor: Arc<Executor>, in_flight: InFlight, outbox: Outbox) -> Arc<Self> {
        let tracker = Arc::new(Self {
            executor,
            in_flight,
            outbox,
            state: Mutex::default(),
            on_demand: OnDemand::new(),
            news: Notify::new(),
        });
        trackers().push(Arc::downgrade(&tracker));
        tracker
    }

    /// The transaction appends something.
    pub(super) fn track_append(self: &Arc<Self>, transaction: Transaction) {
        let ack = None;
        self.track(OpenWrite { transaction, ack });
    }

    /// The transaction commits a message.
    pub(super) fn track_ack(
        self: &Arc<Self>,
        transaction: Transaction,
        group: Group,
        offset: u64,
        ending: Ending,
    ) {
        let ack = OpenAck {
            group,
            offset,
            ending,
        };
        let ack = Some(ack);
        self.track(OpenWrite { transaction, ack });
    }

    /// Looks into the outbox now and then: what a process left that is gone is moved by those that poll.
    pub(super) fn move_now_and_then(self: &Arc<Self>) {
        let now = self.executor.clock.now();
        if now.saturating_sub(self.state().asked) >= NOW_AND_THEN {
            self.move_soon();
        }
    }

    /// Looks into the outbox: something may be there that is of no transaction of this process.
    pub(super) fn move_soon(self: &Arc<Self>) {
        let mut state = self.state();
        state.must_move = true;
        state.asked = self.executor.clock.now();
        state.told = self.in_flight.enter().ok();
        self.run_task(state);
    }

    /// Ends the task once it has heeded what it was told.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.news.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, TrackerState> {
        self.state.lock()
    }

    fn track(self: &Arc<Self>, write: OpenWrite) {
        let mut state = self.state();
        if state.open.add(write) {
            self.run_task(state);
        }
    }

    fn told(self: &Arc<Self>, xid: u64) {
        let mut state = self.state();
        if !state.open.has(xid) {
            return;
        }
        if state.told.is_none() {
            state.told = self.in_flight.enter().ok();
        }
        self.run_task(state);
    }

    /// Starts the task, or wakes it.
    fn run_task(self: &Arc<Self>, state: MutexGuard<'_, TrackerState>) {
        let is_closed = state.is_closed;
        drop(state);
        let runtime = Handle::try_current().ok().filter(|_| !is_closed);
        let is_started = runtime.is_some_and(|runtime| wake(self, &runtime));
        if !is_started {
            self.news.notify_one();
        }
    }

    /// One look for the ends of transactions, and what follows from it.
    async fn round(&self, guard: &InFlightGuard) -> Round {
        let mut ended = Vec::new();
        let looked = self.take_ended(&mut ended).await;
        if let Err(error) = &looked {
            tracing::debug!(%error, "cannot tell yet which transactions are over");
        }
        let has_failed = looked.is_err();
        let must_move = {
            let mut state = self.state();
            let appended = ended.iter().any(|(write, _)| write.ack.is_none());
            state.must_move |= appended;
            std::mem::take(&mut state.must_move)
        };
        let is_over = !ended.is_empty();
        for (write, is_done) in ended {
            if let Some(ack) = write.ack {
                ack.ending.tell(Some(is_done));
            }
        }
        if !must_move {
            return match (has_failed, is_over) {
                (true, _) => Round::Failed,
                (false, true) => Round::Over,
                (false, false) => Round::Nothing,
            };
        }
        match self.outbox.move_committed(guard).await {
            Ok(()) if has_failed => Round::Failed,
            Ok(()) => Round::Over,
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "what transactions appended cannot be moved yet");
                self.state().must_move = true;
                Round::Failed
            }
            Err(error) => {
                tracing::warn!(%error, "what transactions appended cannot be moved into the log");
                Round::Nothing
            }
        }
    }

    /// Takes out what stands in transactions that are over; and for each message, whether it is done.
    /// Of each transaction one is asked for, however many it has, and then the rest of those that are
    /// over. What was taken out is there also after an error.
    async fn take_ended(&self, ended: &mut Vec<(OpenWrite, bool)>) -> Result<()> {
        let of_each = self.state().open.one_of_each();
        self.ask(&of_each, ended).await?;
        let rest = {
            let over = ended.iter().map(|(write, _)| &write.transaction);
            let over: HashSet<&Transaction> = over.collect();
            self.state().open.all_of(&over)
        };
        self.ask(&rest, ended).await
    }

    /// Asks the server about these, and takes out those that are over.
    async fn ask(&self, numbers: &[u64], ended: &mut Vec<(OpenWrite, bool)>) -> Result<()> {
        let executor = &self.executor;
        for numbers in numbers.chunks(MOST_ROWS) {
            let mut numbers = numbers.to_vec();
            let question = self.state().open.question(&mut numbers);
            let values = question.values();
            let (leases, sql) = (&executor.pools.leases, &executor.sql.ended_transactions);
            for row in &executor.run(leases, sql, &values).await? {
                let mut columns = Reader::new(row);
                let number = *columns.numbered(&mut numbers)?;
                let is_done = columns.bool()?;
                if let Some(write) = self.state().open.remove(number) {
                    ended.push((write, is_done));
                }
            }
        }
        Ok(())
    }
}

/// What a look for the ends of transactions came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Something was over.
    Over,
    Nothing,
    /// The look may succeed later.
    Failed,
}

impl Work for TransactionTracker {
    fn on_demand(&self) -> &OnDemand {
        &self.on_demand
    }

    fn work(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if !self.track_all().await {
                self.let_go();
            }
        })
    }

    fn ended(&self, with: Option<runtime::Id>) {
        if with.is_some() {
            self.let_go();
        }
    }
}

impl TransactionTracker {
    /// Looks for the ends of transactions while there are some. False if some are left, because the storage
    /// is closed.
    async fn track_all(&self) -> bool {
        let (clock, in_flight) = (&self.executor.clock, &self.in_flight);
        let mut pause = FIRST_PAUSE;
        let mut due = clock.now().saturating_add(pause);
        let mut tries = 0;
        loop {
            let told = {
                let mut state = self.state();
                let told = state.told.take();
                if told.is_none() && state.is_closed {
                    return false;
                }
                if state.open.is_empty() && !state.must_move {
                    return true;
                }
                told
            };
            let is_told = told.is_some();
            let guard = match told {
                Some(guard) => guard,
                None => {
                    tokio::select! {
                        () = clock.sleep_until(due) => {}
                        () = self.news.notified() => {
                            // A new one is likely to be short.
                            pause = FIRST_PAUSE;
                            due = due.min(clock.now().saturating_add(pause));
                            continue;
                        }
                    }
                    let Ok(guard) = in_flight.enter() else {
                        // It is being closed, and what it was told of before that is heeded first.
                        if self.state().told.is_some() {
                            continue;
                        }
                        return false;
                    };
                    guard
                }
            };
            let round = self.round(&guard).await;
            pause = match round {
                Round::Over => FIRST_PAUSE,
                Round::Nothing | Round::Failed => (pause * 2).min(LONGEST_PAUSE),
            };
            due = clock.now().saturating_add(pause);
            tries = if round == Round::Failed { tries + 1 } else { 0 };
            if is_told && (1..=TRIES).contains(&tries) {
                // Closing waits for another try.
                clock.sleep_until(due).await;
                self.state().told.get_or_insert(guard);
            }
        }
    }

    /// Of the transactions that are left nobody will find out; what they appended is moved by somebody
    /// else.
    fn let_go(&self) {
        let left = {
            let mut state = self.state();
            (state.told.take(), state.open.take_all())
        };
        // Tells those who wait, so without the lock.
        drop(left);
    }
}
