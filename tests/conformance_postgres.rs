//! The conformance suite against PostgreSQL: one cluster, and a schema of its own for each check.

#![cfg(all(feature = "conformance", feature = "postgres"))]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use flowstream::conformance::Harness;
use flowstream::storage::{PostgresOptions, PostgresStorage, Storage};
use flowstream::{Clock, SystemClock};
use futures::future::BoxFuture;
use postgres_support::Cluster;

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

struct Postgres {
    clock: SystemClock,
    schema: String,
    storage: Mutex<Arc<dyn Storage>>,
}

async fn open(schema: &str) -> Arc<dyn Storage> {
    let url = cluster().url("postgres");
    let options = PostgresOptions::new().schema(schema);
    let storage = PostgresStorage::connect(&url, options).await;
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
            let storage = open(&self.schema).await;
            *self.storage.lock().unwrap() = storage.clone();
            Some(storage)
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(300)
    }
}

async fn postgres() -> Postgres {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let schema = format!("check_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    Postgres {
        clock: SystemClock::new(),
        storage: Mutex::new(open(&schema).await),
        schema,
    }
}

flowstream::conformance_tests!(postgres);
