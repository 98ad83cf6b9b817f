//! Telling other processes what happened.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::postgres::PgRow;
use tokio::runtime::{self, Handle};
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
use crate::sync::{Mutex, MutexGuard};
use crate::task::{OnDemand, Work, wake};

/// Tells other processes what happened, and this one. Gathers what is to be told while one statement tells
/// what came before: the first goes at once.
///
/// (The [`Notifier`] is the one within a process.)
pub(super) struct Announcer {
    executor: Arc<Executor>,
    /// This process, as others see it, by the name that its listener has.
    member: Id,
    local: Arc<Notifier>,
    /// Guards what waits to be told. The count of calls in flight is locked while it is.
    queue: Mutex<AnnouncementQueue>,
    on_demand: OnDemand,
}

#[derive(Debug, Default)]
struct AnnouncementQueue {
    ends: HashMap<Partition, u64>,
    released: HashSet<Partition>,
    /// With it, closing waits until this is told.
    guard: Option<InFlightGuard>,
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
            on_demand: OnDemand::new(),
        }
    }

    /// Tells the subscribers of this process at once, and others as soon as the server has time.
    pub(super) fn announce(
        self: &Arc<Self>,
        guard: &InFlightGuard,
        notifications: Vec<Notification>,
    ) {
        {
            let mut queue = self.queue();
            queue.add(&notifications);
            queue.guard.get_or_insert_with(|| guard.another());
        }
        self.local.send(notifications);
        wake(self, &Handle::current());
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
        self.queue.lock()
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

impl Work for Announcer {
    fn on_demand(&self) -> &OnDemand {
        &self.on_demand
    }

    fn work(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.tell_all().await })
    }

    fn ended(&self, with: Option<runtime::Id>) {
        if with.is_some() {
            // What is left is told with the next that comes. Closing does not wait for that.
            let guard = self.queue().guard.take();
            drop(guard);
        }
    }
}

impl Announcer {
    /// Tells what is in the queue until that is empty.
    async fn tell_all(&self) {
        let executor = &self.executor;
        loop {
            let (texts, _guard) = {
                let mut queue = self.queue();
                (queue.take(&executor.tag), queue.guard.take())
            };
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
        let executor = &self.executor;
        let member = Uuid::from_u128(self.member.0);
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

/// Whether another process said that it listens. Where that is not understood, one may.
fn has_audience(rows: &[PgRow]) -> bool {
    let first = rows.first();
    first.is_none_or(|row| Reader::new(row).bool().unwrap_or(true))
}
