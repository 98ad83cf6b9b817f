//! Connections, and how they are kept.

use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::task::JoinSet;

use super::application_pool::ApplicationPool;
use super::fail::{Fail, Whose};
use super::options::PostgresOptions;
use super::session::takes_writes;
use super::settings;
use super::timeouts::{ACQUIRE, ANSWER, within};
use crate::clock::{Clock, SystemClock};
use crate::sync::{Mutex, MutexGuard};

/// A connection that was idle for longer is asked whether it still lives before it is used.
const FRESH: Duration = Duration::from_secs(1);
/// A connection that was idle for longer is closed.
const STALE: Duration = Duration::from_secs(300);

/// How a connection of ours is made.
#[derive(Clone)]
pub(super) enum Way {
    Told(Box<PgConnectOptions>, Arc<PostgresOptions>),
    /// As the pool of the application makes its own connections by now, with its hooks: its password may change, and it may
    /// say in each session which role that has.
    As(PgPool, Arc<PostgresOptions>),
}

impl Way {
    /// The options for a connection, with the credentials of this moment.
    async fn server(&self) -> Result<PgConnectOptions, sqlx::Error> {
        let (server, options) = match self {
            Self::Told(server, options) => ((**server).clone(), options),
            Self::As(pool, options) => ((*pool.connect_options()).clone(), options),
        };
        let server = match &options.credentials {
            Some(credentials) => credentials.of(server).await?,
            None => server,
        };
        Ok(settings::of_ours(server, options))
    }

    /// A pool for one connection, which is made when it is asked for.
    pub(super) async fn pool_of_one(&self) -> Result<PgPool, sqlx::Error> {
        Ok(self.lazy_pool(self.server().await?))
    }

    fn lazy_pool(&self, server: PgConnectOptions) -> PgPool {
        let pool = match self {
            Self::Told(..) => PgPoolOptions::new(),
            Self::As(pool, _) => pool.options().clone().min_connections(0),
        };
        pool.max_connections(1)
            .acquire_timeout(ACQUIRE)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(server)
    }

    /// Makes a connection, and says what its session is to have.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let server = self.server().await?;
        let (mut connection, options) = match self {
            Self::Told(_, options) => (server.connect().await?, options),
            Self::As(_, options) => {
                let pool = self.lazy_pool(server.clone());
                (pool.acquire().await?.detach(), options)
            }
        };
        settings::begin(&mut connection, &server, options.is_pooled).await?;
        Ok(connection)
    }
}

/// Where connections come from.
#[derive(Clone)]
pub(super) enum Connections {
    Ours(Arc<Kept>),
    Application(ApplicationPool),
    /// One of ours; while that is in use, whichever comes first, of the pool or ours. So nothing waits for the
    /// application.
    Beside(Arc<Kept>, ApplicationPool),
}

/// A connection that is in use.
pub(super) enum Lent {
    Ours(Used),
    Application(PoolConnection<Postgres>),
}

impl Connections {
    pub(super) fn ours(way: Way, most: u32) -> Self {
        Self::Ours(Kept::new(way, most))
    }

    /// One connection of ours, and those of a pool of the application.
    pub(super) fn beside(pool: ApplicationPool, way: Way) -> Self {
        Self::Beside(Kept::new(way, 1), pool)
    }

    pub(super) async fn lend(&self) -> Result<Lent, Fail> {
        match self {
            Self::Ours(kept) => kept.lend().await.map(Lent::Ours),
            Self::Application(pool) => pool.acquire().await.map(Lent::Application),
            Self::Beside(kept, pool) => match kept.permits.clone().try_acquire_owned() {
                Ok(permit) => match kept.connection(permit).await {
                    Ok(used) => Ok(Lent::Ours(used)),
                    // The role may have no more of them.
                    Err(fail) => pool.take_idle().await.map(Lent::Application).ok_or(fail),
                },
                Err(TryAcquireError::Closed) => kept.lend().await.map(Lent::Ours),
                Err(TryAcquireError::NoPermits) => lend_either(kept, pool).await,
            },
        }
    }

    /// One of these sessions takes no writes: the others are asked before they are lent again.
    pub(super) fn doubt(&self) {
        if let Self::Ours(kept) | Self::Beside(kept, _) = self {
            // Release: whoever lends with this count sees what was found out before it.
            kept.doubts.fetch_add(1, Ordering::AcqRel);
        }
        if let Self::Application(pool) | Self::Beside(_, pool) = self {
            pool.doubt();
        }
    }

    /// No connection of ours that is there now is lent again.
    pub(super) fn forget(&self) {
        if let Self::Ours(kept) | Self::Beside(kept, _) = self {
            // Release, and before the lock of the list: a session that comes back meanwhile either stands in
            // the list, or is told under that lock that it is forgotten.
            let now = kept.doubts.fetch_add(1, Ordering::AcqRel) + 1;
            kept.forgotten.fetch_max(now, Ordering::AcqRel);
            // Outside of the lock.
            let idle = std::mem::take(&mut *kept.idle());
            drop(idle);
        }
    }

    /// Closes what is idle, and lends nothing any more; leaves a pool of the application alone.
    pub(super) async fn close(&self) {
        let (Self::Ours(kept) | Self::Beside(kept, _)) = self else {
            return;
        };
        kept.permits.close();
        let idle = std::mem::take(&mut *kept.idle());
        let mut closing = JoinSet::new();
        for idle in idle {
            closing.spawn(leave(idle.connection));
        }
        closing.join_all().await;
    }
}

/// That nobody answers at the server.
pub(super) fn silent() -> Fail {
    let text = format!("no answer within {ACQUIRE:?}");
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
    Fail::Connecting(sqlx::Error::Io(error))
}

/// A connection of whichever comes first: where one gives none, the other may.
async fn lend_either(kept: &Arc<Kept>, pool: &ApplicationPool) -> Result<Lent, Fail> {
    let (mut ours, mut theirs) = (pin!(kept.lend()), pin!(pool.acquire()));
    tokio::select! {
        biased;
        lent = &mut ours => match lent {
            Ok(used) => Ok(Lent::Ours(used)),
            Err(fail) => theirs.await.map(Lent::Application).map_err(|_| fail),
        },
        lent = &mut theirs => match lent {
            Ok(connection) => Ok(Lent::Application(connection)),
            Err(_) => ours.await.map(Lent::Ours),
        },
    }
}

impl Lent {
    /// Puts it back for the next call.
    pub(super) fn give_back(self) {
        if let Self::Ours(used) = self {
            used.give_back();
        }
    }

    /// Closes the connection without a word: nobody waits for what it still does.
    pub(super) fn discard(self) {
        match self {
            Self::Ours(used) => drop(used),
            Self::Application(connection) => drop(connection.detach()),
        }
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Ours(used) => &used.connection,
            Self::Application(connection) => connection,
        }
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Ours(used) => &mut used.connection,
            Self::Application(connection) => connection,
        }
    }
}

/// A few connections. The pool of sqlx asks the server each time that one comes back, which costs
/// another round trip, and waits without an end for a server that is silent.
pub(super) struct Kept {
    way: Way,
    most: u32,
    permits: Arc<Semaphore>,
    /// Those that nobody uses: the one that was used last is at the end, and goes first. Taken alone, and
    /// never held while a connection is asked or closed.
    idle: Mutex<Vec<Idle>>,
    /// How often a session was found to take no writes.
    doubts: AtomicU64,
    /// A session that was made, or asked, when there had been fewer doubts is closed.
    forgotten: AtomicU64,
    clock: SystemClock,
}

struct Idle {
    connection: PgConnection,
    since: Duration,
    /// How many doubts there had been when it was made, or asked.
    doubts: u64,
}

/// A connection in use: closed when it is dropped; only who had an answer gives it back.
pub(super) struct Used {
    connection: PgConnection,
    doubts: u64,
    home: Arc<Kept>,
    _permit: OwnedSemaphorePermit,
}

impl Used {
    fn give_back(self) {
        let now = self.home.clock.now();
        let mut idle = self.home.idle();
        // Acquire, under the lock: see `forget`.
        if self.doubts < self.home.forgotten.load(Ordering::Acquire) {
            return;
        }
        let stale = idle.partition_point(|idle| now.saturating_sub(idle.since) > STALE);
        let stale: Vec<Idle> = idle.drain(..stale).collect();
        idle.push(Idle {
            connection: self.connection,
            since: now,
            doubts: self.doubts,
        });
        drop(idle);
        drop(stale);
    }
}

impl Kept {
    fn new(way: Way, most: u32) -> Arc<Self> {
        Arc::new(Self {
            way,
            most,
            permits: Arc::new(Semaphore::new(most as usize)),
            idle: Mutex::default(),
            doubts: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            clock: SystemClock::new(),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock()
    }

    async fn lend(self: &Arc<Self>) -> Result<Used, Fail> {
        let permit = within(ACQUIRE, self.permits.clone().acquire_owned());
        let permit = match permit.await {
            Some(Ok(permit)) => permit,
            Some(Err(_)) => return Err(Fail::Connecting(sqlx::Error::PoolClosed)),
            None => return Err(Fail::InUse(Whose::Ours, self.most)),
        };
        self.connection(permit).await
    }

    async fn connection(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Result<Used, Fail> {
        // What is found out from now on may be so of this one. Acquire: what raised the count has happened.
        let doubts = self.doubts.load(Ordering::Acquire);
        let connection = match self.take_good(doubts).await {
            Some(connection) => connection,
            None => match within(ACQUIRE, self.way.connect()).await {
                Some(connection) => connection.map_err(Fail::Connecting)?,
                None => return Err(silent()),
            },
        };
        Ok(Used {
            connection,
            doubts,
            home: self.clone(),
            _permit: permit,
        })
    }

    /// An idle connection that lives, and takes writes where there are doubts of that.
    async fn take_good(&self, doubts: u64) -> Option<PgConnection> {
        loop {
            let mut idle = self.idle().pop()?;
            let is_fresh = self.clock.now().saturating_sub(idle.since) <= FRESH;
            let is_good = match (idle.doubts == doubts, is_fresh) {
                (true, true) => return Some(idle.connection),
                (true, false) => {
                    let ping = within(ANSWER, idle.connection.ping());
                    ping.await.map(|pong| pong.is_ok())
                }
                (false, _) => {
                    let asking = within(ANSWER, takes_writes(&mut idle.connection));
                    asking.await.map(|answer| answer.unwrap_or(false))
                }
            };
            match is_good {
                Some(true) => return Some(idle.connection),
                Some(false) => {}
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
