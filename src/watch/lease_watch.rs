//! Looks at the groups that the consumers of a process stand by for: one query for all of them.
//!
//! Each standby says until when it wants to know how its group stands. Whoever is due first makes
//! the look, and it answers all who wait; so those who look as often fall into step.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;
use crate::concurrency::Bisection;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::RetryPolicy;
use crate::storage::{Group, GroupState, Storage};
use crate::sync::{Mutex, MutexGuard};
use crate::task::{OnDemand, Work, wake};

/// Shared by the consumers of a `Flowstream`. Its task exists only while somebody waits.
#[derive(Clone)]
pub(crate) struct LeaseWatch(Arc<LeaseWatchShared>);

struct LeaseWatchShared {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    retry: RetryPolicy,
    /// No other lock is taken under it.
    standbys: Mutex<Standbys>,
    on_demand: OnDemand,
    /// Somebody came who may be due earlier, or has gone.
    changed: Notify,
}

#[derive(Default)]
struct Standbys {
    waiting: Vec<Waiting>,
    /// When the task looks next; `None` if it has to ask.
    next: Option<Duration>,
}

struct Waiting {
    group: Group,
    due: Duration,
    answer: oneshot::Sender<Look>,
}

/// When the look began, and what it showed.
type Look = (Duration, Result<GroupState>);

impl LeaseWatch {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        retry: RetryPolicy,
    ) -> Self {
        Self(Arc::new(LeaseWatchShared {
            storage,
            clock,
            retry,
            standbys: Mutex::default(),
            on_demand: OnDemand::new(),
            changed: Notify::new(),
        }))
    }

    /// How the group stands, at a moment that is not later than `due` and not earlier than this
    /// call. Cancel safe.
    pub(crate) async fn look(&self, group: &Group, due: Duration) -> Look {
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
        let mut standbys = self.0.standbys();
        let is_first = standbys.next.is_none_or(|next| waiting.due < next);
        standbys.waiting.push(waiting);
        drop(standbys);
        if !wake(&self.0, &Handle::current()) && is_first {
            self.0.changed.notify_one();
        }
    }
}

/// `None` once it has its answer.
struct Leaving<'a>(Option<&'a LeaseWatchShared>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.changed.notify_one();
        }
    }
}

impl LeaseWatchShared {
    fn standbys(&self) -> MutexGuard<'_, Standbys> {
        self.standbys.lock()
    }

    /// When the first of those who wait is due; `None` if nobody waits, and the task is over then.
    fn due(&self) -> Option<Duration> {
        let mut standbys = self.standbys();
        standbys
            .waiting
            .retain(|waiting| !waiting.answer.is_closed());
        let due = standbys.waiting.iter().map(|waiting| waiting.due).min();
        standbys.next = due;
        due
    }

    async fn look(&self) {
        let waiting = {
            let mut standbys = self.standbys();
            standbys.next = None;
            std::mem::take(&mut standbys.waiting)
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
        let mut parts = Bisection::of(groups.len());
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

impl Work for LeaseWatchShared {
    fn on_demand(&self) -> &OnDemand {
        &self.on_demand
    }

    fn work(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            while let Some(due) = self.due() {
                tokio::select! {
                    biased;
                    () = self.clock.sleep_until(due) => self.look().await,
                    () = self.changed.notified() => {}
                }
            }
        })
    }

    fn ended(&self, with: Option<runtime::Id>) {
        if with.is_some() {
            // Those who wait begin anew.
            let waiting = std::mem::take(&mut self.standbys().waiting);
            drop(waiting);
        }
    }
}

impl fmt::Debug for LeaseWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseWatch")
            .field("waiting", &self.0.standbys().waiting.len())
            .finish_non_exhaustive()
    }
}
