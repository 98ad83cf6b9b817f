//! Hearing what other processes tell: one connection a storage, by which other processes also see
//! that this one lives.

use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::postgres::PgListener;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::runtime::{self, Handle};
use tokio::sync::watch;
use uuid::Uuid;

use super::channel::decode;
use super::columns::Reader;
use super::connect::Way;
use super::executor::Executor;
use super::fail::Fail;
use super::failover::Failover;
use super::liveness::FailureDetector;
use super::session::takes_writes;
use super::sqlstate::Fate;
use super::template::for_schema;
use super::timeouts::{ACQUIRE, within};
use super::value::{Value, write_into};
use crate::clock::{Clock, SystemClock, sleep};
use crate::storage::shared::notify::Notifier;
use crate::storage::{Id, Notification};
use crate::task::{OnDemand, Work, revive};

/// The task that listens; it runs from the first subscription on, until this is dropped or closed.
pub(super) struct Listener {
    /// `None` where nobody is to listen.
    task: Option<Arc<ListenTask>>,
}

/// What a listener needs of the storage.
pub(super) struct ListenerParts {
    pub(super) way: Way,
    pub(super) executor: Arc<Executor>,
    /// This process, as others see it.
    pub(super) member: Id,
    /// Whom it passes on what it hears.
    pub(super) local: Arc<Notifier>,
    pub(super) detector: Arc<FailureDetector>,
    /// Is told in which database the session is.
    pub(super) failover: Arc<Failover>,
}

/// What the task has, and what those see who wait for it.
struct ListenTask {
    parts: ListenerParts,
    on_demand: OnDemand,
    is_open: watch::Sender<bool>,
    registration: watch::Sender<Registration>,
}

/// Whether others can see that this process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registration {
    No,
    Soon,
    Yes,
}

/// How often an idle connection is asked whether it still lives: nothing else tells a cut line.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a claim waits to be seen with its process: on a busy server, that may take seconds, and
/// without it the death of the process costs others a whole lease.
const MOMENT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Listener {
    /// Nobody listens where there are no parts.
    pub(super) fn new(parts: Option<ListenerParts>) -> Self {
        let task = parts.map(|parts| ListenTask {
            parts,
            on_demand: OnDemand::new(),
            is_open: watch::Sender::new(true),
            registration: watch::Sender::new(Registration::No),
        });
        Self {
            task: task.map(Arc::new),
        }
    }

    /// Whether it is to listen at all.
    pub(super) fn is_on(&self) -> bool {
        self.task.is_some()
    }

    /// This process, if others can see whether it lives. Where that is about to be so it waits a
    /// moment: a claim says it, and nothing that comes after does.
    pub(super) async fn member(&self) -> Option<Id> {
        let task = self.task.as_ref()?;
        let mut registration = task.registration.subscribe();
        let known = async {
            let known = registration.wait_for(|it| *it != Registration::Soon);
            known.await.is_ok_and(|known| *known == Registration::Yes)
        };
        let clock = SystemClock::new();
        let is_registered = tokio::select! {
            is_registered = known => is_registered,
            () = sleep(&clock, MOMENT) => false,
        };
        is_registered.then_some(task.parts.member)
    }

    /// Starts the task, unless it runs, or there is no runtime to run it.
    pub(super) fn start(&self) {
        let Some(task) = &self.task else { return };
        if let Ok(runtime) = Handle::try_current()
            && *task.is_open.borrow()
        {
            revive(task, &runtime);
        }
    }

    /// Ends the task, and lets none begin any more.
    pub(super) fn close(&self) {
        if let Some(task) = &self.task {
            task.is_open.send_replace(false);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

impl Work for ListenTask {
    fn on_demand(&self) -> &OnDemand {
        &self.on_demand
    }

    fn work(self: Arc<Self>) -> BoxFuture<'static, ()> {
        self.registration.send_replace(Registration::Soon);
        Box::pin(async move {
            let mut is_open = self.is_open.subscribe();
            tokio::select! {
                () = self.run() => {}
                _ = is_open.wait_for(|is_open| !is_open) => {}
            }
        })
    }

    fn ended(&self, _: Option<runtime::Id>) {
        self.registration.send_replace(Registration::No);
        self.parts.local.send([Notification::Missed]);
    }
}

impl ListenTask {
    async fn run(&self) {
        let clock = SystemClock::new();
        let parts = &self.parts;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.listen(&clock, &mut pause).await {
                Ok(()) => tracing::debug!("the connection that listens ended"),
                // Its text may name the role.
                Err(_) => tracing::debug!("the connection that listens failed"),
            }
            self.registration.send_replace(Registration::No);
            parts.detector.had_trouble();
            // Nobody hears anything until it is back.
            parts.local.send([Notification::Missed]);
            sleep(&clock, pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends with the connection: whatever is wrong with it, another is made. sqlx could reconnect by
    /// itself, but does not say so each time that something may have been lost.
    async fn listen(&self, clock: &SystemClock, pause: &mut Duration) -> Result<(), sqlx::Error> {
        let parts = &self.parts;
        let signals = &parts.executor.pools.listener;
        let mut left = signals.left.subscribe();
        let mut listener = PgListener::connect_with(&parts.way.pool_of_one().await?).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        let beginning = async {
            let is_good = self.register(&mut listener).await;
            if is_good {
                listener.listen(&parts.executor.schema).await?;
            }
            Ok::<bool, sqlx::Error>(is_good)
        };
        match within(ACQUIRE, beginning).await {
            Some(Ok(true)) => {}
            _ => return Ok(()),
        }
        // What happened before is not told.
        parts.local.send([Notification::Missed]);
        *pause = FIRST_PAUSE;
        loop {
            let beat = clock.now().saturating_add(HEARTBEAT);
            tokio::select! {
                heard = listener.try_recv() => match heard? {
                    Some(heard) => {
                        let notification = decode(&parts.executor.tag, heard.payload());
                        parts.local.send(notification);
                        continue;
                    }
                    None => return Ok(()),
                },
                () = clock.sleep_until(beat) => {}
                () = signals.doubt.notified() => {}
                _ = left.changed() => return Ok(()),
            }
            // One that takes no writes is on a server that others have left, or will.
            match within(ACQUIRE, takes_writes(&mut listener)).await {
                Some(Ok(true)) => {}
                _ => return Ok(()),
            }
        }
    }

    /// Says which backend of the server this process keeps. Without that others learn of its end
    /// when the lease runs out. False if the session is of no use.
    async fn register(&self, listener: &mut PgListener) -> bool {
        let parts = &self.parts;
        let sql = for_schema("SELECT {schema}.register($1)", &parts.executor.schema);
        let member = Value::Id(Uuid::from_u128(parts.member.0));
        let sql = write_into(&sql, &[member]);
        let registered = listener.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql))).await;
        let row = match registered.map_err(Fail::Running) {
            Ok(row) => row,
            Err(fail) => {
                tracing::debug!(code = fail.code(), "could not say that this process lives");
                self.registration.send_replace(Registration::No);
                return fail.fate() == Fate::Stays;
            }
        };
        let incarnation = Reader::new(&row).bigint().ok().flatten();
        if let Some(incarnation) = incarnation {
            parts.failover.learn(&incarnation.to_string());
        }
        self.registration.send_replace(Registration::Yes);
        true
    }
}
