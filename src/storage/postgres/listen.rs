//! Hearing what other processes tell: one connection a storage, by which other processes also see
//! that this one lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::watch;
use uuid::Uuid;

use super::columns::Reader;
use super::connect::{ACQUIRE, within};
use super::members::Sightings;
use super::schema::for_schema;
use super::tell::decode;
use super::value::{Value, write_into};
use crate::clock::{Clock, SystemClock, sleep};
use crate::storage::notify::Notifier;
use crate::storage::{Id, Notification};

/// The task that listens; it runs from the first subscription on, until this is dropped or closed.
#[derive(Debug)]
pub(super) struct Listening {
    shared: Option<Arc<Shared>>,
    open: watch::Sender<bool>,
}

#[derive(Debug)]
struct Shared {
    server: PgConnectOptions,
    channel: String,
    tag: String,
    local: Arc<Notifier>,
    is_running: AtomicBool,
    /// This process, as others see it.
    member: Id,
    enrolment: watch::Sender<Enrolment>,
    sightings: Arc<Sightings>,
    /// The incarnation of the server when it was last heard of.
    incarnation: Mutex<Option<i64>>,
}

/// Whether others can see this process live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Enrolment {
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

impl Listening {
    /// `server` is `None` where nobody is to listen.
    pub(super) fn new(
        server: Option<PgConnectOptions>,
        channel: &str,
        tag: &str,
        local: Arc<Notifier>,
        sightings: Arc<Sightings>,
    ) -> Self {
        let shared = server.map(|server| Shared {
            server,
            channel: channel.to_owned(),
            tag: tag.to_owned(),
            local,
            is_running: AtomicBool::new(false),
            member: Id::random(),
            enrolment: watch::Sender::new(Enrolment::No),
            sightings,
            incarnation: Mutex::default(),
        });
        Self {
            shared: shared.map(Arc::new),
            open: watch::Sender::new(true),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// What this process is called where it listens.
    pub(super) fn me(&self) -> Id {
        self.shared.as_ref().map_or(Id(0), |shared| shared.member)
    }

    /// This process, if others can see whether it lives. Where that is about to be so it waits a
    /// moment: a claim says it, and nothing that comes after does.
    pub(super) async fn member(&self) -> Option<Id> {
        let shared = self.shared.as_ref()?;
        let mut enrolment = shared.enrolment.subscribe();
        let known = async {
            let known = enrolment.wait_for(|enrolment| *enrolment != Enrolment::Soon);
            known.await.is_ok_and(|known| *known == Enrolment::Yes)
        };
        let clock = SystemClock::new();
        let is_enrolled = tokio::select! {
            is_enrolled = known => is_enrolled,
            () = sleep(&clock, MOMENT) => false,
        };
        is_enrolled.then_some(shared.member)
    }

    /// Starts the task, unless it runs, or there is no runtime to run it.
    pub(super) fn start(&self) {
        let Some(shared) = &self.shared else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !*self.open.borrow() || shared.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        shared.enrolment.send_replace(Enrolment::Soon);
        let (task, mut open) = (Task(shared.clone()), self.open.subscribe());
        runtime.spawn(async move {
            tokio::select! {
                () = task.run() => {}
                // An error: it was dropped.
                _ = open.wait_for(|open| !open) => {}
            }
        });
    }

    pub(super) fn close(&self) {
        self.open.send_replace(false);
    }
}

/// Also when its runtime ends, the next subscription begins anew.
struct Task(Arc<Shared>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.enrolment.send_replace(Enrolment::No);
        self.0.is_running.store(false, Ordering::Release);
        self.0.local.send([Notification::Missed]);
    }
}

impl Task {
    async fn run(&self) {
        let clock = SystemClock::new();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.listen(&clock, &mut pause).await {
                Ok(()) => tracing::debug!("the connection that listens ended"),
                // Its text may name the role.
                Err(_) => tracing::debug!("the connection that listens failed"),
            }
            self.0.enrolment.send_replace(Enrolment::No);
            self.0.sightings.had_trouble();
            // Nobody hears anything until it is back.
            self.0.local.send([Notification::Missed]);
            sleep(&clock, pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends with the connection: whatever is wrong with it, another is made. sqlx could reconnect by
    /// itself, but does not say so each time that something may have been lost.
    async fn listen(&self, clock: &SystemClock, pause: &mut Duration) -> Result<(), sqlx::Error> {
        let shared = &*self.0;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(shared.server.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        let beginning = async {
            self.enrol(&mut listener).await;
            listener.listen(&shared.channel).await
        };
        match within(ACQUIRE, beginning).await {
            Some(listens) => listens?,
            None => return Ok(()),
        }
        // What happened before is not told.
        shared.local.send([Notification::Missed]);
        *pause = FIRST_PAUSE;
        loop {
            let beat = clock.now() + HEARTBEAT;
            tokio::select! {
                heard = listener.try_recv() => match heard? {
                    Some(heard) => {
                        let notification = decode(&shared.tag, heard.payload());
                        shared.local.send(notification);
                    }
                    None => return Ok(()),
                },
                () = clock.sleep_until(beat) => {
                    let asking = sqlx::raw_sql("SELECT 1").execute(&mut listener);
                    match within(ACQUIRE, asking).await {
                        Some(alive) => _ = alive?,
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    /// Says which backend of the server this process keeps. Without that others learn of its end
    /// when the lease runs out.
    async fn enrol(&self, listener: &mut PgListener) {
        let shared = &*self.0;
        let sql = for_schema("SELECT {schema}.enrol($1)", &shared.channel);
        let member = Value::Id(Uuid::from_u128(shared.member.0));
        let sql = write_into(&sql, &[member]);
        let enrolled = listener.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql))).await;
        let Ok(row) = enrolled else {
            tracing::debug!("could not say that this process lives");
            shared.enrolment.send_replace(Enrolment::No);
            return;
        };
        let incarnation = Reader::new(&row).bigint().ok().flatten();
        let mut known = shared
            .incarnation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.is_some() && *known != incarnation {
            tracing::warn!(
                schema = shared.channel,
                "this is another server than before, after a failover or a restore: what the one \
                 before had acknowledged and not passed on is lost"
            );
        }
        *known = incarnation;
        drop(known);
        shared.enrolment.send_replace(Enrolment::Yes);
    }
}
