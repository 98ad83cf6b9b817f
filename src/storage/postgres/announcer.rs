//! Telling other processes what happened.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::channel::encode;
use super::columns::Reader;
use super::executor::Executor;
use super::in_flight::InFlightGuard;
use super::pieces::MOST_ROWS;
use super::value::Value;
use crate::clock::Clock;
use crate::error::Result;
use crate::storage::shared::notify::Notifier;
use crate::storage::{Id, Notification, Partition};

/// Tells other processes what happened, and this one. Gathers what is to be told while one statement tells
/// what came before: the first goes at once.
///
/// (The [`Notifier`] is the one within a process.)
pub(super) struct Announcer {
    executor: Arc<Executor>,
    /// This process, as others see it, by the name that its listener has.
    member: Id,
    local: Arc<Notifier>,
    /// Guards what waits to be told; taken alone.
    queue: Mutex<AnnouncementQueue>,
}

#[derive(Debug, Default)]
struct AnnouncementQueue {
    ends: HashMap<Partition, u64>,
    released: HashSet<Partition>,
    /// Whether there is a task that tells it.
    is_running: bool,
}

/// Each statement takes a lock of the whole server. One that took this long or longer, because others
/// tell too, is followed by a rest of the same length; a rest that is shorter is no timer's business.
const SLOW: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_millis(10);
/// While nobody listens, what happens is told this often: somebody may have begun to. Whoever begins
/// reads everything then, so nothing waits for longer.
const UNHEARD: Duration = Duration::from_millis(20);

impl Announcer {
    pub(super) fn new(executor: Arc<Executor>, member: Id, local: Arc<Notifier>) -> Self {
        Self {
            executor,
            member,
            local,
            queue: Mutex::default(),
        }
    }

    /// Tells the subscribers of this process at once, and others as soon as the server has time.
    pub(super) fn announce(
        self: &Arc<Self>,
        guard: &InFlightGuard,
        notifications: Vec<Notification>,
    ) {
        let must_start = {
            let mut queue = self.queue();
            queue.add(&notifications);
            !std::mem::replace(&mut queue.is_running, true)
        };
        self.local.send(notifications);
        if must_start {
            let task = AnnounceTask {
                announcer: self.clone(),
                _guard: guard.another(),
            };
            tokio::spawn(task.run());
        }
    }

    /// Tells the subscribers of this process what others are told in another way.
    pub(super) fn announce_here(&self, notification: Notification) {
        self.local.send([notification]);
    }

    /// What tells others of this, in a statement of the caller; empty if it is not for others.
    pub(super) fn encode(&self, notification: &Notification) -> String {
        encode(&self.executor.tag, notification).unwrap_or_default()
    }

    fn queue(&self) -> MutexGuard<'_, AnnouncementQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AnnouncementQueue {
    fn add(&mut self, notifications: &[Notification]) {
        for notification in notifications {
            match notification {
                Notification::Appended(of, end) => {
                    let known = self.ends.entry(of.clone()).or_default();
                    *known = (*known).max(*end);
                }
                Notification::Released(of) => drop(self.released.insert(of.clone())),
                Notification::Missed => {}
            }
        }
    }

    /// What is to be told, as text.
    fn take(&mut self, tag: &str) -> Vec<String> {
        let ends = std::mem::take(&mut self.ends).into_iter();
        let released = std::mem::take(&mut self.released).into_iter();
        ends.map(|(of, end)| Notification::Appended(of, end))
            .chain(released.map(Notification::Released))
            .filter_map(|notification| encode(tag, &notification))
            .collect()
    }
}

/// Tells what is in the queue until that is empty. With the guard, closing waits until it is.
struct AnnounceTask {
    announcer: Arc<Announcer>,
    _guard: InFlightGuard,
}

impl AnnounceTask {
    async fn run(self) {
        let announcer = &*self.announcer;
        let executor = &announcer.executor;
        loop {
            let texts = announcer.queue().take(&executor.tag);
            if texts.is_empty() {
                return;
            }
            let began = executor.clock.now();
            let told = self.tell(&texts).await;
            let now = executor.clock.now();
            let took = now.saturating_sub(began);
            let rest = match told.map(|rows| has_audience(&rows)) {
                Ok(false) => UNHEARD,
                Ok(true) if took < SLOW => continue,
                Ok(true) => took.min(LONGEST_REST),
                Err(error) => {
                    // Others look by themselves, a little later.
                    tracing::debug!(%error, "could not tell other processes of messages");
                    took.min(LONGEST_REST)
                }
            };
            executor.clock.sleep_until(now + rest).await;
        }
    }

    async fn tell(&self, texts: &[String]) -> Result<Vec<PgRow>> {
        let executor = &self.announcer.executor;
        let member = Uuid::from_u128(self.announcer.member.0);
        let mut told = Vec::new();
        for texts in texts.chunks(MOST_ROWS) {
            let values = [
                Value::Text(&executor.schema),
                Value::Texts(texts),
                Value::Id(member),
            ];
            let (aside, notify) = (&executor.pools.aside, &executor.sql.notify);
            told = executor.run(aside, notify, &values).await?;
        }
        Ok(told)
    }
}

/// Ends the task, also with its runtime: the next to tell something begins anew.
impl Drop for AnnounceTask {
    fn drop(&mut self) {
        self.announcer.queue().is_running = false;
    }
}

/// Whether another process said that it listens. Where that is not understood, one may.
fn has_audience(rows: &[PgRow]) -> bool {
    let first = rows.first();
    first.is_none_or(|row| Reader::new(row).bool().unwrap_or(true))
}
