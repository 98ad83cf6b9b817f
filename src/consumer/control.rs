//! Watching a consumer and shutting it down, from outside of the pipeline that took it.

use std::future::Future;
use std::sync::Arc;

use super::shared::ConsumerShared;
use super::status::{Status, overall};

/// Watches a consumer and shuts it down.
///
/// Combinators take the consumer by value, so this travels on its own. Cheap to clone; it does not
/// keep the consumer alive.
#[derive(Debug, Clone)]
pub struct Control(pub(super) Arc<ConsumerShared>);

impl Control {
    /// What the consumer is doing: of all partitions the one where it is most active. Those of a
    /// stream with several partitions are in [`partitions`](Self::partitions).
    pub fn status(&self) -> Status {
        overall(&self.0.statuses().borrow())
    }

    /// What the consumer is doing at each partition.
    pub fn partitions(&self) -> Vec<Status> {
        self.0.statuses().borrow().clone()
    }

    /// Waits until [`status`](Self::status) is as wanted, or [`Closed`](Status::Closed), which is
    /// the last, and gives it. A status that comes and goes between two looks may be missed.
    ///
    /// # Cancel safety
    ///
    /// Yes.
    pub async fn wait_for(&self, mut wanted: impl FnMut(Status) -> bool) -> Status {
        let mut statuses = self.0.statuses().subscribe();
        loop {
            // What is wanted is asked outside of the lock.
            let status = overall(&statuses.borrow_and_update());
            if status == Status::Closed || wanted(status) {
                return status;
            }
            if statuses.changed().await.is_err() {
                return Status::Closed;
            }
        }
    }

    /// Shuts the consumer down: at once what is prefetched is dropped, and the stream ends. In the
    /// background it waits for the deliveries that are still held (as long as
    /// [`drain`](crate::ConsumerBuilder::drain) says), writes the commits, and gives the lease
    /// back, for which it takes as long again at most. The future resolves after that; it need not
    /// be awaited.
    pub fn shutdown(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.shut_down();
        self.0.closed()
    }
}
