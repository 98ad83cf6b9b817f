//! A storage that tells of what it refused, and from which a protection can be taken away.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use flowstream::Result;
use flowstream::storage::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Name, Notification, Partition,
    Progress, Read, Reset, Start, Storage, StreamSettings, Verdicts,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::process_support::history::{Event, What};
use crate::process_support::worker::say;
use crate::role::Without;

/// Wraps a storage. An append that was refused because a lease was lost is told to the parent
/// ([`What::Fenced`], with the number of messages for an offset).
#[derive(Clone, Debug)]
pub(crate) struct Tampered {
    inner: Arc<dyn Storage>,
    without: Without,
}

impl Tampered {
    pub(crate) fn new(inner: Arc<dyn Storage>, without: Without) -> Self {
        Self { inner, without }
    }

    async fn append_with_all(&self, append: Arc<Append>) -> Result<Appended> {
        let appended = self.inner.append(append.clone()).await?;
        if matches!(appended, Appended::Fenced(_)) {
            let messages = append.rows.iter().map(|row| u64::from(row.records.len()));
            say(Event {
                offset: messages.sum(),
                ..Event::of(0, What::Fenced)
            });
        }
        Ok(appended)
    }

    async fn append_without_fence(&self, append: Arc<Append>) -> Result<Appended> {
        match self.append_with_all(append.clone()).await? {
            Appended::Fenced(_) => {
                let bare = Append {
                    id: Id::random(),
                    after: append.after,
                    rows: append.rows.clone(),
                    commits: Vec::new(),
                };
                self.inner.append(Arc::new(bare)).await
            }
            appended => Ok(appended),
        }
    }

    async fn append_without_ids(&self, append: Arc<Append>) -> Result<Appended> {
        let mut result = self.inner.append(append.clone()).await;
        while result.as_ref().is_err_and(flowstream::Error::in_doubt) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let again = Append {
                id: Id::random(),
                after: append.after,
                rows: append.rows.clone(),
                commits: append.commits.clone(),
            };
            result = self.inner.append(Arc::new(again)).await;
        }
        result
    }

    /// Under the lease of whoever has it now.
    async fn commit_without_fence(&self, lease: &Lease, verdicts: &Verdicts) -> Result<Progress> {
        let mut lease = lease.clone();
        loop {
            let result = self.inner.commit(&lease, verdicts).await;
            if !result.as_ref().is_err_and(flowstream::Error::is_fenced) {
                return result;
            }
            let states = self.inner.observe(std::slice::from_ref(&lease.group));
            match states.await?.pop().flatten() {
                Some(state) if state.owner.is_some() => {
                    (lease.owner, lease.epoch) = (state.owner.unwrap_or(lease.owner), state.epoch);
                }
                _ => return result,
            }
        }
    }
}

impl Storage for Tampered {
    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>> {
        let this = self.clone();
        finish(async move {
            match this.without {
                Without::Fence => this.append_without_fence(append).await,
                Without::Ids => this.append_without_ids(append).await,
                Without::Nothing | Without::Order => this.append_with_all(append).await,
            }
        })
    }

    fn append_depth(&self) -> usize {
        self.inner.append_depth()
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>> {
        let (this, lease, verdicts) = (self.clone(), lease.clone(), verdicts.clone());
        finish(async move {
            match this.without {
                Without::Fence => this.commit_without_fence(&lease, &verdicts).await,
                _ => this.inner.commit(&lease, &verdicts).await,
            }
        })
    }

    fn create_stream<'a>(
        &'a self,
        stream: &'a Name,
        partitions: Option<u32>,
    ) -> BoxFuture<'a, Result<StreamSettings>> {
        self.inner.create_stream(stream, partitions)
    }

    fn settle<'a>(
        &'a self,
        id: Id,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<Option<Vec<u64>>>> {
        self.inner.settle(id, partitions)
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Fetched>> {
        self.inner.read(read)
    }

    fn bounds<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<Vec<Range<u64>>>> {
        self.inner.bounds(partitions)
    }

    fn create_group<'a>(&'a self, group: &'a Group, start: Start) -> BoxFuture<'a, Result<()>> {
        self.inner.create_group(group, start)
    }

    fn observe<'a>(
        &'a self,
        groups: &'a [Group],
    ) -> BoxFuture<'a, Result<Vec<Option<GroupState>>>> {
        self.inner.observe(groups)
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<GroupState>> {
        self.inner.claim(claim)
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        self.inner.release(lease)
    }

    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>> {
        self.inner.groups(stream)
    }

    fn reset(&self, reset: Reset) -> BoxFuture<'_, Result<GroupState>> {
        self.inner.reset(reset)
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        self.inner.trim(partition, before)
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        self.inner.notifications()
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.inner.poll_interval()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.close()
    }
}

/// A call runs to its end even if nobody waits for it.
fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> BoxFuture<'static, Result<T>> {
    let task = tokio::spawn(work);
    Box::pin(async move { task.await.expect("a call that does not panic") })
}
