//! The part of a session that is about commits that stand in a transaction of the application.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Session;
use crate::storage::Storage;

impl Session {
    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        self.flow.storage()
    }

    /// One is about to, or does, in this one; gives the one in which it stood before.
    pub(crate) fn entrust(&self, offset: u64, transaction: Option<u64>) -> Option<u64> {
        self.acks().trusts().put(offset, transaction)
    }

    /// It does not.
    pub(crate) fn take_back(&self, offset: u64) {
        self.acks().trusts().take_back(offset);
    }

    /// The transaction is over: whether it has done the message; `None` if nobody will find out.
    pub(crate) fn settle(&self, offset: u64, transaction: u64, is_done: Option<bool>) {
        let mut acks = self.acks();
        if !acks.trusts().stands_in(offset, transaction) {
            return;
        }
        let first = !acks.has_pending();
        match is_done {
            // The storage knows it; the ledger is to say it as well.
            Some(true) => acks.done(offset..offset + 1),
            Some(false) => drop(acks.trusts().undone(offset, transaction)),
            None => {
                drop(acks);
                return self.give_up();
            }
        }
        let wake_keeper = first && acks.has_pending();
        self.update(acks);
        if wake_keeper {
            self.work.notify_one();
        }
        // It may have waited for this.
        self.exhausted.notify_one();
        if self.draining.load(Ordering::Relaxed) {
            self.settled.notify_one();
        }
    }
}
