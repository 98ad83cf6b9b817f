//! Counts the calls that are in flight, so that closing waits for them.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::error::Result;
use crate::storage::shared::refusals::closed;
use crate::sync::{Mutex, MutexGuard};

/// The calls of a storage that are in flight, and what follows from them.
#[derive(Debug, Clone, Default)]
pub(super) struct InFlight(Arc<Calls>);

#[derive(Debug, Default)]
struct Calls {
    /// Guards the count. The last lock that is taken: also while the state of the tracker is locked.
    count: Mutex<Count>,
    none_left: Notify,
}

#[derive(Debug, Default)]
struct Count {
    is_closed: bool,
    calls: usize,
}

/// A call is in flight for as long as this is there.
#[derive(Debug)]
pub(super) struct InFlightGuard(InFlight);

impl InFlight {
    /// A call begins; an error once the storage is being closed.
    pub(super) fn enter(&self) -> Result<InFlightGuard> {
        let mut count = self.count();
        if count.is_closed {
            return Err(closed());
        }
        count.calls += 1;
        Ok(InFlightGuard(self.clone()))
    }

    /// Whether the storage is being closed, and somebody waits until no call is left.
    pub(super) fn is_closed(&self) -> bool {
        self.count().is_closed
    }

    /// Lets no call begin any more, and waits until none is left.
    pub(super) async fn close(&self) {
        self.count().is_closed = true;
        loop {
            let none_left = self.0.none_left.notified();
            if self.count().calls == 0 {
                return;
            }
            none_left.await;
        }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.count.lock()
    }
}

impl InFlightGuard {
    /// For work that follows from this call, even if the storage is being closed by now.
    pub(super) fn another(&self) -> Self {
        self.0.count().calls += 1;
        Self(self.0.clone())
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut count = self.0.count();
        count.calls -= 1;
        if count.calls == 0 {
            self.0.0.none_left.notify_waiters();
        }
    }
}
