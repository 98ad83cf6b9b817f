//! The memory storage keeps every promise.

#![cfg(feature = "conformance")]

use std::sync::Arc;
use std::time::Duration;

use flowstream::conformance::Harness;
use flowstream::storage::{MemoryStorage, Storage};
use flowstream::{Clock, ManualClock};
use futures::future::BoxFuture;

struct Memory {
    clock: ManualClock,
    storage: Arc<dyn Storage>,
}

impl Harness for Memory {
    fn storage(&self) -> Arc<dyn Storage> {
        self.storage.clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(time);
        Box::pin(async {})
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn Storage>>> {
        Box::pin(async { None })
    }
}

async fn memory() -> Memory {
    let clock = ManualClock::new();
    let storage = Arc::new(MemoryStorage::new(Arc::new(clock.clone())));
    Memory { clock, storage }
}

flowstream::conformance_tests!(memory);
