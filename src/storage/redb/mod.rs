//! The embedded storage: one file, one process.
//!
//! It is a tower, of which each floor knows those below it:
//!
//! - what is in the file (`checksum`, `tables`), where it is (`place`), whose it is (`database`), and how
//!   it is made, looked over, repaired and opened (`create`, `audit`, `repair`, `open`);
//! - the file while it is open (`file`), and what the writer knows of it (`cache`);
//! - what is done in it: `log` and `read`, `transaction` and `write`, `delete` and `sweep`;
//! - the writer: `request`, `commit`, `write_queue`, `writer`.

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
use crate::error::Result;
use crate::runtime;
use error::Answer;
use file::StorageFile;
pub use options::RedbOptions;
use pool::on_pool;
use read::Snapshot;
pub(crate) use url::check_url;
use writer::Writer;

mod audit;
mod cache;
mod checksum;
mod commit;
mod create;
mod database;
mod delete;
mod error;
#[cfg(test)]
mod faults;
mod file;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod log;
mod open;
mod options;
mod place;
mod pool;
mod read;
mod repair;
mod request;
mod sweep;
mod tables;
mod transaction;
mod url;
mod write;
mod write_queue;
mod writer;

/// A storage in one file, of which one process has hold at a time.
///
/// Writes of all callers that wait are committed together, with one sync of the file; reads are
/// short snapshots. Both run on the blocking pool of the tokio runtime from which they are called.
/// After an error of the disk the file is opened anew.
///
/// Each commit looks whether the file still has a name, and whether its path still leads to it. If it
/// was deleted or replaced, writes fail as [`Data`](crate::ErrorKind::Data); what the file holds can be read
/// until it is closed. What cannot be seen is that something else wrote into the file.
///
/// Dropping the storage closes the file, once what is under way is done; that may wait for the
/// disk. [`close`](Storage::close) does so without blocking, and tells of errors.
pub struct RedbStorage {
    file: Arc<StorageFile>,
    writer: Arc<Writer>,
}

impl RedbStorage {
    /// Opens the file, or makes it if there is none.
    ///
    /// # Errors
    ///
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if it is open already, in this process or in
    ///   another, or cannot be read or written;
    /// - [`Data`](crate::ErrorKind::Data) if it is damaged, or not a file of this crate; it is left as it
    ///   is;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if its format is of another version;
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the path is a directory or a device, in a directory that
    ///   is not there, or a symbolic link that leads to nothing; and outside of a tokio runtime with
    ///   time enabled.
    pub async fn open(path: impl AsRef<Path>, options: RedbOptions) -> Result<Self> {
        let (path, clock) = (path.as_ref().to_owned(), options.clock.clone());
        let opening = Box::pin(on_pool(move || StorageFile::open(path, options)));
        let file = Arc::new(runtime::opening(&*clock, opening).await?);
        let writer = Arc::new(Writer::new(file.clone()));
        Ok(Self { file, writer })
    }

    /// Reads from a snapshot, on the blocking pool.
    fn snapshot<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshot) -> Answer<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        let file = self.file.clone();
        let work = move |txn: &ReadTransaction| work(&Snapshot::new(txn)?);
        Box::pin(async move { on_pool(move || file.snapshot(work)).await })
    }
}

impl Drop for RedbStorage {
    fn drop(&mut self) {
        self.writer.abandon();
    }
}

impl fmt::Debug for RedbStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStorage")
            .field("path", &self.file.path)
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
                .writer
                .write(None, move |txn| txn.create_stream(&stream, partitions));
            write.await
        })
    }

    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>> {
        Box::pin(async move {
            let write = self
                .writer
                .write(Some(append.id), move |txn| txn.append(&append));
            write.await
        })
    }

    fn append_depth(&self) -> usize {
        1
    }

    fn settle<'a>(&'a self, id: Id, _: &'a [Partition]) -> BoxFuture<'a, Result<Option<Vec<u64>>>> {
        Box::pin(async move { self.writer.write(None, move |txn| txn.settle(id)).await })
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
                .writer
                .write(None, move |txn| txn.create_group(&group, start));
            write.await
        })
    }

    fn observe<'a>(
        &'a self,
        groups: &'a [Group],
    ) -> BoxFuture<'a, Result<Vec<Option<GroupState>>>> {
        let (groups, open_count) = (groups.to_vec(), self.file.open_count);
        self.snapshot(move |snapshot| snapshot.observe(&groups, open_count))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move { self.writer.write(None, move |txn| txn.claim(&claim)).await })
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>> {
        let (lease, verdicts) = (lease.clone(), verdicts.clone());
        Box::pin(async move {
            let write = self
                .writer
                .write(None, move |txn| txn.commit(&lease, &verdicts));
            write.await
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        let lease = lease.clone();
        Box::pin(async move {
            self.writer
                .write(None, move |txn| txn.release(&lease))
                .await
        })
    }

    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>> {
        let stream = stream.cloned();
        self.snapshot(move |snapshot| snapshot.groups(stream.as_ref()))
    }

    fn reset(&self, reset: Reset) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move { self.writer.write(None, move |txn| txn.reset(&reset)).await })
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        let partition = partition.clone();
        Box::pin(async move {
            let write = self
                .writer
                .write(None, move |txn| txn.trim(&partition, before));
            write.await
        })
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        self.writer.notifier.subscribe()
    }

    fn poll_interval(&self) -> Option<Duration> {
        None
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.writer.close())
    }
}

#[cfg(test)]
mod tests;
