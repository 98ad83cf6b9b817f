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
    /// It was given back.
    Released,
    /// The storage is closed, or the runtime has ended.
    Closed,
}

impl End {
    /// What those are told who still wanted something under it.
    pub(super) fn error(self, lease: &Lease) -> Error {
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
                format!("{group}: the lease with epoch {epoch} could not be renewed in time"),
            ),
            Self::Stuck => Error::new(
                ErrorKind::Fenced,
                format!(
                    "{group}: the lease with epoch {epoch} was given up: nothing was polled or \
                     committed for max_processing"
                ),
            ),
            Self::InDoubt => Error::new(
                ErrorKind::Fenced,
                format!(
                    "{group}: the lease with epoch {epoch} was given up, because a message that was \
                     relayed, or committed in a transaction, and is in doubt was dropped"
                ),
            ),
            Self::Released => Error::new(
                ErrorKind::Fenced,
                format!("{group}: the lease with epoch {epoch} was given back at shutdown"),
            ),
            Self::Closed => Error::closed(format!(
                "{group}: the storage is closed, or the runtime that the consumer ran on has ended"
            )),
        }
    }
}
