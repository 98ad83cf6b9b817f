//! What the checks are written with.

use std::future::Future;
use std::ops::{Deref, Range};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;

use super::Harness;
use super::build::{append, claim, name, read, row};
use crate::clock::{Clock, SystemClock};
use crate::error::{ErrorKind, Result};
use crate::storage::{
    Append, Appended, Claim, Fetched, Group, GroupState, Lease, Liveness, Partition, Progress,
    Start, Storage, Verdicts,
};

/// The storage under test, with the calls that most checks make. A call through it has to succeed.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) harness: Arc<dyn Harness>,
    storage: Arc<dyn Storage>,
}

impl Deref for Subject {
    type Target = dyn Storage;

    fn deref(&self) -> &Self::Target {
        &*self.storage
    }
}

impl Subject {
    pub(super) fn new(harness: Arc<dyn Harness>) -> Self {
        let storage = harness.storage();
        Self { harness, storage }
    }

    /// Closes and opens it again; false if it does not outlive its process.
    pub(super) async fn reopen(&mut self) -> bool {
        let Some(storage) = self.harness.reopen().await else {
            return false;
        };
        self.storage = storage;
        true
    }

    /// Settles an append, as whoever made it would.
    pub(super) fn settle(
        &self,
        append: Arc<Append>,
    ) -> impl Future<Output = Result<Option<Vec<u64>>>> + Send + use<> {
        let storage = self.storage.clone();
        async move {
            let rows = append.rows.iter();
            let partitions: Vec<Partition> = rows.map(|row| row.partition.clone()).collect();
            storage.settle(append.id, &partitions).await
        }
    }

    /// As of the storage; that an owner is alive counts as not known, because it may be seen from one
    /// moment to the next.
    pub(super) async fn observe(&self, groups: &[Group]) -> Result<Vec<Option<GroupState>>> {
        let states = self.storage.observe(groups).await?.into_iter();
        Ok(states.map(|state| state.map(settled)).collect())
    }

    /// As of the storage; with what is known of an owner as in [`observe`](Self::observe).
    pub(super) async fn claim(&self, claim: Claim) -> Result<GroupState> {
        self.storage.claim(claim).await.map(settled)
    }

    /// The one partition of a new stream.
    pub(super) async fn partition(&self, stream: &str) -> Partition {
        self.partitions(stream, 1).await.remove(0)
    }

    /// The partitions of a new stream.
    pub(super) async fn partitions(&self, stream: &str, count: u32) -> Vec<Partition> {
        let stream = name(stream);
        self.create_stream(&stream, Some(count))
            .await
            .unwrap_or_else(|error| panic!("a stream is created: {error}"));
        let partition = |index| Partition {
            stream: stream.clone(),
            index,
        };
        (0..count).map(partition).collect()
    }

    /// Appends one batch, and gives the offset of its first message.
    pub(super) async fn write(&self, partition: &Partition, bodies: &[&str]) -> u64 {
        self.written(&append([row(partition, bodies)])).await[0]
    }

    /// Appends what is written for sure.
    pub(super) async fn written(&self, append: &Arc<Append>) -> Vec<u64> {
        match self.append(append.clone()).await {
            Ok(Appended::Written(rows)) => rows.iter().map(|row| row.base_offset).collect(),
            Ok(Appended::Known(bases)) => bases,
            other => panic!("an append is written, and not {other:?}"),
        }
    }

    /// Appends so many batches of one message each, many at a time.
    pub(super) async fn write_many(&self, partition: &Partition, count: usize) {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..count {
            if tasks.len() == 64 {
                tasks.join_next().await.expect("a task").expect("an append");
            }
            let (subject, partition) = (self.clone(), partition.clone());
            tasks.spawn(async move { subject.write(&partition, &["filler"]).await });
        }
        tasks.join_all().await;
    }

    pub(super) async fn fetch(&self, partition: &Partition, from: u64) -> Fetched {
        let read = read(partition, from, usize::MAX);
        self.read(read)
            .await
            .unwrap_or_else(|error| panic!("{partition} is read from {from}: {error}"))
    }

    /// All bodies from the start of the log on, with their offsets, read in small steps; checks
    /// that there is no gap.
    pub(super) async fn log(&self, partition: &Partition) -> Vec<(u64, Bytes)> {
        let mut next = self.range(partition).await.start;
        let mut log = Vec::new();
        loop {
            let fetched = self.read(read(partition, next, 4096)).await;
            let fetched = fetched.unwrap_or_else(|error| panic!("{partition} is read: {error}"));
            if fetched.batches.is_empty() {
                assert!(
                    next >= fetched.bounds.end,
                    "a read from {next} gives a batch where the log ends at {}",
                    fetched.bounds.end
                );
                return log;
            }
            for batch in &fetched.batches {
                assert_eq!(
                    batch.base_offset, next,
                    "batches follow each other without gaps"
                );
                for index in 0..batch.records.len() {
                    log.push((next, batch.records.message(index).body().clone()));
                    next += 1;
                }
            }
        }
    }

    /// All bodies in the log, one after the other, as text.
    pub(super) async fn text(&self, partition: &Partition) -> String {
        let log = self.log(partition).await;
        let bodies = log.iter().map(|(_, body)| String::from_utf8_lossy(body));
        bodies.collect::<Vec<_>>().join(" ")
    }

    /// Where the log starts and ends.
    pub(super) async fn range(&self, partition: &Partition) -> Range<u64> {
        let bounds = self.bounds(std::slice::from_ref(partition)).await;
        let bounds = bounds.unwrap_or_else(|error| panic!("{partition} has bounds: {error}"));
        assert_eq!(bounds.len(), 1, "one pair of bounds for one partition");
        bounds[0].clone()
    }

    /// A new group that begins at the start of the log.
    pub(super) async fn group(&self, partition: &Partition, group: &str) -> Group {
        let group = Group {
            partition: partition.clone(),
            name: name(group),
        };
        self.create_group(&group, Start::Earliest)
            .await
            .unwrap_or_else(|error| panic!("{group} is created: {error}"));
        group
    }

    pub(super) async fn state(&self, group: &Group) -> GroupState {
        let states = self.observe(std::slice::from_ref(group)).await;
        let mut states = states.unwrap_or_else(|error| panic!("{group} is observed: {error}"));
        assert_eq!(states.len(), 1, "one state for one group");
        states
            .remove(0)
            .unwrap_or_else(|| panic!("{group} is known"))
    }

    /// Claims a lease that is free.
    pub(super) async fn lease(&self, group: &Group) -> Lease {
        self.claimed(claim(group, None)).await
    }

    /// Takes the lease over from its owner, as after a death.
    pub(super) async fn takeover(&self, group: &Group) -> Lease {
        let state = self.state(group).await;
        let over = Some((state.epoch, state.generation));
        self.claimed(claim(group, over)).await
    }

    /// A claim that succeeds for sure.
    pub(super) async fn claimed(&self, claim: Claim) -> Lease {
        let group = claim.group.clone();
        let owner = claim.owner;
        let state = self.claim(claim).await;
        let state = state.unwrap_or_else(|error| panic!("{group} is claimed: {error}"));
        assert_eq!(
            state.owner,
            Some(owner),
            "{group} goes to the one who claims it"
        );
        Lease {
            group,
            owner,
            epoch: state.epoch,
        }
    }

    /// A commit of an owner that is not fenced.
    pub(super) async fn done(&self, lease: &Lease, verdicts: impl Into<Verdicts>) -> Progress {
        let progress = self.commit(lease, &verdicts.into()).await;
        progress.unwrap_or_else(|error| panic!("the owner of {} commits: {error}", lease.group))
    }

    pub(super) async fn released(&self, lease: &Lease) {
        let released = self.release(lease).await;
        released.unwrap_or_else(|error| panic!("{} is released: {error}", lease.group));
    }

    /// Waits for what has to happen by itself.
    pub(super) async fn eventually<F: Future<Output = bool>>(
        &self,
        what: &str,
        mut holds: impl FnMut() -> F,
    ) {
        self.within(what, async {
            while !holds().await {
                pause().await;
            }
        })
        .await;
    }

    /// What `future` gives, unless it takes longer than there is patience.
    pub(super) async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let patience = self.harness.patience();
        let clock = SystemClock::new();
        tokio::select! {
            done = future => done,
            () = clock.sleep_until(clock.now().saturating_add(patience)) => {
                panic!("not within {patience:?}: {what}")
            }
        }
    }
}

fn settled(mut state: GroupState) -> GroupState {
    if state.liveness == Liveness::Alive {
        state.liveness = Liveness::Unknown;
    }
    state
}

/// A moment of real time, between two looks.
pub(super) async fn pause() {
    let clock = SystemClock::new();
    let moment = std::time::Duration::from_millis(2);
    clock.sleep_until(clock.now().saturating_add(moment)).await;
}

/// Polls a call once and drops it. What it answered, if it was done by then.
pub(super) fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

/// The answer as it is when the same append comes again.
pub(super) fn known(appended: Appended) -> Appended {
    appended.bases().map_or(appended, Appended::Known)
}

/// How often the message at this offset was begun and not done.
pub(super) fn attempts(state: &GroupState, offset: u64) -> u32 {
    let attempt = state.attempts.iter().find(|(at, _)| *at == offset);
    attempt.map_or(0, |(_, count)| *count)
}

#[track_caller]
pub(super) fn assert_fenced<T: std::fmt::Debug>(answer: &Result<T>, what: &str) {
    assert_kind(answer, ErrorKind::Fenced, what);
}

#[track_caller]
pub(super) fn assert_kind<T: std::fmt::Debug>(answer: &Result<T>, kind: ErrorKind, what: &str) {
    match answer {
        Err(error) if error.kind() == kind => {}
        other => panic!("{what} is refused as {kind:?}, and not answered {other:?}"),
    }
}
