//! A pool of the application, of which the storage has a connection now and then.

use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{Connection, Postgres};
use tokio::runtime::{self, Handle};

use super::fail::{Fail, Whose};
use super::session::takes_writes;
use super::timeouts::{ANSWER, within};
use crate::clock::{SystemClock, sleep};
use crate::task::{OnDemand, Work, wake};

/// A pool that the application has given: none of its connections is kept.
#[derive(Clone)]
pub(super) struct ApplicationPool(Arc<SharedPool>);

struct SharedPool {
    pool: PgPool,
    /// Runs for a while after one of its sessions was found to take no writes: the others may be of the
    /// same time. Until then each is asked before it is used. (Not only as many as there were: those that
    /// are good come back as well, and one of that time may be the last to come back.)
    on_demand: OnDemand,
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
            on_demand: OnDemand::new(),
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
        wake(&self.0, &Handle::current());
    }

    /// Whether a session is to be asked before it is used.
    fn has_to_ask(&self) -> bool {
        self.0.on_demand.is_running()
    }

    /// Closes those that nobody uses and that take no writes.
    pub(super) async fn weed(&self) {
        self.0.weed().await;
    }
}

impl SharedPool {
    /// Closes those that nobody uses and that take no writes.
    async fn weed(&self) {
        let pool = &self.pool;
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

/// Weeds the pool for a while; whoever doubts it meanwhile has it weeded for as long again.
impl Work for SharedPool {
    fn on_demand(&self) -> &OnDemand {
        &self.on_demand
    }

    fn work(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let clock = SystemClock::new();
            for pause in WEEDING {
                sleep(&clock, pause).await;
                self.weed().await;
            }
        })
    }

    // With a runtime: the next doubt begins anew.
    fn ended(&self, _: Option<runtime::Id>) {}
}

async fn can_write(connection: &mut PoolConnection<Postgres>) -> bool {
    let answer = within(ANSWER, takes_writes(&mut **connection)).await;
    matches!(answer, Some(Ok(true)))
}
