//! The promises hold at every default of isolation and durability that a role, a database or a pool
//! can have.

#![cfg(all(feature = "conformance", feature = "postgres"))]

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use flowstream::conformance::{Harness, checks};
use flowstream::storage::{PostgresOptions, PostgresStorage, Storage};
use flowstream::{Clock, SystemClock};
use futures::future::BoxFuture;
use postgres_support::Cluster;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

/// A storage on a pool whose sessions have this default.
struct Postgres {
    clock: SystemClock,
    setting: (&'static str, &'static str),
    schema: String,
    storage: Mutex<Arc<dyn Storage>>,
}

impl Postgres {
    async fn new(setting: (&'static str, &'static str)) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let schema = format!("check_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let storage = open(setting, &schema).await;
        Self {
            clock: SystemClock::new(),
            setting,
            schema,
            storage: Mutex::new(storage),
        }
    }
}

async fn open(setting: (&str, &str), schema: &str) -> Arc<dyn Storage> {
    let server = PgConnectOptions::from_str(&cluster().url("postgres")).unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(12)
        .connect_lazy_with(server.options([setting]));
    let options = PostgresOptions::new().schema(schema);
    let storage = PostgresStorage::from_pool(pool, options).await;
    Arc::new(storage.expect("the storage opens"))
}

impl Harness for Postgres {
    fn storage(&self) -> Arc<dyn Storage> {
        self.storage.lock().unwrap().clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.clock.sleep_until(self.clock.now() + time)
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn Storage>>> {
        Box::pin(async {
            self.storage().close().await.expect("it is closed");
            let storage = open(self.setting, &self.schema).await;
            *self.storage.lock().unwrap() = storage.clone();
            Some(storage)
        })
    }
}

/// All checks: whatever does not collide is cheap.
async fn all_checks(setting: (&'static str, &'static str)) {
    for check in checks() {
        println!("{} at {}", check.name(), setting.1);
        check.run(Arc::new(Postgres::new(setting).await)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_repeatable_read() {
    all_checks(("default_transaction_isolation", "repeatable read")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_serializable() {
    all_checks(("default_transaction_isolation", "serializable")).await;
}
