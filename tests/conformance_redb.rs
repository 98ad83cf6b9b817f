//! The redb storage keeps every promise.

#![cfg(all(feature = "conformance", feature = "redb"))]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowstream::conformance::Harness;
use flowstream::storage::{RedbOptions, RedbStorage, Storage};
use flowstream::{Clock, ManualClock};
use futures::future::BoxFuture;
use tempfile::TempDir;

struct Redb {
    clock: ManualClock,
    storage: Mutex<Arc<dyn Storage>>,
    directory: TempDir,
}

impl Redb {
    async fn open(directory: &TempDir, clock: &ManualClock) -> Arc<dyn Storage> {
        let path = directory.path().join("conformance.redb");
        let options = RedbOptions::new(Arc::new(clock.clone()));
        let storage = RedbStorage::open(path, options).await;
        Arc::new(storage.expect("the file opens"))
    }
}

impl Harness for Redb {
    fn storage(&self) -> Arc<dyn Storage> {
        self.storage.lock().unwrap().clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(time);
        Box::pin(async {})
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn Storage>>> {
        Box::pin(async {
            self.storage().close().await.expect("the file is closed");
            let storage = Self::open(&self.directory, &self.clock).await;
            *self.storage.lock().unwrap() = storage.clone();
            Some(storage)
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(300)
    }
}

async fn redb() -> Redb {
    let clock = ManualClock::new();
    let directory = tempfile::tempdir().expect("a directory");
    let storage = Mutex::new(Redb::open(&directory, &clock).await);
    Redb {
        clock,
        storage,
        directory,
    }
}

flowstream::conformance_tests!(redb);
