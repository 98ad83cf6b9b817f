//! A storage that can be cut off, as by a network or by a process that stands still, and that can
//! lose answers, as a connection that breaks.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Name, Notification, Partition,
    Progress, Read, Reset, Start, Storage, StreamSettings, Verdicts,
};

/// While it is shut, calls wait. Behind it the storage does all that it is asked.
#[derive(Debug)]
pub(super) struct Gate {
    inner: Arc<dyn Storage>,
    open: watch::Sender<bool>,
    calls: AtomicU64,
    /// One of so many answers gets lost; none if it is 0.
    loses: AtomicU64,
}

impl Gate {
    pub(super) fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            open: watch::Sender::new(true),
            calls: AtomicU64::new(0),
            loses: AtomicU64::new(0),
        }
    }

    /// From now on one of so many answers gets lost, none with 0.
    pub(super) fn lose_one_of(&self, calls: u64) {
        self.loses.store(calls, Ordering::Relaxed);
    }

    pub(super) fn shut(&self) {
        self.open.send_replace(false);
    }

    pub(super) fn open(&self) {
        self.open.send_replace(true);
    }

    async fn pass(&self) {
        let mut open = self.open.subscribe();
        // The sender is here: it cannot be gone.
        let _ = open.wait_for(|open| *open).await;
    }

    fn answer<T>(&self, answer: Result<T>) -> Result<T> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let loses = self.loses.load(Ordering::Relaxed);
        if loses == 0 || !call.is_multiple_of(loses) {
            return answer;
        }
        Err(Error::new(ErrorKind::Unavailable, "the answer got lost").with_doubt())
    }
}

/// Each call, behind the gate.
macro_rules! gated {
    ($(fn $call:ident<'a>($($arg:ident: $type:ty),*) -> $answer:ty;)*) => { $(
        fn $call<'a>(&'a self, $($arg: $type),*) -> BoxFuture<'a, Result<$answer>> {
            Box::pin(async move {
                self.pass().await;
                self.answer(self.inner.$call($($arg),*).await)
            })
        }
    )* };
}

impl Storage for Gate {
    gated! {
        fn create_stream<'a>(stream: &'a Name, partitions: Option<u32>) -> StreamSettings;
        fn append<'a>(append: Arc<Append>) -> Appended;
        fn settle<'a>(id: Id, partitions: &'a [Partition]) -> Option<Vec<u64>>;
        fn read<'a>(read: Read) -> Fetched;
        fn bounds<'a>(partitions: &'a [Partition]) -> Vec<Range<u64>>;
        fn create_group<'a>(group: &'a Group, start: Start) -> ();
        fn observe<'a>(groups: &'a [Group]) -> Vec<Option<GroupState>>;
        fn claim<'a>(claim: Claim) -> GroupState;
        fn commit<'a>(lease: &'a Lease, verdicts: &'a Verdicts) -> Progress;
        fn release<'a>(lease: &'a Lease) -> ();
        fn groups<'a>(stream: Option<&'a Name>) -> Vec<Group>;
        fn reset<'a>(reset: Reset) -> GroupState;
        fn trim<'a>(partition: &'a Partition, before: u64) -> u64;
    }

    /// For whoever is before it: behind it, the storage stays open.
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.pass().await;
            self.answer(Ok(()))
        })
    }

    fn append_depth(&self) -> usize {
        self.inner.append_depth()
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        self.inner.notifications()
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.inner.poll_interval()
    }
}
