//! Turns notifications of the storage into wakeups.
//!
//! One task a process, only while somebody watches. Where the storage says that notifications may
//! get lost, one query for all watched partitions makes up for them, on an interval.

mod lease_watch;
mod log_cache;

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, watch};

pub(crate) use lease_watch::LeaseWatch;
use log_cache::{CacheBudget, SegmentMark};
pub(crate) use log_cache::{LogCache, Next, ReadPermit, size};

use crate::clock::Clock;
use crate::concurrency::Bisection;
use crate::error::{ErrorKind, Result};
use crate::storage::{Notification, Partition, Row, Storage, StoredBatch, WrittenRow};
use crate::sync::{Mutex, MutexGuard};
use crate::task::{OnDemand, Work, revive, wake};

/// What is known of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Signal {
    /// The log ends here, at least.
    pub(crate) end: u64,
    /// Changes when a lease may have become free.
    pub(crate) releases: u64,
    /// Changes when anything may have happened.
    pub(crate) missed: u64,
}

#[derive(Clone)]
pub(crate) struct LogWatch(Arc<WatchShared>);

struct WatchShared {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    /// The locks of signals are taken under it, no others.
    state: Mutex<WatchedPartitions>,
    /// What all caches have.
    budget: Arc<CacheBudget>,
    on_demand: OnDemand,
    /// A subscription was dropped.
    left: Notify,
}

#[derive(Default)]
struct WatchedPartitions {
    partitions: BTreeMap<Partition, Arc<Watched>>,
    /// The storage is closed: nothing more will happen.
    is_over: bool,
}

#[derive(Debug)]
struct Watched {
    signals: watch::Sender<Signal>,
    cache: Arc<LogCache>,
}

/// What is watched of the partitions that an append goes to, as it stood when that began.
pub(crate) struct AppendObserver(Vec<Option<(Arc<Watched>, SegmentMark)>>);

/// Wakes one watcher of a partition.
#[derive(Debug)]
pub(crate) struct Subscription {
    // Dropped first, so that whoever leaves no longer counts it.
    signals: watch::Receiver<Signal>,
    watched: Arc<Watched>,
    leave: Leave,
}

#[derive(Debug)]
struct Leave(Arc<WatchShared>, Partition);

impl LogWatch {
    pub(crate) fn new(storage: Arc<dyn Storage>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(WatchShared {
            storage,
            clock,
            state: Mutex::default(),
            budget: Arc::default(),
            on_demand: OnDemand::new(),
            left: Notify::new(),
        }))
    }

    /// Watches a partition: nothing that happens from now on is missed. All caches together may take so
    /// many bytes, or what another watcher allows.
    pub(crate) fn subscribe(&self, partition: &Partition, cache_bytes: usize) -> Subscription {
        let shared = self.0.clone();
        let (watched, signals) = {
            let mut state = shared.state();
            let made = || Arc::new(Watched::new(shared.budget.clone()));
            let watched = state
                .partitions
                .entry(partition.clone())
                .or_insert_with(made);
            (watched.clone(), watched.signals.subscribe())
        };
        shared.budget.allow(cache_bytes);
        if !shared.state().is_over {
            wake(&shared, &Handle::current());
        }
        Subscription {
            signals,
            watched,
            leave: Leave(shared, partition.clone()),
        }
    }

    /// An append of these rows begins.
    pub(crate) fn observe_append(&self, rows: &[Row]) -> AppendObserver {
        let state = self.0.state();
        let watched = rows.iter().map(|row| {
            let watched = state.partitions.get(&row.partition)?;
            Some((watched.clone(), watched.cache.mark()))
        });
        AppendObserver(watched.collect())
    }
}

impl AppendObserver {
    /// The rows were written. Whoever watches gets them from memory, and is woken at once.
    pub(crate) fn wrote(&self, rows: &[Row], written: &[WrittenRow]) {
        for ((row, written), watched) in rows.iter().zip(written).zip(&self.0) {
            let Some((watched, mark)) = watched else {
                continue;
            };
            let batch = StoredBatch {
                base_offset: written.base_offset,
                appended_at: written.appended_at,
                records: row.records.clone(),
            };
            let end = batch.offsets().end;
            watched.cache.wrote(*mark, batch);
            watched.signals.send_if_modified(|signal| grow(signal, end));
        }
    }
}

impl Subscription {
    /// What is known now; [`changed`](Self::changed) waits for what comes after.
    pub(crate) fn now(&mut self) -> Signal {
        *self.signals.borrow_and_update()
    }

    /// The log ends earlier than was known: the storage went back to an earlier state.
    pub(crate) fn went_back(&self, end: u64) {
        self.watched.went_back(end);
    }

    /// The newest batches of the partition.
    pub(crate) fn cache(&self) -> &Arc<LogCache> {
        &self.watched.cache
    }

    /// Resolves once there is something new. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        // If the runtime of the last task has ended, this one goes on with it.
        let shared = &self.leave.0;
        if !shared.state().is_over {
            revive(shared, &Handle::current());
        }
        if self.signals.changed().await.is_err() {
            // The sender lives as long as the subscription.
            std::future::pending::<()>().await;
        }
    }
}

impl Watched {
    fn new(budget: Arc<CacheBudget>) -> Self {
        Self {
            signals: watch::Sender::default(),
            cache: LogCache::new(budget),
        }
    }

    /// Whoever was told of more has to look again.
    fn went_back(&self, end: u64) {
        let shrinks = self.signals.send_if_modified(|signal| shrink(signal, end));
        if shrinks {
            self.cache.forget();
        }
    }
}

/// Lets go of a partition that nobody watches any more.
impl Drop for Leave {
    fn drop(&mut self) {
        let Self(shared, partition) = self;
        let gone = {
            let mut state = shared.state();
            let watched = state.partitions.get(partition);
            let is_left = watched.is_some_and(|it| it.signals.receiver_count() == 0);
            is_left.then(|| state.partitions.remove(partition))
        };
        // Its cache may hold much.
        drop(gone);
        shared.left.notify_one();
    }
}

impl WatchShared {
    fn state(&self) -> MutexGuard<'_, WatchedPartitions> {
        self.state.lock()
    }

    fn tell(&self, notification: Notification) {
        let state = self.state();
        match notification {
            Notification::Appended(partition, end) => {
                if let Some(watched) = state.partitions.get(&partition) {
                    watched.signals.send_if_modified(|signal| grow(signal, end));
                }
            }
            Notification::Released(partition) => {
                if let Some(watched) = state.partitions.get(&partition) {
                    watched.signals.send_modify(|signal| signal.releases += 1);
                }
            }
            Notification::Missed => missed(&state),
        }
    }

    /// Asks for the ends of all watched partitions.
    async fn poll(&self) {
        let known = |(partition, watched): (&Partition, &Arc<Watched>)| {
            (partition.clone(), watched.signals.borrow().end)
        };
        let (partitions, ends): (Vec<Partition>, Vec<u64>) =
            self.state().partitions.iter().map(known).unzip();
        let (mut parts, mut failed) = (Bisection::of(partitions.len()), None);
        while let Some(part) = parts.next() {
            let looked = self.look(&partitions[part.clone()], &ends[part.clone()]);
            let Err(error) = looked.await else { continue };
            // One that is gone or damaged is no concern of those who watch the others.
            let is_of_one = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Data);
            if !(is_of_one && parts.split(&part)) {
                failed.get_or_insert(error);
            }
        }
        if let Some(error) = failed {
            tracing::warn!(%error, "could not look for new messages");
        }
    }

    async fn look(&self, partitions: &[Partition], ends: &[u64]) -> Result<()> {
        let bounds = self.storage.bounds(partitions).await?;
        let state = self.state();
        for ((partition, known), bounds) in partitions.iter().zip(ends).zip(bounds) {
            let Some(watched) = state.partitions.get(partition) else {
                continue;
            };
            if bounds.end < *known {
                watched.went_back(bounds.end);
            } else {
                let grow = |signal: &mut Signal| grow(signal, bounds.end);
                watched.signals.send_if_modified(grow);
            }
        }
        Ok(())
    }

    /// Passes on what happens, until nothing is watched any more, or nothing will happen.
    async fn watch(&self, mut notifications: BoxStream<'static, Notification>) {
        let interval = self.storage.poll_interval();
        let mut due = None;
        while !self.state().partitions.is_empty() {
            if let Some(interval) = interval {
                let next = || self.clock.now().saturating_add(interval);
                due.get_or_insert_with(|| self.clock.sleep_until(next()));
            }
            let polling = async {
                match &mut due {
                    Some(due) => due.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Notifications may come without a pause: what is rare goes before them.
                biased;
                () = self.left.notified() => {}
                () = polling => {
                    due = None;
                    self.poll().await;
                }
                notification = poll_fn(|cx| notifications.as_mut().poll_next(cx)) => {
                    match notification {
                        Some(notification) => self.tell(notification),
                        None => return self.storage_closed(),
                    }
                }
            }
        }
    }

    /// Whoever looks again finds out.
    fn storage_closed(&self) {
        let mut state = self.state();
        state.is_over = true;
        missed(&state);
    }
}

fn grow(signal: &mut Signal, end: u64) -> bool {
    let grows = end > signal.end;
    signal.end = signal.end.max(end);
    grows
}

fn shrink(signal: &mut Signal, end: u64) -> bool {
    let shrinks = end < signal.end;
    if shrinks {
        signal.end = end;
        signal.missed += 1;
    }
    shrinks
}

fn missed(state: &WatchedPartitions) {
    for watched in state.partitions.values() {
        watched.signals.send_modify(|signal| signal.missed += 1);
    }
}

impl Work for WatchShared {
    fn on_demand(&self) -> &OnDemand {
        &self.on_demand
    }

    fn work(self: Arc<Self>) -> BoxFuture<'static, ()> {
        // From now on nothing is missed; nobody heard what happened since the last task ended.
        let notifications = self.storage.notifications();
        missed(&self.state());
        Box::pin(async move { self.watch(notifications).await })
    }

    fn ended(&self, with: Option<runtime::Id>) {
        if with.is_some() {
            // Those who watch look again, and start it on their own runtime.
            missed(&self.state());
        }
    }
}

impl fmt::Debug for LogWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for WatchShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWatch")
            .field("partitions", &self.state().partitions.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::clock::SystemClock;
    use crate::message::Message;
    use crate::name::Name;
    use crate::options::Options;
    use crate::storage::MemoryStorage;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn nothing_is_missed_between_a_look_and_the_start_of_the_next_task() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(clock.clone()));
        let watch = LogWatch::new(storage.clone(), clock);
        let flow = Options::new().open_storage(storage);
        let (first, second) = (runtime(), runtime());
        let mut subscription = first.block_on(async {
            flow.create_stream("orders", 1).await.unwrap();
            let stream = Name::new("orders").unwrap();
            watch.subscribe(&Partition { stream, index: 0 }, 0)
        });
        drop(first);
        second.block_on(async {
            subscription.now();
            let mut producer = flow.producer("orders").await.unwrap();
            producer.append([Message::new("one")]).await.unwrap();
            assert_eq!(subscription.changed().now_or_never(), Some(()));
        });
    }
}
