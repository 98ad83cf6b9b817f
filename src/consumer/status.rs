//! What a consumer is doing.

use crate::session::Pause;

/// What a consumer is doing at a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Nobody polls it: it was never polled, or not for so long that it gave its lease up.
    Idle,
    /// Another consumer of the group has the lease.
    Standby,
    /// It has the lease with this epoch.
    Active {
        /// The fencing token: grows with each change of owner.
        epoch: u64,
    },
    /// It has the lease with this epoch, and hands out nothing new until less is left undone. What was
    /// dropped or is to be retried still comes again.
    ///
    /// Only these limits pause a partition. What is read ahead
    /// ([`prefetch`](crate::ConsumerBuilder::prefetch)) waits for polls, and deliveries that are held
    /// pause it by what is done beyond them alone.
    Paused {
        /// The fencing token: grows with each change of owner.
        epoch: u64,
        /// Which limit it has reached.
        why: Pause,
    },
    /// It was shut down: nothing of it is under way any more.
    Closed,
}

impl Status {
    /// Whether it has the lease, paused or not.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Active { .. } | Self::Paused { .. })
    }

    /// Whether it has the lease, and hands out nothing new for now.
    pub fn is_paused(self) -> bool {
        matches!(self, Self::Paused { .. })
    }

    /// The status of a consumer that has the lease with this epoch.
    pub(super) fn of(epoch: u64, pause: Option<Pause>) -> Self {
        match pause {
            Some(why) => Self::Paused { epoch, why },
            None => Self::Active { epoch },
        }
    }

    pub(super) fn has_lease(self, of: u64) -> bool {
        match self {
            Self::Active { epoch } | Self::Paused { epoch, .. } => epoch == of,
            _ => false,
        }
    }
}

/// Of all partitions, what the consumer is doing where it is most active.
pub(super) fn overall(statuses: &[Status]) -> Status {
    let rank = |status: &Status| match status {
        Status::Active { .. } => 4,
        Status::Paused { .. } => 3,
        Status::Standby => 2,
        Status::Idle => 1,
        Status::Closed => 0,
    };
    statuses
        .iter()
        .copied()
        .max_by_key(rank)
        .unwrap_or(Status::Closed)
}
