//! Transactions of the application that something of ours stands in, until they are over.
//!
//! What they append is moved into the log then, and who waits for what became of a message is told.
//! A commit through [`crate::postgres::commit`] is known at once; any other is found by a look, with
//! longer pauses the longer nothing happens, and only while there is such a transaction.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::core::Core;
use super::gate::Pass;
use super::user::Transaction;
use crate::clock::Clock;
use crate::storage::Group;

mod ends;

/// The transactions, and the task that looks for their ends while there are some.
#[derive(Debug, Default)]
pub(super) struct Users {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they came.
    open: BTreeMap<u64, Open>,
    next: u64,
    /// There may be something to move.
    must_move: bool,
    /// When that was asked for last.
    asked: Duration,
    /// What the last move saw, and where.
    seen: Option<String>,
    /// Somebody said that a transaction is over. With the pass, closing waits until that was heeded.
    told: Option<Pass>,
    is_running: bool,
    is_closed: bool,
}

#[derive(Debug)]
struct Open {
    transaction: Transaction,
    /// The message that is done if the transaction commits; `None` for what it appends.
    ack: Option<Ack>,
}

#[derive(Debug)]
struct Ack {
    group: Group,
    offset: u64,
    ending: Ending,
}

/// Who is told whether a message is done, now that the transaction is over; `None` if nobody will
/// find out.
pub(crate) struct Ending(Option<Box<dyn FnOnce(Option<bool>) + Send>>);

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So many rounds that failed are tried again before a closing goes on without them: what is left is
/// moved by somebody else.
const TRIES: u32 = 2;
/// How long the outbox of a process that is gone may lie there, while others poll.
const NOW_AND_THEN: Duration = Duration::from_secs(5);

/// The storages of the process. A transaction does not say which one it belongs to.
static STORAGES: Mutex<Vec<Weak<Core>>> = Mutex::new(Vec::new());

/// A transaction with this id is over, most likely. A storage of another server only looks once more.
pub(crate) fn ended(xid: u64) {
    let cores: Vec<Arc<Core>> = {
        let mut storages = STORAGES.lock().unwrap_or_else(PoisonError::into_inner);
        storages.retain(|core| core.strong_count() > 0);
        storages.iter().filter_map(Weak::upgrade).collect()
    };
    for core in cores {
        core.told(xid);
    }
}

impl Users {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.news.notify_one();
    }

    pub(super) fn seen(&self) -> Option<String> {
        self.state().seen.clone()
    }

    pub(super) fn saw(&self, seen: String) {
        self.state().seen = (!seen.is_empty()).then_some(seen);
    }
}

impl Core {
    /// The transaction appends something.
    pub(super) fn follow_append(self: &Arc<Self>, transaction: Transaction) {
        let ack = None;
        self.follow(Open { transaction, ack });
    }

    /// The transaction commits a message.
    pub(crate) fn follow_ack(
        self: &Arc<Self>,
        transaction: Transaction,
        group: Group,
        offset: u64,
        ending: Ending,
    ) {
        let ack = Ack {
            group,
            offset,
            ending,
        };
        let ack = Some(ack);
        self.follow(Open { transaction, ack });
    }

    fn follow(self: &Arc<Self>, open: Open) {
        let mut state = self.users.state();
        let is_there = |other: &Open| other.transaction == open.transaction && other.ack.is_none();
        if open.ack.is_none() && state.open.values().any(is_there) {
            return;
        }
        let number = state.next;
        state.next += 1;
        state.open.insert(number, open);
        self.run_following(state);
    }

    /// From now on it hears of transactions that are over.
    pub(super) fn register(self: &Arc<Self>) {
        let mut storages = STORAGES.lock().unwrap_or_else(PoisonError::into_inner);
        storages.retain(|core| core.strong_count() > 0);
        storages.push(Arc::downgrade(self));
    }

    /// Looks into the outbox now and then: what a process left that is gone is moved by those that poll.
    pub(super) fn move_now_and_then(self: &Arc<Self>) {
        let now = self.clock.now();
        if now.saturating_sub(self.users.state().asked) >= NOW_AND_THEN {
            self.move_soon();
        }
    }

    /// Looks into the outbox: something may be there that is of no transaction of this process.
    pub(super) fn move_soon(self: &Arc<Self>) {
        let mut state = self.users.state();
        state.must_move = true;
        state.asked = self.clock.now();
        state.told = self.gate.enter().ok();
        self.run_following(state);
    }

    fn told(self: &Arc<Self>, xid: u64) {
        let mut state = self.users.state();
        if !state.open.values().any(|open| open.transaction.xid == xid) {
            return;
        }
        if state.told.is_none() {
            state.told = self.gate.enter().ok();
        }
        self.run_following(state);
    }

    /// Starts the task, or wakes it.
    fn run_following(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (false, false, Ok(runtime)) = (state.is_running, state.is_closed, runtime) {
            state.is_running = true;
            drop(state);
            let following = Following {
                core: self.clone(),
                is_over: false,
            };
            runtime.spawn(following.run());
        } else {
            drop(state);
            self.users.news.notify_one();
        }
    }
}

/// What a look for the ends of transactions came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Something was over.
    Over,
    Nothing,
    /// It may succeed later.
    Failed,
}

struct Following {
    core: Arc<Core>,
    is_over: bool,
}

impl Following {
    async fn run(mut self) {
        let core = self.core.clone();
        let (clock, users) = (&core.clock, &core.users);
        let mut pause = FIRST_PAUSE;
        let mut due = clock.now().saturating_add(pause);
        let mut tries = 0;
        loop {
            let told = {
                let mut state = users.state();
                let told = state.told.take();
                if told.is_none() && state.is_closed {
                    return;
                }
                if state.open.is_empty() && !state.must_move {
                    state.is_running = false;
                    self.is_over = true;
                    return;
                }
                told
            };
            let is_told = told.is_some();
            let pass = match told {
                Some(pass) => pass,
                None => {
                    tokio::select! {
                        () = clock.sleep_until(due) => {}
                        () = users.news.notified() => {
                            // A new one is likely to be short.
                            pause = FIRST_PAUSE;
                            due = due.min(clock.now().saturating_add(pause));
                            continue;
                        }
                    }
                    let Ok(pass) = core.gate.enter() else {
                        // It is being closed, and what it was told of before that is heeded first.
                        if users.state().told.is_some() {
                            continue;
                        }
                        return;
                    };
                    pass
                }
            };
            let round = self.round(&pass).await;
            pause = match round {
                Round::Over => FIRST_PAUSE,
                Round::Nothing | Round::Failed => (pause * 2).min(LONGEST_PAUSE),
            };
            due = clock.now().saturating_add(pause);
            tries = if round == Round::Failed { tries + 1 } else { 0 };
            if is_told && (1..=TRIES).contains(&tries) {
                // Closing waits for another try.
                clock.sleep_until(due).await;
                users.state().told.get_or_insert(pass);
            }
        }
    }

    async fn round(&self, pass: &Pass) -> Round {
        let core = &self.core;
        let mut ended = Vec::new();
        let looked = self.look(&mut ended).await;
        if let Err(error) = &looked {
            tracing::debug!(%error, "cannot tell yet which transactions are over");
        }
        let has_failed = looked.is_err();
        let must_move = {
            let mut state = core.users.state();
            let appended = ended.iter().any(|(open, _)| open.ack.is_none());
            state.must_move |= appended;
            std::mem::take(&mut state.must_move)
        };
        let is_over = !ended.is_empty();
        for (open, is_done) in ended {
            if let Some(ack) = open.ack {
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
        match core.move_outbox(pass).await {
            Ok(()) if has_failed => Round::Failed,
            Ok(()) => Round::Over,
            Err(error) if error.is_transient() => {
                tracing::debug!(%error, "what transactions appended cannot be moved yet");
                core.users.state().must_move = true;
                Round::Failed
            }
            Err(error) => {
                tracing::warn!(%error, "what transactions appended cannot be moved into the log");
                Round::Nothing
            }
        }
    }
}

/// Also when its runtime ends: the next that comes begins anew. Of those that are left nobody will
/// find out; what they appended is moved by somebody else.
impl Drop for Following {
    fn drop(&mut self) {
        // Another one may be running by now.
        if self.is_over {
            return;
        }
        let left = {
            let mut state = self.core.users.state();
            state.is_running = false;
            state.told = None;
            std::mem::take(&mut state.open)
        };
        drop(left);
    }
}

impl Ending {
    pub(crate) fn new(tell: impl FnOnce(Option<bool>) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    fn tell(mut self, is_done: Option<bool>) {
        if let Some(tell) = self.0.take() {
            tell(is_done);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(None);
        }
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ending")
    }
}
