//! What happened in a run, as plain events in one order, and a checker that finds what must not be.
//!
//! A log gives the order of its messages by their offsets, and each message is told from all others by
//! a number, so nothing has to be searched for: one pass over the events and one over the logs. (The
//! rules are those of Jepsen's checker for Kafka, and some that only groups with epochs have.)

#![allow(dead_code, unreachable_pub, reason = "not every test needs all of it")]

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

mod check;
mod forwards;
mod groups;
mod logs;
mod streams;

#[allow(unused_imports, reason = "not every test needs all of it")]
pub use check::{Rule, Violation};

/// Something that happened. Logs and groups are known by their place in the [`History`], messages by
/// their number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A producer is about to give a message away. Those of one unit are one append.
    Intent {
        producer: u32,
        message: u64,
        unit: Option<u64>,
    },
    /// It was told that the message is in the log, and perhaps where.
    Acked {
        message: u64,
        place: Option<(usize, u64)>,
    },
    /// It was told that the message is not in the log, and the message will not be sent again.
    Failed { message: u64 },
    /// Nobody told it, and the message will not be sent again.
    InDoubt { message: u64 },
    /// It was answered, in whatever way.
    Answered {
        message: u64,
        took: Duration,
        within: Duration,
    },
    /// A consumer was asked to end.
    ShutDown { consumer: u32 },
    /// It was told by an error that its stream ends.
    Broken { consumer: u32 },
    /// Its stream has ended.
    Ended { consumer: u32 },
    /// A consumer has the lease.
    Active(Owner),
    /// A consumer got a message.
    Delivered {
        owner: Owner,
        offset: u64,
        message: u64,
    },
    /// It is about to say that the message is done; with all before it, if it is `through`.
    Asked {
        owner: Owner,
        offset: u64,
        through: bool,
    },
    /// It was told that this is durable.
    Committed { owner: Owner, offset: u64 },
    /// It was told that it is not, and without a doubt: the message comes again.
    Refused { owner: Owner, offset: u64 },
    /// It was told that the lease is lost.
    Fenced { owner: Owner, offset: u64 },
    /// It was told that it could not be written, or nothing at all.
    Unknown { owner: Owner, offset: u64 },
    /// It is to come again.
    Retried { owner: Owner, offset: u64 },
    /// How a group stands in the storage.
    Seen(Seen),
}

/// A consumer under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub group: usize,
    pub consumer: u32,
    pub epoch: u64,
}

/// How a group stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    pub group: usize,
    pub epoch: u64,
    pub position: u64,
    /// What is done beyond the position.
    pub acked: Vec<Range<u64>>,
}

impl Seen {
    fn is_done(&self, offset: u64) -> bool {
        // A group has few ranges beyond its position, and they are in order.
        let at = self.acked.partition_point(|range| range.end <= offset);
        offset < self.position || self.acked.get(at).is_some_and(|it| it.contains(&offset))
    }
}

/// One partition of a stream, as it was read at the end.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub name: String,
    /// Where it starts: not 0 if it was trimmed.
    pub start: u64,
    /// Offsets and messages, as they were read.
    pub messages: Vec<(u64, u64)>,
    /// Whether a [`Forward`] writes it; producers do otherwise.
    pub is_forwarded: bool,
}

impl Log {
    fn end(&self) -> u64 {
        self.messages
            .last()
            .map_or(self.start, |(last, _)| last + 1)
    }
}

/// A group at one partition.
#[derive(Clone, Debug)]
pub struct Group {
    pub name: String,
    pub log: usize,
    /// Where it began.
    pub start: u64,
}

/// What a group writes into other logs, in the transaction that writes its position.
#[derive(Clone, Debug)]
pub struct Forward {
    pub groups: Vec<usize>,
    pub to: Vec<usize>,
    /// Whether it is all messages; else it is those that the group could not do.
    pub is_whole: bool,
}

/// All of a run, up to the moment at which all is healed and done.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub events: Vec<Event>,
    pub logs: Vec<Log>,
    pub groups: Vec<Group>,
    pub forwards: Vec<Forward>,
    /// Consumers whose clocks do not go as others' do. Nothing that they write is accepted after their
    /// lease was lost, but what they have in memory they may hand out for a while.
    pub with_wrong_clocks: HashSet<u32>,
}

impl History {
    /// What is wrong: nothing, if all is as promised.
    pub fn check(&self) -> Vec<Violation> {
        check::check(self)
    }
}
