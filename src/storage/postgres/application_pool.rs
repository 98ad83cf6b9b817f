//! A pool of the application, of which the storage has a connection now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{Connection, Postgres};

use super::fail::{Fail, Whose};
use super::session::takes_writes;
use super::timeouts::{ANSWER, within};
use crate::clock::{SystemClock, sleep};

/// A pool that the application has given: none of its connections is kept.
#[derive(Clone)]
pub(super) struct ApplicationPool(Arc<SharedPool>);

struct SharedPool {
    pool: PgPool,
    /// How often one of its sessions was found to take no writes. The others may be of the same time.
    doubts: AtomicU64,
    /// For a while after that each is asked before it is used. (Not only as many as there were: those that
    /// are good come back as well, and one of that time may be the last to come back.)
    is_weeding: AtomicBool,
}

/// When idle sessions are looked at after that. One that the application had found it in comes back to
/// the pool a little later.
const WEEDING: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_secs(2),
];

impl ApplicationPool {
    pub(super) fn new(pool: PgPool) -> Self {
        Self(Arc::new(SharedPool {
            pool,
            doubts: AtomicU64::new(0),
            is_weeding: AtomicBool::new(false),
        }))
    }

    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, Fail> {
        loop {
            let acquired = self.0.pool.acquire().await;
            let mut connection = acquired.map_err(|error| self.explain(error))?;
            if !self.has_to_ask() || can_write(&mut connection).await {
                return Ok(connection);
            }
            drop(connection.detach());
        }
    }

    /// Why there is no connection, which the pool does not say.
    fn explain(&self, error: sqlx::Error) -> Fail {
        let pool = &self.0.pool;
        let most = pool.options().get_max_connections();
        let is_full = pool.size() >= most && pool.num_idle() == 0;
        match error {
            sqlx::Error::PoolTimedOut if is_full => Fail::InUse(Whose::Application, most),
            error => Fail::Connecting(error),
        }
    }

    /// A connection that nobody uses or waits for, if it still lives.
    pub(super) async fn take_idle(&self) -> Option<PoolConnection<Postgres>> {
        let mut connection = self.0.pool.try_acquire()?;
        let is_good = match self.has_to_ask() {
            true => can_write(&mut connection).await,
            false => matches!(within(ANSWER, connection.ping()).await, Some(Ok(()))),
        };
        if is_good {
            return Some(connection);
        }
        drop(connection.detach());
        None
    }

    /// One of its sessions takes no writes. Those of the same time are closed, so that the application
    /// does not get them either.
    pub(super) fn doubt(&self) {
        let shared = &self.0;
        // Release, and before the swap: a task that looks at the count from now on goes on.
        shared.doubts.fetch_add(1, Ordering::AcqRel);
        // Acquire and release: one task at a time, and each sees what the one before did.
        if shared.is_weeding.swap(true, Ordering::AcqRel) {
            return;
        }
        let weeding = Weeding(self.clone());
        tokio::spawn(async move {
            let clock = SystemClock::new();
            loop {
                // Acquire: what raised the count has happened before the pool is weeded.
                let doubts = weeding.0.0.doubts.load(Ordering::Acquire);
                for pause in WEEDING {
                    sleep(&clock, pause).await;
                    weeding.0.weed().await;
                }
                // Acquire: as above.
                if weeding.0.0.doubts.load(Ordering::Acquire) == doubts {
                    return;
                }
            }
        });
    }

    /// Whether a session is to be asked before it is used.
    fn has_to_ask(&self) -> bool {
        // Acquire: who sees the end of a weeding sees what it closed.
        self.0.is_weeding.load(Ordering::Acquire)
    }

    /// Closes those that nobody uses and that take no writes.
    pub(super) async fn weed(&self) {
        let pool = &self.0.pool;
        for _ in 0..pool.num_idle() {
            let Some(mut connection) = pool.try_acquire() else {
                return;
            };
            if !can_write(&mut connection).await {
                drop(connection.detach());
            }
        }
    }
}

async fn can_write(connection: &mut PoolConnection<Postgres>) -> bool {
    let answer = within(ANSWER, takes_writes(&mut **connection)).await;
    matches!(answer, Some(Ok(true)))
}

/// Ends the weeding when it is dropped, also with its runtime: the next doubt begins anew.
struct Weeding(ApplicationPool);

impl Drop for Weeding {
    fn drop(&mut self) {
        // Release: who sees this sees what was closed before.
        self.0.0.is_weeding.store(false, Ordering::Release);
    }
}
