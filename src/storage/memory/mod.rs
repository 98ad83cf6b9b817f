//! The storage in memory: everything under one lock.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

use super::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Liveness, Name, Notification,
    Partition, Progress, Read, Reset, Start, Storage, StreamSettings, Verdicts,
};
use crate::clock::Clock;
use crate::error::Result;
use crate::storage::shared::notify::Notifier;
use crate::storage::shared::refusals::{closed, fenced, no_group};
use state::MemoryState;

mod log;
mod state;

/// A storage in memory: for tests, and as a bus inside a process.
///
/// It keeps every promise but the one to survive the process. It is bounded by retention: once it
/// is full it lets go of the oldest batches that every group of their partition has done (of all
/// batches, in a partition without groups). If that does not free enough, an append fails as
/// [`Unavailable`](crate::ErrorKind::Unavailable) and names the group that is behind: no message
/// that a group has not done is ever lost.
///
/// Its calls are synchronous inside: their futures are ready at the first poll.
pub struct MemoryStorage {
    clock: Arc<dyn Clock>,
    /// Guards all that is stored; `None` once it is closed. Held for a call, and no other lock is taken
    /// under it: subscribers are told after it, and what a trim takes out is freed after it.
    state: Mutex<Option<MemoryState>>,
    notifier: Notifier,
}

impl MemoryStorage {
    /// An empty storage of at most 256 MiB.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::new(Some(MemoryState::new(DEFAULT_MAX_BYTES))),
            notifier: Notifier::new(),
        }
    }

    /// Sets how much the batches may take together, in bytes.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: usize) -> Self {
        if let Some(state) = self.lock().as_mut() {
            state.max_bytes = max_bytes;
        }
        self
    }

    fn lock(&self) -> MutexGuard<'_, Option<MemoryState>> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Runs `work`, on the first poll of the future.
    fn call<'a, T: Send + 'a>(
        &'a self,
        work: impl FnOnce(&mut MemoryState) -> Result<T> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move { work(self.lock().as_mut().ok_or_else(closed)?) })
    }
}

const DEFAULT_MAX_BYTES: usize = 256 * 1024 * 1024;

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage").finish_non_exhaustive()
    }
}

impl Storage for MemoryStorage {
    fn create_stream<'a>(
        &'a self,
        stream: &'a Name,
        partitions: Option<u32>,
    ) -> BoxFuture<'a, Result<StreamSettings>> {
        self.call(move |state| state.create_stream(stream, partitions))
    }

    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>> {
        Box::pin(async move {
            let wall = self.clock.wall();
            let appended = self
                .lock()
                .as_mut()
                .ok_or_else(closed)?
                .append(&append, wall)?;
            if let Appended::Written(written) = &appended {
                let rows = append.rows.iter().zip(written);
                self.notifier.send(rows.map(|(row, written)| {
                    let end = written.base_offset + u64::from(row.records.len());
                    Notification::Appended(row.partition.clone(), end)
                }));
            }
            Ok(appended)
        })
    }

    fn append_depth(&self) -> usize {
        1
    }

    fn settle<'a>(&'a self, id: Id, _: &'a [Partition]) -> BoxFuture<'a, Result<Option<Vec<u64>>>> {
        self.call(move |state| state.settle(id))
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Fetched>> {
        self.call(move |state| {
            let log = state.log(&read.partition)?;
            let epoch = read.group.and_then(|name| log.groups.get(&name));
            Ok(Fetched {
                batches: log.read(read.from, read.max_bytes),
                bounds: log.bounds(),
                epoch: epoch.map_or(0, |group| group.epoch),
            })
        })
    }

    fn bounds<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<Vec<Range<u64>>>> {
        self.call(move |state| {
            let bounds = partitions.iter().map(|p| Ok(state.log(p)?.bounds()));
            bounds.collect()
        })
    }

    fn create_group<'a>(&'a self, group: &'a Group, start: Start) -> BoxFuture<'a, Result<()>> {
        self.call(move |state| {
            state
                .log(&group.partition)?
                .create_group(&group.name, start)
        })
    }

    fn observe<'a>(
        &'a self,
        groups: &'a [Group],
    ) -> BoxFuture<'a, Result<Vec<Option<GroupState>>>> {
        self.call(move |state| {
            let states = groups.iter().map(|group| {
                let log = state.log(&group.partition).ok()?;
                Some(
                    log.groups
                        .get(&group.name)?
                        .state(Liveness::Unknown, log.bounds()),
                )
            });
            Ok(states.collect())
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<GroupState>> {
        self.call(move |state| {
            let log = state.log(&claim.group.partition)?;
            let bounds = log.bounds();
            let Some(group) = log.groups.get_mut(&claim.group.name) else {
                return Err(no_group(&claim.group));
            };
            group.claim(&claim, &bounds);
            Ok(group.state(Liveness::Unknown, bounds))
        })
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>> {
        self.call(move |state| {
            let group = state.held(lease).ok_or_else(|| fenced(lease))?;
            group.commit(verdicts);
            Ok(group.progress.clone())
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let held = match self.lock().as_mut().ok_or_else(closed)?.held(lease) {
                Some(group) => {
                    group.release();
                    true
                }
                None => false,
            };
            if held {
                let partition = lease.group.partition.clone();
                self.notifier.send([Notification::Released(partition)]);
            }
            Ok(())
        })
    }

    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>> {
        self.call(move |state| Ok(state.groups(stream)))
    }

    fn reset(&self, reset: Reset) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move {
            let state = self.lock().as_mut().ok_or_else(closed)?.reset(&reset)?;
            let partition = reset.group.partition;
            self.notifier.send([Notification::Released(partition)]);
            Ok(state)
        })
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let trimmed = self.call(move |state| state.trim(partition, before)).await;
            // What it takes out is freed here, and not under the lock.
            trimmed.map(|(start, _)| start)
        })
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        self.notifier.subscribe()
    }

    fn poll_interval(&self) -> Option<Duration> {
        None
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let state = self.lock().take();
            self.notifier.close();
            // The messages are freed outside of the lock.
            drop(state);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
