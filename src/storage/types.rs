//! What a storage is asked, and what it answers.

use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use crate::name::Name;
use crate::ranges::{Progress, Ranges};
use crate::record::Records;

/// A unique id: 128 bits, of which the first 48 are milliseconds of the wall clock (UUID version
/// 7, RFC 9562), so that ids made later are mostly greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u128);

impl Id {
    /// A new id.
    pub fn random() -> Self {
        Self(uuid::Uuid::now_v7().as_u128())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One partition of a stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The stream.
    pub stream: Name,
    /// The partition, counted from 0.
    pub index: u32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.index)
    }
}

/// A consumer group at one partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// What it consumes.
    pub partition: Partition,
    /// Its name.
    pub name: Name,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {} of {}", self.name, self.partition)
    }
}

/// What a stream was created with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSettings {
    /// The number of partitions.
    pub partitions: u32,
}

impl StreamSettings {
    /// A stream with so many partitions.
    pub const fn new(partitions: u32) -> Self {
        Self { partitions }
    }
}

/// The right to consume a partition for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The group.
    pub group: Group,
    /// Who has it.
    pub owner: Id,
    /// Grows with each change of owner; the first is 1.
    pub epoch: u64,
}

/// What an owner says of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// These are done.
    pub done: Ranges,
    /// These were begun so often and are not done: offsets, in order, and counts. A count raises
    /// the one that is stored, and never lowers it.
    pub attempts: Vec<(u64, u32)>,
}

impl<T: Into<Ranges>> From<T> for Verdicts {
    fn from(done: T) -> Self {
        Self {
            done: done.into(),
            attempts: Vec::new(),
        }
    }
}

/// What is appended in one piece.
#[derive(Debug)]
pub struct Append {
    /// Tells this append from all others; a retry has the same.
    pub id: Id,
    /// The append, with rows, that has to be in the log before this one is written.
    pub after: Option<Id>,
    /// At most one row a partition.
    pub rows: Vec<Row>,
    /// At most one a lease.
    pub commits: Vec<(Lease, Ranges)>,
}

/// One batch for one partition.
#[derive(Debug, Clone)]
pub struct Row {
    /// Where it goes.
    pub partition: Partition,
    /// The messages.
    pub records: Records,
}

/// The answer to an [`Append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It was written, by this call: where each row is now.
    Written(Vec<WrittenRow>),
    /// It is in the log since an earlier call: the offset of the first message of each row.
    Known(Vec<u64>),
    /// Nothing was written: these of its commits (by index) name leases that were lost.
    Fenced(Vec<usize>),
    /// Nothing was written: [`settle`](crate::storage::Storage::settle) refused this id.
    Refused,
    /// Nothing was written: the append [before it](Append::after) is not in the log.
    Early,
}

impl Appended {
    /// The offset of the first message of each row, if it is in the log.
    pub fn bases(&self) -> Option<Vec<u64>> {
        match self {
            Self::Written(rows) => Some(rows.iter().map(|row| row.base_offset).collect()),
            Self::Known(bases) => Some(bases.clone()),
            Self::Fenced(_) | Self::Refused | Self::Early => None,
        }
    }
}

/// Where a [`Row`] is in the log, just as a [read](crate::storage::Storage::read) gives it: consumers in the process
/// of the producer may get the batch from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenRow {
    /// The offset of its first message.
    pub base_offset: u64,
    /// When it was appended, by the storage's wall clock.
    pub appended_at: SystemTime,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Where.
    pub partition: Partition,
    /// The first offset.
    pub from: u64,
    /// Stop once the batches reach this size, in bytes.
    pub max_bytes: usize,
    /// Look at the lease of this group as well.
    pub group: Option<Name>,
}

/// What was read.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The batches, in order, without gaps.
    pub batches: Vec<StoredBatch>,
    /// Where the log starts and ends (the next offset), at the moment of the read.
    pub bounds: Range<u64>,
    /// The epoch of the group that the read named; 0 if it has none yet, or none in this
    /// incarnation of the storage.
    pub epoch: u64,
}

impl Fetched {
    /// Keeps what follows on `from` without a gap, and says whether already the message at `from` is
    /// missing though there are later ones. A storage has no gaps: if there is one, somebody deleted
    /// what is missing.
    pub(crate) fn cut_at_gap(&mut self, from: u64) -> bool {
        let mut next = from;
        let whole = self.batches.iter().position(|batch| {
            let offsets = batch.offsets();
            let is_behind_gap = offsets.start > next;
            next = if is_behind_gap {
                next
            } else {
                next.max(offsets.end)
            };
            is_behind_gap
        });
        self.batches.truncate(whole.unwrap_or(self.batches.len()));
        next == from && from < self.bounds.end
    }
}

/// A batch in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// The offset of its first message.
    pub base_offset: u64,
    /// When it was appended, by the storage's wall clock.
    pub appended_at: SystemTime,
    /// The messages.
    pub records: Records,
}

impl StoredBatch {
    /// Its offsets.
    pub fn offsets(&self) -> Range<u64> {
        self.base_offset..self.base_offset + u64::from(self.records.len())
    }
}

/// A claim of a lease.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The group.
    pub group: Group,
    /// Who wants it: a random id, new for each claim that succeeded.
    pub owner: Id,
    /// The lease that it is to be taken from, if somebody has it.
    pub over: Option<Over>,
}

/// A lease that is claimed though somebody has it: it stood still for a whole lease with a message
/// pending, its owner is dead, or it was the claimer's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// The epoch that was seen.
    pub epoch: u64,
    /// The generation that was seen.
    pub generation: u64,
    /// Whether the first message that is not done gets one attempt more, because its owner may have
    /// died of it; not if nobody had it in hand.
    pub counts_attempt: bool,
}

impl Over {
    /// The lease of another owner, which was seen so; an attempt is counted.
    pub const fn another(epoch: u64, generation: u64) -> Self {
        Self {
            epoch,
            generation,
            counts_attempt: true,
        }
    }
}

/// What an operator does to a group.
#[derive(Debug, Clone)]
pub struct Reset {
    /// The group.
    pub group: Group,
    /// Where it goes on, as for a new group; `None` leaves its progress as it is.
    pub to: Option<Start>,
    /// Whether to do so while somebody has the lease, who is fenced then.
    pub is_forced: bool,
}

/// How a group stands in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// Who has the lease, if it is not free.
    pub owner: Option<Id>,
    /// What is known of the owner.
    pub liveness: Liveness,
    /// The epoch of the last owner; 0 before the first.
    pub epoch: u64,
    /// The number of writes of all owners, claims and releases too.
    pub generation: u64,
    /// What is done.
    pub progress: Progress,
    /// Messages that were begun and are not done, and how often: offsets, in order, and counts.
    /// Counted are those that came again, and the first one that was left when a lease was taken
    /// over.
    pub attempts: Vec<(u64, u32)>,
    /// Where the log of the partition starts and ends.
    pub bounds: Range<u64>,
    /// Changes when the storage may have gone back to an earlier state: a failover, a restore.
    /// Always 0 where that cannot happen while it is open.
    pub incarnation: u64,
}

/// Whether the owner of a lease lives, as far as the storage can see. It only makes a takeover
/// quicker; what is safe rests on the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Liveness {
    /// It cannot see.
    #[default]
    Unknown,
    /// It would see a death soon, and has not.
    Alive,
    /// It is certainly gone.
    Dead,
}

impl GroupState {
    /// All messages before this offset are done.
    pub fn position(&self) -> u64 {
        self.progress.position()
    }

    /// How many messages wait to be done.
    pub fn lag(&self) -> u64 {
        // What was trimmed away does not wait any more.
        let from = self.progress.position().max(self.bounds.start);
        let acked = self.progress.acked().iter();
        let done: u64 = acked
            .map(|range| range.end.saturating_sub(range.start.max(from)))
            .sum();
        self.bounds.end.saturating_sub(from).saturating_sub(done)
    }

    /// Whether somebody has the lease who is not known to be dead.
    pub fn is_held(&self) -> bool {
        self.owner.is_some() && self.liveness != Liveness::Dead
    }

    /// Whether a message waits to be done.
    pub fn is_pending(&self) -> bool {
        self.lag() > 0
    }

    /// The first message that waits to be done.
    pub fn next_pending(&self) -> Option<u64> {
        let from = self.progress.position().max(self.bounds.start);
        let undone = self.progress.acked().gaps(from..self.bounds.end.max(from));
        undone.first().map(|gap| gap.start)
    }
}

/// Where a new group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// At the first message that is still in the log.
    #[default]
    Earliest,
    /// At the first message that is appended after the group was made.
    Latest,
    /// At this offset; the group waits if the log is not so far yet.
    Offset(u64),
    /// At the first batch that was appended at this time or later, by the storage's clock; at
    /// the end if there is none.
    Time(SystemTime),
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notification {
    /// Messages were appended; the log ends here now.
    Appended(Partition, u64),
    /// A lease of this partition was given back.
    Released(Partition),
    /// Anything may have happened: look at everything.
    Missed,
}
