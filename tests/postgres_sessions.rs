//! The conformance suite where a session is not as the storage would have it: at stricter levels of
//! isolation, and through a pooler that gives each statement another session.

#![cfg(all(feature = "conformance", feature = "postgres"))]

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use flowstream::conformance::{Harness, checks};
use flowstream::storage::{PostgresOptions, PostgresStorage, Storage};
use flowstream::{Clock, SystemClock};
use futures::StreamExt;
use futures::future::{self, BoxFuture};
use postgres_support::{Bouncer, Cluster};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    // What is durable does not depend on the session: conformance_postgres looks at that.
    CLUSTER.get_or_init(|| {
        Cluster::start_with(&[("fsync", "off"), ("jit", "off"), ("max_connections", "300")])
    })
}

struct Postgres {
    clock: SystemClock,
    way: Way,
    schema: String,
    storage: Mutex<Arc<dyn Storage>>,
}

impl Postgres {
    async fn new(way: Way) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let schema = format!("check_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let storage = open(way, &schema).await;
        Self {
            clock: SystemClock::new(),
            way,
            schema,
            storage: Mutex::new(storage),
        }
    }
}

#[derive(Clone, Copy)]
enum Way {
    /// A pool of the application, whose sessions have this default.
    Isolation(&'static str),
    Pooler(&'static Bouncer),
}

async fn open(way: Way, schema: &str) -> Arc<dyn Storage> {
    let options = PostgresOptions::new().schema(schema);
    let level = match way {
        Way::Isolation(level) => level,
        Way::Pooler(bouncer) => {
            let url = bouncer.url("postgres");
            let storage = PostgresStorage::connect(&url, options.pooled(true)).await;
            return Arc::new(storage.expect("the storage opens"));
        }
    };
    let server = PgConnectOptions::from_str(&cluster().url("postgres")).unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(12)
        .connect_lazy_with(server.options([("default_transaction_isolation", level)]));
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
            let storage = open(self.way, &self.schema).await;
            *self.storage.lock().unwrap() = storage.clone();
            Some(storage)
        })
    }

    /// Many at once, whose statements are in each other's way.
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }
}

/// All checks; in the end it names those whose promise did not hold.
async fn all_checks(way: Way) {
    // Most of the time they wait.
    let checks = futures::stream::iter(checks()).map(|check| async move {
        let run = async move { check.run(Arc::new(Postgres::new(way).await)).await };
        tokio::spawn(run).await.is_err().then_some(check.name())
    });
    let failed: Vec<_> = checks
        .buffer_unordered(3)
        .filter_map(future::ready)
        .collect()
        .await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_repeatable_read() {
    all_checks(Way::Isolation("repeatable read")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_serializable() {
    all_checks(Way::Isolation("serializable")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_transaction_pooler() {
    static BOUNCER: OnceLock<Option<Bouncer>> = OnceLock::new();
    match BOUNCER.get_or_init(|| Bouncer::start(cluster())) {
        Some(bouncer) => all_checks(Way::Pooler(bouncer)).await,
        None => eprintln!("pgbouncer is not installed: skipped"),
    }
}
