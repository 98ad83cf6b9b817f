//! The part of a session that is about commits that stand in a transaction of the application.

use std::sync::Arc;

use super::Session;
use crate::storage::Storage;

impl Session {
    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The commit of this message stands in a transaction from now on, or is about to (`None`); gives the
    /// one in which it stood before.
    pub(crate) fn join_transaction(&self, offset: u64, transaction: Option<u64>) -> Option<u64> {
        self.ledger().transactions().join(offset, transaction)
    }

    /// The commit of this message stands in no transaction any more.
    pub(crate) fn leave_transaction(&self, offset: u64) {
        self.ledger().transactions().leave(offset);
    }

    /// The transaction is over: whether it has done the message; `None` if nobody will find out.
    pub(crate) fn transaction_ended(&self, offset: u64, transaction: u64, is_done: Option<bool>) {
        let mut ledger = self.ledger();
        if !ledger.transactions().stands_in(offset, transaction) {
            return;
        }
        let first = !ledger.has_pending();
        match is_done {
            // The storage knows it; the ledger is to say it as well.
            Some(true) => ledger.done(offset..offset + 1),
            Some(false) => drop(ledger.transactions().undone(offset, transaction)),
            None => {
                drop(ledger);
                return self.give_up();
            }
        }
        let wake_committer = first && ledger.has_pending();
        self.update(ledger);
        self.finished(wake_committer);
        // It may have waited for this.
        self.signals.exhausted.notify_one();
    }
}
