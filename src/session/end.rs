//! Why a lease ended, and how that reads.

use crate::error::{Error, ErrorKind};
use crate::storage::Lease;

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Another consumer took it over.
    Fenced,
    /// It could not be renewed in time.
    Lapsed,
    /// Nothing was polled or committed for `max_processing`.
    Stuck,
    /// A message that it relayed or committed in a transaction is in doubt, and nobody will find out:
    /// only a new epoch keeps a late write from landing beside the next delivery.
    InDoubt,
    /// A commit was answered with less than was known to be done: the storage is in an earlier state.
    WentBack,
    /// It was given back.
    Released,
    /// The storage is closed, or the runtime has ended.
    Closed,
}

impl End {
    /// What those are told who still wanted something under it.
    pub(crate) fn error(self, lease: &Lease) -> Error {
        let Lease { group, epoch, .. } = lease;
        match self {
            Self::Fenced => Error::new(
                ErrorKind::Fenced,
                format!(
                    "{group}: the lease with epoch {epoch} was taken over; its messages reach \
                     the new owner"
                ),
            ),
            Self::Lapsed => Error::new(
                ErrorKind::Fenced,
                format!(
                    "{group}: the lease with epoch {epoch} could not be renewed in time, because the \
                     storage did not answer, or this process stood still; its messages reach the group \
                     again"
                ),
            ),
            Self::Stuck => Error::new(
                ErrorKind::Fenced,
                format!(
                    "{group}: the lease with epoch {epoch} was given up: nothing was polled or \
                     committed for max_processing; its messages reach the group again; allow more with \
                     ConsumerBuilder::max_processing"
                ),
            ),
            Self::InDoubt => Error::new(
                ErrorKind::Fenced,
                format!(
                    "{group}: the lease with epoch {epoch} was given up, because a message that was \
                     relayed, or committed in a transaction, and is in doubt was dropped; its messages \
                     reach the group again"
                ),
            ),
            Self::WentBack => Error::new(
                ErrorKind::Fenced,
                format!(
                    "{group}: the lease with epoch {epoch} was given up, because the storage went back \
                     to an earlier state; what it read may come again"
                ),
            ),
            Self::Released => Error::new(
                ErrorKind::Fenced,
                format!(
                    "{group}: the lease with epoch {epoch} was given back at shutdown; the message \
                     reaches the group again; allow more with ConsumerBuilder::drain"
                ),
            ),
            Self::Closed => Error::closed(format!(
                "{group}: the storage is closed, its driver panicked, or the runtime that the consumer \
                 ran on has ended: open it again, or make the consumer anew"
            )),
        }
    }
}
