//! A storage whose process comes to harm at a step, as it was told.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowstream::Result;
use flowstream::storage::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Name, Notification, Partition,
    Progress, Read, Reset, Start, Storage, StreamSettings, Verdicts,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::Notify;

use crate::process_support::history::{Event, What};
use crate::process_support::worker::say;

/// A call of the storage, and what happens to the process there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) call: Call,
    /// So many of these calls from now on, this one included.
    pub(crate) nth: usize,
    pub(crate) side: Side,
    pub(crate) harm: Harm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Append,
    Read,
    Claim,
    Commit,
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Nothing of the call has left the process.
    Before,
    /// The call was applied, and nobody in the process has seen its answer.
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// It ends at once, as if killed.
    Die,
    /// The call waits until the parent lets it go on, which stops the whole process meanwhile.
    Pause,
}

const CALLS: [(Call, &str); 5] = [
    (Call::Append, "append"),
    (Call::Read, "read"),
    (Call::Claim, "claim"),
    (Call::Commit, "commit"),
    (Call::Release, "release"),
];

impl Step {
    /// As a line for the process.
    pub(crate) fn encode(&self) -> String {
        let call = CALLS.iter().find(|(call, _)| *call == self.call);
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        let harm = match self.harm {
            Harm::Die => "die",
            Harm::Pause => "pause",
        };
        let call = call.expect("a word for each").1;
        format!("{call} {} {side} {harm}", self.nth)
    }

    pub(crate) fn decode(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let call = words.next()?;
        Some(Self {
            call: CALLS.iter().find(|(_, word)| *word == call)?.0,
            nth: words.next()?.parse().ok()?,
            side: match words.next()? {
                "before" => Side::Before,
                _ => Side::After,
            },
            harm: match words.next()? {
                "die" => Harm::Die,
                _ => Harm::Pause,
            },
        })
    }
}

/// Wraps a storage. Clones share everything. It tells the parent when the step is reached
/// ([`What::Leaving`]), when its call has ended all the same ([`What::Left`]), that a claim has an
/// answer, and what was refused because a lease was lost ([`What::Fenced`], with the number of
/// messages for an offset).
#[derive(Clone, Debug)]
pub(crate) struct Steps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn Storage>,
    /// Writes the commits that ride in an append apart from it, afterwards.
    is_apart: bool,
    step: Mutex<Option<Step>>,
    goes_on: Notify,
}

impl Steps {
    pub(crate) fn new(inner: Arc<dyn Storage>, is_apart: bool) -> Self {
        Self(Arc::new(Shared {
            inner,
            is_apart,
            step: Mutex::default(),
            goes_on: Notify::new(),
        }))
    }

    pub(crate) fn set(&self, step: Step) {
        let mut place = self.0.step.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(step);
    }

    /// Lets the call go on that waits.
    pub(crate) fn go_on(&self) {
        self.0.goes_on.notify_one();
    }

    /// The step, if this is its call.
    fn reach(&self, call: Call) -> Option<Step> {
        let mut place = self.0.step.lock().unwrap_or_else(PoisonError::into_inner);
        let step = place.as_mut().filter(|step| step.call == call)?;
        step.nth -= 1;
        (step.nth == 0).then_some(())?;
        place.take()
    }

    /// In a task: a call runs to its end even if nobody waits for it, and so does what happens there.
    fn call<T: Send + 'static>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let (this, step) = (self.clone(), self.reach(call));
        let task = tokio::spawn(async move {
            let Some(Step { side, harm, .. }) = step else {
                return work.await;
            };
            if side == Side::Before {
                this.befall(harm).await;
            }
            let result = work.await;
            if side == Side::After {
                this.befall(harm).await;
            }
            say(Event::of(0, What::Left));
            result
        });
        Box::pin(async move { task.await.expect("a call that does not panic") })
    }

    async fn befall(&self, harm: Harm) {
        say(Event::of(0, What::Leaving));
        match harm {
            Harm::Die => std::process::abort(),
            Harm::Pause => self.0.goes_on.notified().await,
        }
    }
}

fn refused(messages: u64) {
    let event = Event::of(0, What::Fenced);
    say(Event {
        offset: messages,
        ..event
    });
}

impl Storage for Steps {
    fn create_stream<'a>(
        &'a self,
        stream: &'a Name,
        partitions: Option<u32>,
    ) -> BoxFuture<'a, Result<StreamSettings>> {
        self.0.inner.create_stream(stream, partitions)
    }

    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>> {
        let this = self.clone();
        self.call(Call::Append, async move {
            if !this.0.is_apart {
                let lengths = append.rows.iter().map(|row| u64::from(row.records.len()));
                let messages = lengths.sum();
                let appended = this.0.inner.append(append).await;
                if matches!(appended, Ok(Appended::Fenced(_))) {
                    refused(messages);
                }
                return appended;
            }
            let bare = Append {
                id: append.id,
                after: None,
                rows: append.rows.clone(),
                commits: Vec::new(),
            };
            let appended = this.0.inner.append(Arc::new(bare)).await?;
            for (lease, done) in &append.commits {
                this.commit(lease, &done.clone().into()).await?;
            }
            Ok(appended)
        })
    }

    fn append_depth(&self) -> usize {
        self.0.inner.append_depth()
    }

    fn settle<'a>(
        &'a self,
        id: Id,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<Option<Vec<u64>>>> {
        self.0.inner.settle(id, partitions)
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Fetched>> {
        let inner = self.0.inner.clone();
        self.call(Call::Read, async move { inner.read(read).await })
    }

    fn bounds<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<Vec<Range<u64>>>> {
        self.0.inner.bounds(partitions)
    }

    fn create_group<'a>(&'a self, group: &'a Group, start: Start) -> BoxFuture<'a, Result<()>> {
        self.0.inner.create_group(group, start)
    }

    fn observe<'a>(
        &'a self,
        groups: &'a [Group],
    ) -> BoxFuture<'a, Result<Vec<Option<GroupState>>>> {
        self.0.inner.observe(groups)
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<GroupState>> {
        let inner = self.0.inner.clone();
        self.call(Call::Claim, async move {
            let state = inner.claim(claim).await;
            say(Event::of(0, What::Answered));
            state
        })
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>> {
        let inner = self.0.inner.clone();
        let (lease, verdicts) = (lease.clone(), verdicts.clone());
        self.call(Call::Commit, async move {
            inner.commit(&lease, &verdicts).await
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        let inner = self.0.inner.clone();
        let lease = lease.clone();
        self.call(Call::Release, async move { inner.release(&lease).await })
    }

    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>> {
        self.0.inner.groups(stream)
    }

    fn reset(&self, reset: Reset) -> BoxFuture<'_, Result<GroupState>> {
        self.0.inner.reset(reset)
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        self.0.inner.trim(partition, before)
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        self.0.inner.notifications()
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.0.inner.poll_interval()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.0.inner.close()
    }
}
