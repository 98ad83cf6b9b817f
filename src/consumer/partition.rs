//! One of the partitions of a consumer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::inbox::Event;
use super::settings::{PAUSE, Settings};
use super::shared::ConsumerShared;
use crate::clock::sleep;
use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::name::Name;
use crate::session::{Holding, Session};
use crate::storage::{Group, GroupState, Id, Lease, StoredBatch};

/// One of the partitions of a consumer: what all parts of its assignment use.
pub(super) struct ConsumerPartition {
    pub(super) context: Arc<Context>,
    pub(super) shared: Arc<ConsumerShared>,
    pub(super) settings: Settings,
    pub(super) dead_letters: Option<Name>,
    /// Which of the consumer's partitions it is, counted from 0.
    pub(super) index: usize,
    pub(super) group: Group,
}

/// What the consumer has seen of a partition, which outlives its leases.
#[derive(Debug, Default)]
pub(super) struct LastSeen {
    /// The lease that it had last. If its owner still has it, that is as good as dead.
    pub(super) former: Option<FormerLease>,
    /// The epoch that was fenced, until it is known by whom.
    pub(super) fenced: Option<u64>,
    /// The storage's, when it was seen last.
    pub(super) incarnation: Option<u64>,
    /// The last batch that was read: its offset and its time.
    pub(super) newest: Option<(u64, SystemTime)>,
}

/// A lease that the consumer had.
#[derive(Debug, Clone)]
pub(super) struct FormerLease {
    pub(super) lease: Lease,
    /// One more than the greatest offset that was handed out under it.
    pub(super) handed_out_to: u64,
}

impl ConsumerPartition {
    /// The lease of the partition for this owner.
    pub(super) fn lease(&self, owner: Id, epoch: u64) -> Lease {
        Lease {
            group: self.group.clone(),
            owner,
            epoch,
        }
    }

    /// The session of a lease that was granted by a claim which began then.
    pub(super) fn session(&self, owner: Id, state: &GroupState, began: Duration) -> Arc<Session> {
        let holding = Holding {
            holder: self.shared.clone(),
            partition: self.index,
            dead_letters: self.dead_letters.clone(),
            max_attempts: self.settings.max_attempts,
        };
        let (storage, clock) = (self.context.storage(), self.context.clock());
        let lease = self.lease(owner, state.epoch);
        Arc::new(Session::new(
            lease,
            storage.clone(),
            clock.clone(),
            holding,
            state,
            began,
        ))
    }

    /// Tells the consumer of an error. `None` if there is no point in going on.
    pub(super) async fn report(&self, error: Error) -> Option<()> {
        if error.kind() == ErrorKind::Closed {
            self.shared.fail(error);
            return None;
        }
        self.shared.inbox().room(self.index).await;
        self.give(Event::Error(error));
        sleep(&**self.context.clock(), PAUSE).await;
        Some(())
    }

    /// Gives the consumer something to do, whether it polls or not. One that is shut down does not
    /// want to know.
    pub(super) fn give(&self, event: Event) {
        if self.shared.inbox().give(self.index, event) {
            self.shared.wake();
        }
    }
}

impl LastSeen {
    /// The prefetch has seen this of the log.
    pub(super) fn saw(&mut self, batch: Option<&StoredBatch>) {
        if let Some(batch) = batch {
            self.newest = Some((batch.base_offset, batch.appended_at));
        }
    }
}

impl FormerLease {
    pub(super) fn of(session: &Session) -> Self {
        Self {
            lease: session.lease().clone(),
            handed_out_to: session.handed_out_to(),
        }
    }
}
