//! The embedded storage: one file, one process.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::redb::ReadTransaction;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

use super::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Name, Notification, Partition,
    Progress, Read, Reset, Start, Storage, StreamSettings, Verdicts,
};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime;
use core::{Core, Done};
pub use open::RedbOptions;
use read::Snapshot;
pub(crate) use url::check_url;

mod audit;
mod cache;
mod commit;
mod core;
mod create;
mod error;
#[cfg(test)]
mod faults;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod log;
mod once;
mod open;
mod place;
mod queue;
mod read;
mod sum;
mod sweep;
mod tables;
mod transaction;
mod url;
mod write;

/// A storage in one file, of which one process has hold at a time.
///
/// Writes of all callers that wait are committed together, with one sync of the file; reads are
/// short snapshots. Both run on the blocking pool of the tokio runtime from which they are called.
/// After an error of the disk the file is opened anew.
///
/// Each commit looks whether the file still has a name, and whether its path still leads to it. If it
/// was deleted or replaced, writes fail as [`Data`](ErrorKind::Data); what the file holds can be read
/// until it is closed. What cannot be seen is that something else wrote into the file.
///
/// Dropping the storage closes the file, once what is under way is done; that may wait for the
/// disk. [`close`](Storage::close) does so without blocking, and tells of errors.
pub struct RedbStorage {
    core: Arc<Core>,
}

impl RedbStorage {
    /// Opens the file, or makes it if there is none.
    ///
    /// # Errors
    ///
    /// - [`Unavailable`](ErrorKind::Unavailable) if it is open already, in this process or in
    ///   another, or cannot be read or written;
    /// - [`Data`](ErrorKind::Data) if it is damaged, or not a file of this crate; it is left as it
    ///   is;
    /// - [`Unsupported`](ErrorKind::Unsupported) if its format is of another version;
    /// - [`Invalid`](ErrorKind::Invalid) if the path is a directory or a device, in a directory that
    ///   is not there, or a symbolic link that leads to nothing; and outside of a tokio runtime with
    ///   time enabled.
    pub async fn open(path: impl AsRef<Path>, options: RedbOptions) -> Result<Self> {
        let (path, clock) = (path.as_ref().to_owned(), options.clock.clone());
        let opening = Box::pin(on_pool(move || Core::open(path, options)));
        let core = runtime::opening(&*clock, opening).await?;
        Ok(Self {
            core: Arc::new(core),
        })
    }

    /// Reads from a snapshot, on the blocking pool.
    fn snapshot<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshot) -> Done<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        let core = self.core.clone();
        let work = move |txn: &ReadTransaction| work(&Snapshot::new(txn)?);
        Box::pin(async move { on_pool(move || core.snapshot(work)).await })
    }
}

async fn on_pool<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime = queue::runtime()?;
    match runtime.spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) if ended.is_cancelled() => Err(Error::new(
            ErrorKind::Closed,
            "the tokio runtime that the storage was called on has ended: call it on one that goes on",
        )),
        Err(panicked) => Err(Error::new(
            ErrorKind::Internal,
            "reading a redb storage panicked: a defect, which should be reported",
        )
        .with_source(panicked)),
    }
}

impl Drop for RedbStorage {
    fn drop(&mut self) {
        self.core.abandon();
    }
}

impl fmt::Debug for RedbStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStorage")
            .field("path", &self.core.path)
            .finish_non_exhaustive()
    }
}

impl Storage for RedbStorage {
    fn create_stream<'a>(
        &'a self,
        stream: &'a Name,
        partitions: Option<u32>,
    ) -> BoxFuture<'a, Result<StreamSettings>> {
        let stream = stream.clone();
        Box::pin(async move {
            let write = self
                .core
                .write(None, move |txn| txn.create_stream(&stream, partitions));
            write.await
        })
    }

    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>> {
        Box::pin(async move {
            let write = self
                .core
                .write(Some(append.id), move |txn| txn.append(&append));
            write.await
        })
    }

    fn append_depth(&self) -> usize {
        1
    }

    fn settle<'a>(&'a self, id: Id, _: &'a [Partition]) -> BoxFuture<'a, Result<Option<Vec<u64>>>> {
        Box::pin(async move { self.core.write(None, move |txn| txn.settle(id)).await })
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Fetched>> {
        self.snapshot(move |snapshot| snapshot.read(&read))
    }

    fn bounds<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<Vec<Range<u64>>>> {
        let partitions = partitions.to_vec();
        self.snapshot(move |snapshot| snapshot.all_bounds(&partitions))
    }

    fn create_group<'a>(&'a self, group: &'a Group, start: Start) -> BoxFuture<'a, Result<()>> {
        let group = group.clone();
        Box::pin(async move {
            let write = self
                .core
                .write(None, move |txn| txn.create_group(&group, start));
            write.await
        })
    }

    fn observe<'a>(
        &'a self,
        groups: &'a [Group],
    ) -> BoxFuture<'a, Result<Vec<Option<GroupState>>>> {
        let (groups, boot) = (groups.to_vec(), self.core.boot);
        self.snapshot(move |snapshot| snapshot.observe(&groups, boot))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move { self.core.write(None, move |txn| txn.claim(&claim)).await })
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>> {
        let (lease, verdicts) = (lease.clone(), verdicts.clone());
        Box::pin(async move {
            let write = self
                .core
                .write(None, move |txn| txn.commit(&lease, &verdicts));
            write.await
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        let lease = lease.clone();
        Box::pin(async move { self.core.write(None, move |txn| txn.release(&lease)).await })
    }

    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>> {
        let stream = stream.cloned();
        self.snapshot(move |snapshot| snapshot.groups(stream.as_ref()))
    }

    fn reset(&self, reset: Reset) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move { self.core.write(None, move |txn| txn.reset(&reset)).await })
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        let partition = partition.clone();
        Box::pin(async move {
            let write = self
                .core
                .write(None, move |txn| txn.trim(&partition, before));
            write.await
        })
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        self.core.notifier.subscribe()
    }

    fn poll_interval(&self) -> Option<Duration> {
        None
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.core.shut())
    }
}

#[cfg(test)]
mod tests;
