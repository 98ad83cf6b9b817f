//! Hearing what other processes tell: one connection a storage, by which other processes also see
//! that this one lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::columns::Reader;
use super::connect::{ACQUIRE, Way, within};
use super::core::Core;
use super::fail::Fail;
use super::members::Sightings;
use super::session::takes_writes;
use super::sqlstate::Fate;
use super::tell::decode;
use super::template::for_schema;
use super::value::{Value, write_into};
use crate::clock::{Clock, SystemClock, sleep};
use crate::storage::notify::Notifier;
use crate::storage::{Id, Notification};

/// The task that listens; it runs from the first subscription on, until this is dropped or closed.
pub(super) struct Listening {
    shared: Option<Arc<Shared>>,
    open: watch::Sender<bool>,
}

struct Shared {
    way: Way,
    channel: String,
    tag: String,
    local: Arc<Notifier>,
    is_running: AtomicBool,
    /// This process, as others see it.
    member: Id,
    enrolment: watch::Sender<Enrolment>,
    /// Somebody has reason to think that this session is of no use.
    doubt: Notify,
    /// Counts how often somebody knew that it is.
    left: watch::Sender<u64>,
    sightings: Arc<Sightings>,
    /// Whom the server's incarnation is told.
    core: Weak<Core>,
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
    /// `way` is `None` where nobody is to listen.
    pub(super) fn new(
        way: Option<Way>,
        channel: &str,
        tag: &str,
        local: Arc<Notifier>,
        sightings: Arc<Sightings>,
        core: Weak<Core>,
    ) -> Self {
        let shared = way.map(|way| Shared {
            way,
            channel: channel.to_owned(),
            tag: tag.to_owned(),
            local,
            is_running: AtomicBool::new(false),
            member: Id::random(),
            enrolment: watch::Sender::new(Enrolment::No),
            doubt: Notify::new(),
            left: watch::Sender::new(0),
            sightings,
            core,
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

    /// Looks at once whether its session takes writes: else it is not where the storage is.
    pub(super) fn doubt(&self) {
        if let Some(shared) = &self.shared {
            shared.doubt.notify_one();
        }
    }

    /// Makes another connection: the storage is in another place than the session.
    pub(super) fn leave(&self) {
        if let Some(shared) = &self.shared {
            shared.left.send_modify(|count| *count += 1);
        }
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
        let mut left = shared.left.subscribe();
        let mut listener = PgListener::connect_with(&shared.way.pool_of_one().await?).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        let beginning = async {
            let is_good = self.enrol(&mut listener).await;
            if is_good {
                listener.listen(&shared.channel).await?;
            }
            Ok::<bool, sqlx::Error>(is_good)
        };
        match within(ACQUIRE, beginning).await {
            Some(Ok(true)) => {}
            _ => return Ok(()),
        }
        // What happened before is not told.
        shared.local.send([Notification::Missed]);
        *pause = FIRST_PAUSE;
        loop {
            let beat = clock.now().saturating_add(HEARTBEAT);
            tokio::select! {
                heard = listener.try_recv() => match heard? {
                    Some(heard) => {
                        let notification = decode(&shared.tag, heard.payload());
                        shared.local.send(notification);
                        continue;
                    }
                    None => return Ok(()),
                },
                () = clock.sleep_until(beat) => {}
                () = shared.doubt.notified() => {}
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
    async fn enrol(&self, listener: &mut PgListener) -> bool {
        let shared = &*self.0;
        let sql = for_schema("SELECT {schema}.register($1)", &shared.channel);
        let member = Value::Id(Uuid::from_u128(shared.member.0));
        let sql = write_into(&sql, &[member]);
        let enrolled = listener.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql))).await;
        let row = match enrolled.map_err(Fail::Running) {
            Ok(row) => row,
            Err(fail) => {
                tracing::debug!(code = fail.code(), "could not say that this process lives");
                shared.enrolment.send_replace(Enrolment::No);
                return fail.fate() == Fate::Stays;
            }
        };
        let incarnation = Reader::new(&row).bigint().ok().flatten();
        if let (Some(core), Some(incarnation)) = (shared.core.upgrade(), incarnation) {
            core.is_at(&incarnation.to_string());
        }
        shared.enrolment.send_replace(Enrolment::Yes);
        true
    }
}
