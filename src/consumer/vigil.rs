//! Looks at the groups that the consumers of a process stand by for: one query for all of them.
//!
//! Each standby says until when it wants to know how its group stands. Whoever is due first makes
//! the look, and it answers all who wait; so those who look as often fall into step.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::RetryPolicy;
use crate::several::Halves;
use crate::storage::{Group, GroupState, Storage};

/// Shared by the consumers of a `Flowstream`. Its task exists only while somebody waits.
#[derive(Clone)]
pub(crate) struct Vigil(Arc<Shared>);

struct Shared {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    retry: RetryPolicy,
    state: Mutex<State>,
    /// Somebody came who may be due earlier, or has gone.
    changed: Notify,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// When the task looks next; `None` if it has to ask.
    next: Option<Duration>,
    is_running: bool,
}

struct Waiting {
    group: Group,
    due: Duration,
    answer: oneshot::Sender<Look>,
}

/// When the look began, and what it showed.
type Look = (Duration, Result<GroupState>);

impl Vigil {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        retry: RetryPolicy,
    ) -> Self {
        Self(Arc::new(Shared {
            storage,
            clock,
            retry,
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// How the group stands, at a moment that is not later than `due` and not earlier than this
    /// call. Cancel safe.
    pub(super) async fn look(&self, group: &Group, due: Duration) -> Look {
        // Dropped halfway, it may have been the last that the task waited for.
        let mut leaving = Leaving(Some(&self.0));
        loop {
            let (answer, look) = oneshot::channel();
            self.wait(Waiting {
                group: group.clone(),
                due,
                answer,
            });
            // If the runtime of the task ends, this one goes on with it.
            if let Ok(look) = look.await {
                leaving.0 = None;
                return look;
            }
        }
    }

    fn wait(&self, waiting: Waiting) {
        let mut state = self.0.state();
        let is_first = state.next.is_none_or(|next| waiting.due < next);
        state.waiting.push(waiting);
        if state.is_running {
            drop(state);
            if is_first {
                self.0.changed.notify_one();
            }
        } else {
            state.is_running = true;
            drop(state);
            let task = Task {
                shared: self.0.clone(),
                is_over: false,
            };
            tokio::spawn(task.run());
        }
    }
}

/// `None` once it has its answer.
struct Leaving<'a>(Option<&'a Shared>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.changed.notify_one();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the first of those who wait is due; `None` if nobody waits, and the task is over then.
    fn due(&self) -> Option<Duration> {
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.answer.is_closed());
        let due = state.waiting.iter().map(|waiting| waiting.due).min();
        state.is_running = due.is_some();
        state.next = due;
        due
    }

    async fn look(&self) {
        let waiting = {
            let mut state = self.state();
            state.next = None;
            std::mem::take(&mut state.waiting)
        };
        let mut groups: Vec<Group> = waiting.iter().map(|w| w.group.clone()).collect();
        groups.sort_unstable();
        groups.dedup();
        let began = self.clock.now();
        let states = self.observe(&groups).await;
        for Waiting { group, answer, .. } in waiting {
            let Ok(at) = groups.binary_search(&group) else {
                continue;
            };
            let state = match states.get(at) {
                Some(Ok(Some(state))) => Ok(state.clone()),
                Some(Err(error)) => Err(error.share()),
                _ => {
                    let text = format!("there is no {group} any more: make the consumer anew");
                    Err(Error::new(ErrorKind::NotFound, text))
                }
            };
            // Who is gone does not want to know.
            let _ = answer.send((began, state));
        }
    }

    async fn observe(&self, groups: &[Group]) -> Vec<Result<Option<GroupState>>> {
        let observe = async |groups: &[Group]| {
            let observe = || self.storage.observe(groups);
            self.retry.run(&*self.clock, observe).await
        };
        let mut states = Vec::with_capacity(groups.len());
        let mut parts = Halves::of(groups.len());
        while let Some(part) = parts.next() {
            match observe(&groups[part.clone()]).await {
                Ok(some) => states.extend(some.into_iter().map(Ok)),
                // One that is damaged is no concern of those who wait for the others.
                Err(error) if error.kind() == ErrorKind::Data && parts.split(&part) => {}
                Err(error) => states.extend(part.map(|_| Err(error.share()))),
            }
        }
        states
    }
}

struct Task {
    shared: Arc<Shared>,
    is_over: bool,
}

impl Task {
    async fn run(mut self) {
        let shared = self.shared.clone();
        while let Some(due) = shared.due() {
            tokio::select! {
                biased;
                () = shared.clock.sleep_until(due) => shared.look().await,
                () = shared.changed.notified() => {}
            }
        }
        self.is_over = true;
    }
}

/// It ended with its runtime: those who wait begin anew.
impl Drop for Task {
    fn drop(&mut self) {
        if !self.is_over {
            let waiting = {
                let mut state = self.shared.state();
                state.is_running = false;
                std::mem::take(&mut state.waiting)
            };
            drop(waiting);
        }
    }
}

impl fmt::Debug for Vigil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vigil")
            .field("waiting", &self.0.state().waiting.len())
            .finish_non_exhaustive()
    }
}
