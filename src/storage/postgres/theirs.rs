//! A pool of the application, of which the storage has a connection now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{Connection, Postgres};

use super::connect::{ANSWER, within};
use super::error::{Fail, Whose};
use super::session::takes_writes;
use crate::clock::{SystemClock, sleep};

#[derive(Clone)]
pub(super) struct Theirs(Arc<Shared>);

struct Shared {
    pool: PgPool,
    /// So many of its sessions are asked before they are used: one was found to take no writes, and the
    /// others may be of the same time.
    asks: AtomicU32,
    is_weeding: AtomicBool,
}

/// When idle sessions are looked at after that. One that the application had found it in comes back to
/// the pool a little later.
const WEEDING: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_secs(2),
];

impl Theirs {
    pub(super) fn new(pool: PgPool) -> Self {
        Self(Arc::new(Shared {
            pool,
            asks: AtomicU32::new(0),
            is_weeding: AtomicBool::new(false),
        }))
    }

    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, Fail> {
        loop {
            let acquired = self.0.pool.acquire().await;
            let mut connection = acquired.map_err(|error| self.explain(error))?;
            let Some(ask) = self.has_to_ask() else {
                return Ok(connection);
            };
            match ask.can_write(&mut connection).await {
                true => return Ok(connection),
                false => drop(connection.detach()),
            }
        }
    }

    /// The pool does not say why it has none.
    fn explain(&self, error: sqlx::Error) -> Fail {
        let pool = &self.0.pool;
        let most = pool.options().get_max_connections();
        let is_full = pool.size() >= most && pool.num_idle() == 0;
        match error {
            sqlx::Error::PoolTimedOut if is_full => Fail::InUse(Whose::Theirs, most),
            error => Fail::Connecting(error),
        }
    }

    /// What nobody uses or waits for, if it still lives.
    pub(super) async fn take_idle(&self) -> Option<PoolConnection<Postgres>> {
        let mut connection = self.0.pool.try_acquire()?;
        let is_good = match self.has_to_ask() {
            Some(ask) => ask.can_write(&mut connection).await,
            None => matches!(within(ANSWER, connection.ping()).await, Some(Ok(()))),
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
        shared.asks.store(shared.pool.size(), Ordering::Release);
        if shared.is_weeding.swap(true, Ordering::AcqRel) {
            return;
        }
        let weeding = Weeding(self.clone());
        tokio::spawn(async move {
            let clock = SystemClock::new();
            for pause in WEEDING {
                sleep(&clock, pause).await;
                weeding.0.weed().await;
            }
        });
    }

    fn has_to_ask(&self) -> Option<Ask<'_>> {
        let one_less = |asks: u32| asks.checked_sub(1);
        let asks = &self.0.asks;
        let has_to = asks.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        has_to.is_ok().then_some(Ask {
            asks,
            is_answered: false,
        })
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

/// One of the sessions that have to be asked. Whoever asks may be let go of meanwhile: then the session
/// goes back to the pool, and has to be asked by the next.
struct Ask<'a> {
    asks: &'a AtomicU32,
    is_answered: bool,
}

impl Ask<'_> {
    async fn can_write(mut self, connection: &mut PoolConnection<Postgres>) -> bool {
        let can_write = can_write(connection).await;
        self.is_answered = true;
        can_write
    }
}

impl Drop for Ask<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.asks.fetch_add(1, Ordering::AcqRel);
        }
    }
}

async fn can_write(connection: &mut PoolConnection<Postgres>) -> bool {
    let answer = within(ANSWER, takes_writes(&mut **connection)).await;
    matches!(answer, Some(Ok(true)))
}

/// Also when its runtime ends, the next doubt begins anew.
struct Weeding(Theirs);

impl Drop for Weeding {
    fn drop(&mut self) {
        self.0.0.is_weeding.store(false, Ordering::Release);
    }
}
