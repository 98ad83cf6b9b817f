//! Each call of the storage, by way of its faults.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flowstream::Result;
use flowstream::storage::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Name, Notification, Partition,
    Progress, Read, Reset, Start, Storage, StreamSettings, Verdicts,
};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};

use super::{Call, Faulty, LOOK};

impl Storage for Faulty {
    fn create_stream<'a>(
        &'a self,
        stream: &'a Name,
        partitions: Option<u32>,
    ) -> BoxFuture<'a, Result<StreamSettings>> {
        let stream = stream.clone();
        self.call(Call::CreateStream, move |it| {
            Box::pin(async move { it.create_stream(&stream, partitions).await })
        })
    }

    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>> {
        self.call(Call::Append, |it| {
            Box::pin(async move { it.append(append).await })
        })
    }

    fn append_depth(&self) -> usize {
        match self.0.depth.load(Ordering::SeqCst) {
            0 => self.0.inner.append_depth(),
            depth => depth,
        }
    }

    fn settle<'a>(
        &'a self,
        id: Id,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<Option<Vec<u64>>>> {
        let partitions = partitions.to_vec();
        self.call(Call::Settle, move |it| {
            Box::pin(async move { it.settle(id, &partitions).await })
        })
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Fetched>> {
        self.call_at(read.partition.index, Call::Read, |it| {
            Box::pin(async move { it.read(read).await })
        })
    }

    fn bounds<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<Vec<Range<u64>>>> {
        let partitions = partitions.to_vec();
        self.call(Call::Bounds, move |it| {
            Box::pin(async move { it.bounds(&partitions).await })
        })
    }

    fn create_group<'a>(&'a self, group: &'a Group, start: Start) -> BoxFuture<'a, Result<()>> {
        let group = group.clone();
        self.call_at(group.partition.index, Call::CreateGroup, move |it| {
            Box::pin(async move { it.create_group(&group, start).await })
        })
    }

    fn observe<'a>(
        &'a self,
        groups: &'a [Group],
    ) -> BoxFuture<'a, Result<Vec<Option<GroupState>>>> {
        let groups = groups.to_vec();
        self.call(Call::Observe, move |it| {
            Box::pin(async move { it.observe(&groups).await })
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<GroupState>> {
        self.call_at(claim.group.partition.index, Call::Claim, |it| {
            Box::pin(async move { it.claim(claim).await })
        })
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>> {
        let (lease, verdicts) = (lease.clone(), verdicts.clone());
        self.call_at(lease.group.partition.index, Call::Commit, move |it| {
            Box::pin(async move { it.commit(&lease, &verdicts).await })
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        let lease = lease.clone();
        self.call_at(lease.group.partition.index, Call::Release, move |it| {
            Box::pin(async move { it.release(&lease).await })
        })
    }

    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>> {
        let stream = stream.cloned();
        self.call(Call::Groups, move |it| {
            Box::pin(async move { it.groups(stream.as_ref()).await })
        })
    }

    fn reset(&self, reset: Reset) -> BoxFuture<'_, Result<GroupState>> {
        self.call_at(reset.group.partition.index, Call::Reset, |it| {
            Box::pin(async move { it.reset(reset).await })
        })
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        let partition = partition.clone();
        self.call_at(partition.index, Call::Trim, move |it| {
            Box::pin(async move { it.trim(&partition, before).await })
        })
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        if self.0.deaf.get().is_some() {
            return futures::stream::pending().boxed();
        }
        let snap = self.0.snap.clone();
        let snapped = async move {
            snap.notified().await;
            panic!("the driver panics in its notifications")
        };
        let notifications = self.0.inner.notifications();
        let notifications = notifications.take_until(Box::pin(snapped)).boxed();
        let Some(dice) = self.0.dice.clone() else {
            return notifications;
        };
        let arrives = move |told: &Notification| std::future::ready(!dice.loses(told));
        notifications.filter(arrives).boxed()
    }

    fn poll_interval(&self) -> Option<Duration> {
        let may_lose = self.0.dice.is_some();
        let interval = may_lose.then_some(LOOK);
        let interval = interval.or(self.0.deaf.get().copied());
        interval.or(self.0.inner.poll_interval())
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        let outlives = self.0.outlives.load(Ordering::SeqCst);
        self.call(Call::Close, move |it| {
            Box::pin(async move {
                match outlives {
                    true => Ok(()),
                    false => it.close().await,
                }
            })
        })
    }
}
