//! The transactions of the application that something of ours stands in, and what becomes of it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::value::{Value, as_bigint};
use crate::storage::Group;

/// A transaction of the application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Transaction {
    /// The identity of the database in which its id counts.
    pub(super) database: Arc<str>,
    pub(crate) xid: u64,
}

/// What stands in a transaction that is not over yet.
#[derive(Debug)]
pub(super) struct OpenWrite {
    pub(super) transaction: Transaction,
    /// The message that is done if the transaction commits; `None` for what it appends.
    pub(super) ack: Option<OpenAck>,
}

/// A message that is done if its transaction commits.
#[derive(Debug)]
pub(super) struct OpenAck {
    pub(super) group: Group,
    pub(super) offset: u64,
    pub(super) ending: Ending,
}

/// Who is told whether a message is done, now that the transaction is over; `None` if nobody will
/// find out.
pub(crate) struct Ending(Option<Box<dyn FnOnce(Option<bool>) + Send>>);

impl Ending {
    pub(crate) fn new(tell: impl FnOnce(Option<bool>) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    pub(super) fn tell(mut self, is_done: Option<bool>) {
        if let Some(tell) = self.0.take() {
            tell(is_done);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(None);
        }
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ending")
    }
}

/// All that stands in open transactions, by numbers in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct OpenTransactions {
    writes: BTreeMap<u64, OpenWrite>,
    next: u64,
}

impl OpenTransactions {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Whether something stands in a transaction with this id.
    pub(super) fn has(&self, xid: u64) -> bool {
        let mut writes = self.writes.values();
        writes.any(|write| write.transaction.xid == xid)
    }

    /// Adds a write; of the appends of a transaction one is enough. Whether it is new.
    pub(super) fn add(&mut self, write: OpenWrite) -> bool {
        let is_there =
            |other: &OpenWrite| other.transaction == write.transaction && other.ack.is_none();
        if write.ack.is_none() && self.writes.values().any(is_there) {
            return false;
        }
        self.writes.insert(self.next, write);
        self.next += 1;
        true
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<OpenWrite> {
        self.writes.remove(&number)
    }

    /// Takes all out: nobody looks for their ends any more.
    pub(super) fn take_all(&mut self) -> BTreeMap<u64, OpenWrite> {
        std::mem::take(&mut self.writes)
    }

    /// Of each transaction the first number.
    pub(super) fn one_of_each(&self) -> Vec<u64> {
        let mut seen: HashSet<&Transaction> = HashSet::new();
        let firsts = self.writes.iter();
        let firsts = firsts.filter(|(_, write)| seen.insert(&write.transaction));
        firsts.map(|(number, _)| *number).collect()
    }

    /// All numbers of these transactions.
    pub(super) fn all_of(&self, transactions: &HashSet<&Transaction>) -> Vec<u64> {
        let writes = self.writes.iter();
        let writes = writes.filter(|(_, write)| transactions.contains(&write.transaction));
        writes.map(|(number, _)| *number).collect()
    }

    /// What the server is asked about these, without those that are not there any more, which are taken
    /// out of the numbers as well.
    pub(super) fn question(&self, numbers: &mut Vec<u64>) -> EndedQuestion {
        let mut question = EndedQuestion::default();
        numbers.retain(|number| match self.writes.get(number) {
            Some(write) => {
                question.add(write);
                true
            }
            None => false,
        });
        question
    }
}

/// Whether these transactions are over, and the messages in them done; one column each.
#[derive(Default)]
pub(super) struct EndedQuestion {
    databases: Vec<String>,
    xids: Vec<String>,
    streams: Vec<String>,
    partitions: Vec<i32>,
    groups: Vec<String>,
    offsets: Vec<i64>,
}

impl EndedQuestion {
    fn add(&mut self, write: &OpenWrite) {
        self.databases.push(write.transaction.database.to_string());
        self.xids.push(write.transaction.xid.to_string());
        // The others have no group, and find nothing.
        let ack = write.ack.as_ref();
        let of = ack.map(|ack| &ack.group);
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        self.streams
            .push(text(of.map(|of| of.partition.stream.as_str())));
        self.partitions
            .push(of.map_or(0, |of| of.partition.index as i32));
        self.groups.push(text(of.map(|of| of.name.as_str())));
        self.offsets
            .push(ack.map_or(0, |ack| as_bigint(ack.offset)));
    }

    pub(super) fn values(&self) -> [Value<'_>; 6] {
        [
            Value::Texts(&self.databases),
            Value::Texts(&self.xids),
            Value::Texts(&self.streams),
            Value::Ints(&self.partitions),
            Value::Texts(&self.groups),
            Value::Bigints(&self.offsets),
        ]
    }
}
