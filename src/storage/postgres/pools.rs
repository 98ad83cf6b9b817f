//! The connections of a storage, by what they are for.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::connect::Connections;

/// Where a storage gets its connections, and how its listener is told what others find out.
pub(super) struct Pools {
    /// For appends and reads.
    pub(super) log: Connections,
    /// For leases: they never wait behind a long append, nor for a connection that the application holds.
    pub(super) leases: Connections,
    /// For what is short: beside a pool of the application it does not wait for it either.
    pub(super) aside: Connections,
    pub(super) listener: Arc<ListenerSignals>,
}

/// What is found out of the session that listens, by those who do not know the listener.
#[derive(Debug)]
pub(super) struct ListenerSignals {
    /// Somebody has reason to think that the session is of no use.
    pub(super) doubt: Notify,
    /// Counts how often somebody knew that it is of no use.
    pub(super) left: watch::Sender<u64>,
}

impl Pools {
    pub(super) fn new(log: Connections, leases: Connections, aside: Connections) -> Self {
        let signals = ListenerSignals {
            doubt: Notify::new(),
            left: watch::Sender::new(0),
        };
        Self {
            log,
            leases,
            aside,
            listener: Arc::new(signals),
        }
    }

    /// A session was found to take no writes. The others are asked before they are used again, and the
    /// one that listens is asked now: it may be in another place than the storage.
    pub(super) fn doubt(&self) {
        self.log.doubt();
        self.leases.doubt();
        self.listener.doubt.notify_one();
    }

    /// The storage is in another place than before: no connection of ours that is there now is lent again.
    pub(super) fn forget(&self) {
        self.log.forget();
        self.leases.forget();
    }

    /// Closes what is idle, and lends nothing any more; leaves a pool of the application alone.
    pub(super) async fn close(&self) {
        self.log.close().await;
        self.leases.close().await;
    }
}

impl ListenerSignals {
    /// Has the listener make another connection: the storage is in another place than the session.
    pub(super) fn leave(&self) {
        self.left.send_modify(|count| *count += 1);
    }
}
