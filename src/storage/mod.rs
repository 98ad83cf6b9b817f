//! The driver interface: what a storage has to do.
//!
//! Applications need nothing of this. Authors of a storage implement [`Storage`] and run the same
//! conformance suite as the storages of this crate (feature `conformance`).

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresOptions, PostgresStorage, schema_sql};
#[cfg(feature = "redb")]
pub use self::redb::{RedbOptions, RedbStorage};
pub use crate::name::Name;
pub use crate::ranges::{Progress, Ranges};
pub use crate::record::{Records, RecordsBuilder};
pub use memory::MemoryStorage;
pub use types::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Liveness, Notification, Over,
    Partition, Read, Reset, Row, Start, StoredBatch, StreamSettings, Verdicts, WrittenRow,
};

use crate::error::Result;

pub(crate) mod memory;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "redb")]
pub(crate) mod redb;
pub(crate) mod shared;
mod types;

/// An append-only log with consumer groups, inside some database.
///
/// # Contract
///
/// **Calls.** Each call is atomic: it is applied as a whole or not at all, and once it answered Ok
/// it is as durable as the storage can make it. Each call runs to its end even if its future is
/// dropped after the first poll: the work belongs to a task, a thread or a server, not to the
/// future. Calls may come from many tasks at once. An error of kind
/// [`Unavailable`](crate::ErrorKind::Unavailable) may be tried again; one that may have been
/// applied all the same says so ([`Error::with_doubt`](crate::Error::with_doubt)). A storage does
/// not retry inside: the budget is the user's.
///
/// **Log.** The offsets of a partition are 0, 1, 2 … without gaps, in the order of the log. If an
/// offset is visible to a read, all below it are. All rows of one append become visible together.
/// The time of an append never goes back within a partition.
///
/// **Ids.** An append whose id is already in the log changes nothing and answers the offsets given
/// then, *before* any look at leases. Ids are remembered for at least the last thousand appends,
/// and across a restart. An id that [`settle`](Storage::settle) found absent is refused for ever.
///
/// **Order.** An append that names another one as the one [before it](Append::after) is applied
/// only if that one is in the log; otherwise nothing of it is written, and it is answered as
/// [early](Appended::Early), and may come again under the same id. So of two that are under way at
/// once the second never lands without the first.
///
/// **Leases.** The lease of a group and partition is free or has an owner; its epoch grows with
/// each change of owner, and its generation with each write of the owner. A write that names
/// another owner or epoch than the current one is refused as
/// [`Fenced`](crate::ErrorKind::Fenced), whatever any clock says. Time never ends a lease by
/// itself: a standby that saw epoch and generation stand still claims over them.
///
/// **Progress.** What a group has done only grows: commits are merged into what is stored, never
/// put in its place. Nobody commits an offset beyond the end of the log. Only a
/// [`reset`](Storage::reset) moves it back, in a new epoch.
///
/// **Going back.** A storage that can go back to an earlier state, and so lose what it acknowledged
/// (a failover, a restore), says which [`incarnation`](GroupState::incarnation) it is. A lease ends
/// with the incarnation in which it was claimed: writes under it are refused as
/// [`Fenced`](crate::ErrorKind::Fenced), and reads answer epoch 0.
///
/// **Attempts.** How often a message was begun only grows as well: a commit that counts less than
/// what is stored changes nothing, so the same commit may come twice. The counts of messages that
/// are done go. A storage keeps the counts of the first 1,000 messages that have one at least; of
/// those behind it may keep none.
///
/// **Notifications.** After an append or a release became visible, every subscriber is told, soon
/// and at best effort. A subscriber that may have missed something is told that it did.
pub trait Storage: Any + fmt::Debug + Send + Sync + 'static {
    /// Creates a stream with so many partitions, or with one, unless it is there; gives the
    /// settings of the one that is there now.
    fn create_stream<'a>(
        &'a self,
        stream: &'a Name,
        partitions: Option<u32>,
    ) -> BoxFuture<'a, Result<StreamSettings>>;

    /// Appends rows, and writes the commits that go along, all or nothing.
    ///
    /// Order inside: look for the id; look for the append before it; check the leases of the commits;
    /// write. Rows go to distinct partitions. A commit counts as a write of the owner, as in [`commit`](Storage::commit).
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if a stream or partition is not there.
    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>>;

    /// How many appends to one partition are worth having under way at once: 1 where one waits for
    /// the other, from its beginning to its end. With more, an append to one partition that is given
    /// while another one to that partition is under way names it as the one [before](Append::after).
    fn append_depth(&self) -> usize;

    /// Finds out whether the append with this id is in the log, and gives the base offset of each
    /// of its rows, which went to these partitions. If it is not, it is refused from now on, so
    /// that it can never land later.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange) if so many appends came after it that nobody
    /// can tell any more.
    fn settle<'a>(
        &'a self,
        id: Id,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<Option<Vec<u64>>>>;

    /// Reads whole batches, the first of which contains the offset `from`, or begins at the start
    /// of the log where that is later. At least one batch if there is one, and no more once they
    /// reach `max_bytes`.
    fn read(&self, read: Read) -> BoxFuture<'_, Result<Fetched>>;

    /// Where the log of each of these partitions starts and ends, in one call.
    fn bounds<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<Vec<Range<u64>>>>;

    /// Makes the group known, with its position at `start`, unless it is known already.
    fn create_group<'a>(&'a self, group: &'a Group, start: Start) -> BoxFuture<'a, Result<()>>;

    /// How these groups stand, in one call; `None` for one that is not known.
    fn observe<'a>(&'a self, groups: &'a [Group])
    -> BoxFuture<'a, Result<Vec<Option<GroupState>>>>;

    /// Claims the lease of a group, and says how the group stands then: the claim succeeded if
    /// the owner is the one of the claim.
    ///
    /// It succeeds if the lease is free, is already this owner's (an answer got lost), or if epoch
    /// and generation are those named by [`over`](Claim::over). Success is a new epoch, except for
    /// the owner that had it. Taken over so, the first message that is not done gets one attempt
    /// more, if [the claim says so](Over::counts_attempt).
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the group is not known.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<GroupState>>;

    /// Adds to what the group has done and tried, and gives all that it has done since. With
    /// nothing to add it renews the lease: a new generation.
    ///
    /// # Errors
    ///
    /// [`Fenced`](crate::ErrorKind::Fenced) if the lease is no longer this one.
    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>>;

    /// Gives the lease back, so that the next claim succeeds at once. Ok as well if it is no
    /// longer this one, or if there is no such group.
    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>>;

    /// The groups of this stream, or of all streams, in the order of their names.
    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>>;

    /// Takes the lease away, so that it is free in a new epoch, and moves the position where
    /// [`to`](Reset::to) says so: then nothing beyond it is done, and no attempts are counted.
    /// Subscribers are told as of a release. Gives how the group stands then.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the group is not known;
    /// [`Invalid`](crate::ErrorKind::Invalid) if somebody has the lease who is not known to be dead,
    /// and it is not forced.
    fn reset(&self, reset: Reset) -> BoxFuture<'_, Result<GroupState>>;

    /// Deletes whole batches that end at or before the offset `before`, and gives the new start of
    /// the log. Offsets are never used again.
    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>>;

    /// What happens in the storage from now on. Ends when the storage is closed; the subscription
    /// holds no storage open.
    fn notifications(&self) -> BoxStream<'static, Notification>;

    /// How often to look for what notifications may have missed without saying so; `None` if that
    /// cannot happen.
    fn poll_interval(&self) -> Option<Duration>;

    /// Finishes what is under way and lets go of files and connections. Calls that come later
    /// fail as [`Closed`](crate::ErrorKind::Closed).
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}
