//! Messages whose commit stands in a transaction of the application, which knows what becomes of it.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ranges::Ranges;

/// The open transactions that commits of one lease stand in. A message that is here is neither done nor dropped.
#[derive(Debug, Default)]
pub(super) struct OpenTransactions {
    open: BTreeMap<u64, Open>,
    /// Let go of, and left undone by their transactions.
    lost: Ranges,
}

#[derive(Debug)]
struct Open {
    /// `None` while it is not known, and if nobody waited for the answer.
    transaction: Option<u64>,
    is_let_go: bool,
}

#[cfg_attr(
    not(feature = "postgres"),
    allow(
        dead_code,
        reason = "no other storage has transactions of the application"
    )
)]
impl OpenTransactions {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn has(&self, offset: u64) -> bool {
        self.open.contains_key(&offset)
    }

    /// Those of `offsets` that are here.
    pub(super) fn among(&self, offsets: &Ranges) -> Vec<u64> {
        let open = self.open.keys().copied();
        open.filter(|offset| offsets.contains(*offset)).collect()
    }

    /// The commit stands in this transaction from now on; gives the one in which it stood before. That
    /// one is over: another one waits for it.
    pub(super) fn join(&mut self, offset: u64, transaction: Option<u64>) -> Option<u64> {
        let open = Open {
            transaction,
            is_let_go: false,
        };
        self.open.insert(offset, open)?.transaction
    }

    /// The commit stands in none.
    pub(super) fn leave(&mut self, offset: u64) {
        self.open.remove(&offset);
    }

    /// A handle is gone. `None` if its message is not here; else whether somebody will find out.
    pub(super) fn let_go(&mut self, offset: u64) -> Option<bool> {
        let open = self.open.get_mut(&offset)?;
        open.is_let_go = true;
        Some(open.transaction.is_some())
    }

    /// The transaction is over and has not done it. Whether it was here.
    pub(super) fn undone(&mut self, offset: u64, transaction: u64) -> bool {
        if !self.stands_in(offset, transaction) {
            return false;
        }
        if self.open.remove(&offset).is_some_and(|open| open.is_let_go) {
            self.lost.insert(offset..offset + 1);
        }
        true
    }

    /// Whether it is here, and its handle is gone.
    pub(super) fn is_let_go(&self, offset: u64) -> bool {
        let open = self.open.get(&offset);
        self.lost.contains(offset) || open.is_some_and(|open| open.is_let_go)
    }

    pub(super) fn stands_in(&self, offset: u64, transaction: u64) -> bool {
        let open = self.open.get(&offset);
        open.is_some_and(|open| open.transaction == Some(transaction))
    }

    /// They are done, in whatever way.
    pub(super) fn done(&mut self, offsets: Range<u64>) {
        if !self.lost.is_empty() {
            self.lost.remove(offsets.clone());
        }
        if !self.open.is_empty() {
            self.open.retain(|offset, _| !offsets.contains(offset));
        }
    }

    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// What its transactions have left undone.
    pub(super) fn lost(&self) -> &Ranges {
        &self.lost
    }

    /// Takes those of `due` that were left undone, to be delivered again.
    pub(super) fn take_lost(&mut self, due: &Ranges) -> Ranges {
        let lost = self.lost.intersection(due);
        self.lost.subtract(&lost);
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_again_when_its_transaction_left_it_and_so_did_the_handle() {
        let mut transactions = OpenTransactions::default();
        assert_eq!(transactions.let_go(7), None, "not here");
        assert_eq!(transactions.join(7, Some(100)), None);
        assert!(transactions.undone(7, 100));
        assert!(!transactions.has_lost(), "somebody still has it");
        assert_eq!(transactions.let_go(7), None);

        transactions.join(7, Some(101));
        assert_eq!(transactions.let_go(7), Some(true));
        assert!(!transactions.undone(7, 100), "another transaction");
        assert!(transactions.undone(7, 101));
        assert_eq!(transactions.take_lost(&Ranges::from(0..7)), Ranges::new());
        assert_eq!(
            transactions.take_lost(&Ranges::from(0..9)),
            Ranges::from(7..8)
        );
        assert!(transactions.is_empty() && !transactions.has_lost());
    }

    #[test]
    fn what_is_done_is_forgotten() {
        let mut transactions = OpenTransactions::default();
        transactions.join(3, None);
        assert_eq!(
            transactions.let_go(3),
            Some(false),
            "nobody knows the transaction"
        );
        transactions.join(4, Some(100));
        transactions.let_go(4);
        transactions.undone(4, 100);
        transactions.done(0..5);
        assert!(transactions.is_empty() && !transactions.has_lost());
    }

    #[test]
    fn what_is_open_is_known_until_it_is_taken_back() {
        let mut transactions = OpenTransactions::default();
        transactions.join(7, Some(100));
        assert!(!transactions.is_empty() && transactions.has(7) && !transactions.has(8));
        assert_eq!(transactions.among(&Ranges::from(0..9)), [7]);
        transactions.leave(7);
        assert!(transactions.is_empty() && !transactions.has(7));
        transactions.join(7, Some(101));
        transactions.let_go(7);
        transactions.undone(7, 101);
        assert!(transactions.has_lost());
    }
}
