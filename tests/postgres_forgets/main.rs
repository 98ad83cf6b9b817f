//! What a process remembers of a server ends when the server, the session or the pool says otherwise.

#![cfg(feature = "postgres")]

mod copies;
mod credentials;
mod plans;
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
mod sessions;
mod settings;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{Consumer, Delivery, Flowstream, Options};
use postgres_support::Cluster;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

const PATIENCE: Duration = Duration::from_secs(600);

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start_with(&[("max_connections", "300")]))
}

/// Reports the first error.
fn hasty() -> Options {
    Options::new().retry_for(Duration::ZERO)
}

async fn open(url: &str) -> Flowstream {
    hasty().open(url).await.expect("it opens")
}

fn pool(url: &str, connections: u32) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(connections);
    let pool = pool.acquire_timeout(PATIENCE);
    pool.connect_lazy(url).expect("a URL")
}

async fn on_pool(pool: &PgPool, options: PostgresOptions) -> Flowstream {
    let storage = PostgresStorage::from_pool(pool.clone(), options).await;
    hasty().open_storage(Arc::new(storage.expect("it opens")))
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    in_time(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let next = in_time("a delivery", consumer.try_next()).await;
    next.expect("no error").expect("it goes on")
}
