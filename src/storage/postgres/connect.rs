//! Connections: what a session is told, and how they are kept.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{ConnectOptions, Connection, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::error::Fail;
use super::options::PostgresOptions;
use crate::clock::{Clock, SystemClock, sleep};

/// How long a call waits for a connection.
pub(super) const ACQUIRE: Duration = Duration::from_secs(5);

/// A connection that was idle for longer is asked whether it still lives before it is used.
const FRESH: Duration = Duration::from_secs(1);
/// And has to answer within this.
const ANSWER: Duration = Duration::from_secs(1);
/// One that was idle for longer is closed.
const STALE: Duration = Duration::from_secs(300);

/// The options of a connection of ours: quiet, and with timeouts. What the user sets stays.
pub(super) fn of_ours(server: PgConnectOptions, options: &PostgresOptions) -> PgConnectOptions {
    let mut server = server.disable_statement_logging();
    if server.get_application_name().is_none() {
        server = server.application_name("flowstream");
    }
    if options.is_pooled {
        // Nothing of a session is ours there, and poolers refuse options at the start.
        return server;
    }
    let given = server.get_options().unwrap_or_default().to_owned();
    let timeout = options.statement_timeout.as_millis().to_string();
    let settings = [
        // Functions take their locks first and look then: each look needs a fresh snapshot.
        ("default_transaction_isolation", "read committed"),
        ("statement_timeout", &*timeout),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "60s"),
        ("tcp_user_timeout", "10s"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("client_connection_check_interval", "5s"),
        // Every look is by index, as in the functions: see the schema.
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        // A look into a large log seems dear to the planner, and is not.
        ("jit", "off"),
    ];
    let ours = settings
        .into_iter()
        .filter(|(name, _)| !given.contains(name));
    server.options(ours)
}

/// Where connections come from.
#[derive(Clone)]
pub(super) enum Connections {
    Ours(Arc<Kept>),
    Theirs(PgPool),
}

/// One that is in use.
pub(super) enum Lent {
    Ours(Used),
    Theirs(PoolConnection<Postgres>),
}

impl Connections {
    pub(super) fn ours(server: &PgConnectOptions, most: u32) -> Self {
        Self::Ours(Arc::new(Kept {
            server: server.clone(),
            permits: Arc::new(Semaphore::new(most as usize)),
            idle: Mutex::default(),
            clock: SystemClock::new(),
        }))
    }

    pub(super) async fn lend(&self) -> Result<Lent, Fail> {
        match self {
            Self::Ours(kept) => kept.lend().await.map(Lent::Ours),
            Self::Theirs(pool) => {
                let connection = pool.acquire().await;
                connection.map(Lent::Theirs).map_err(Fail::Connecting)
            }
        }
    }

    /// Closes what is idle, and lends nothing any more; leaves a pool of the application alone.
    pub(super) async fn close(&self) {
        let Self::Ours(kept) = self else { return };
        kept.permits.close();
        let idle = std::mem::take(&mut *kept.idle());
        let mut closing = JoinSet::new();
        for idle in idle {
            closing.spawn(leave(idle.connection));
        }
        closing.join_all().await;
    }
}

impl Lent {
    /// For the next.
    pub(super) fn give_back(self) {
        if let Self::Ours(used) = self {
            used.give_back();
        }
    }

    /// Closes it without a word: nobody waits for what it still does.
    pub(super) fn discard(self) {
        match self {
            Self::Ours(used) => drop(used),
            Self::Theirs(connection) => drop(connection.detach()),
        }
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Ours(used) => &used.connection,
            Self::Theirs(connection) => connection,
        }
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Ours(used) => &mut used.connection,
            Self::Theirs(connection) => connection,
        }
    }
}

/// A few connections. The pool of sqlx asks the server each time that one comes back, which costs
/// another round trip, and waits without an end for a server that is silent.
pub(super) struct Kept {
    server: PgConnectOptions,
    permits: Arc<Semaphore>,
    /// The one that was used last is at the end, and goes first.
    idle: Mutex<Vec<Idle>>,
    clock: SystemClock,
}

struct Idle {
    connection: PgConnection,
    since: Duration,
}

/// Closed when it is dropped; only who had an answer gives it back.
pub(super) struct Used {
    connection: PgConnection,
    home: Arc<Kept>,
    _permit: OwnedSemaphorePermit,
}

impl Used {
    fn give_back(self) {
        let now = self.home.clock.now();
        let mut idle = self.home.idle();
        let stale = idle.partition_point(|idle| now.saturating_sub(idle.since) > STALE);
        let stale: Vec<Idle> = idle.drain(..stale).collect();
        idle.push(Idle {
            connection: self.connection,
            since: now,
        });
        drop(idle);
        drop(stale);
    }
}

impl Kept {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lend(self: &Arc<Self>) -> Result<Used, Fail> {
        let permit = within(ACQUIRE, self.permits.clone().acquire_owned());
        let permit = match permit.await {
            Some(Ok(permit)) => permit,
            Some(Err(_)) => return Err(Fail::Connecting(sqlx::Error::PoolClosed)),
            None => return Err(Fail::Connecting(sqlx::Error::PoolTimedOut)),
        };
        let connection = match self.take_living().await {
            Some(connection) => connection,
            None => match within(ACQUIRE, self.server.connect()).await {
                Some(connection) => connection.map_err(Fail::Connecting)?,
                None => return Err(Fail::Connecting(sqlx::Error::PoolTimedOut)),
            },
        };
        Ok(Used {
            connection,
            home: self.clone(),
            _permit: permit,
        })
    }

    async fn take_living(&self) -> Option<PgConnection> {
        loop {
            let mut idle = self.idle().pop()?;
            if self.clock.now().saturating_sub(idle.since) <= FRESH {
                return Some(idle.connection);
            }
            match within(ANSWER, idle.connection.ping()).await {
                Some(Ok(())) => return Some(idle.connection),
                Some(Err(_)) => {}
                // The line is dead, and that of the others, which were idle for longer, is the same.
                None => self.idle().clear(),
            }
        }
    }
}

/// Ends a connection. Whether the server hears of that does not matter.
pub(super) async fn leave(connection: PgConnection) {
    let _ = within(ANSWER, connection.close()).await;
}

/// The end of this work, if it comes in time. Sockets and servers take their time from the machine.
pub(super) async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let clock = SystemClock::new();
    tokio::select! {
        done = work => Some(done),
        () = sleep(&clock, time) => None,
    }
}
