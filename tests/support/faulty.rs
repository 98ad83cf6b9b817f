//! A storage that fails, hesitates and loses answers as it is told.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use flowstream::storage::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Name, Notification, Partition,
    Progress, Read, Reset, Start, Storage, StreamSettings, Verdicts,
};
use flowstream::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::Notify;

/// The calls of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    CreateStream,
    Append,
    Settle,
    Read,
    Bounds,
    CreateGroup,
    Observe,
    Claim,
    Commit,
    Release,
    Groups,
    Reset,
    Trim,
    Close,
}

/// All that a pipeline uses.
pub(crate) const ALL: [Call; 14] = [
    Call::CreateStream,
    Call::Append,
    Call::Settle,
    Call::Read,
    Call::Bounds,
    Call::CreateGroup,
    Call::Observe,
    Call::Claim,
    Call::Commit,
    Call::Release,
    Call::Groups,
    Call::Reset,
    Call::Trim,
    Call::Close,
];

/// How a call behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// Unavailable; nothing was applied.
    Fail,
    /// Applied, and Unavailable in doubt.
    Lose,
    /// Unavailable in doubt; nothing was applied.
    Doubt,
    /// Applied when it is let go, and answered then.
    Hold,
    /// Unavailable in doubt at once; applied when it is let go.
    Late,
    /// An error of this kind; nothing was applied.
    Break(ErrorKind),
    /// A bug of the driver.
    Panic,
    /// Applied after the first time, and answered after the second. For time that is paused.
    Slow(Duration, Duration),
    /// Unavailable in doubt at once; applied after this time. For time that is paused.
    LateBy(Duration),
}

/// How often to look for what notifications may have missed, where dice decide about them.
const LOOK: Duration = Duration::from_secs(1);

/// Says what becomes of calls that no plan is for.
pub(crate) trait Dice: Send + Sync {
    fn throw(&self, call: Call) -> Option<Fault>;

    /// A call begins, with whatever fault: gives it a number.
    fn begins(&self, call: Call, fault: Option<Fault>) -> u64;

    /// The call with this number is applied now.
    fn applies(&self, number: u64);

    /// Whether this notification gets lost.
    fn loses(&self, notification: &Notification) -> bool;
}

/// Wraps a storage. Clones share everything.
#[derive(Clone)]
pub(crate) struct Faulty(Arc<Shared>);

struct Shared {
    inner: Arc<dyn Storage>,
    /// The one in its place since a failover.
    successor: OnceLock<Arc<dyn Storage>>,
    plans: Mutex<HashMap<Call, Plan>>,
    counts: Mutex<HashMap<Call, usize>>,
    /// Pending so many times before and after each call.
    yields: AtomicUsize,
    /// What is held goes on in the order in which it came.
    gate: Notify,
    held: AtomicUsize,
    /// As many appends at once, in place of what the storage inside says.
    depth: AtomicUsize,
    dice: Option<Arc<dyn Dice>>,
    /// The calls that are under way, those that nobody waits for too.
    under_way: AtomicUsize,
}

/// A call that is under way.
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.under_way.fetch_add(1, Ordering::SeqCst);
        Self(shared.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Plan {
    fault: Fault,
    /// So many calls pass first.
    after: usize,
    /// For so many calls; for ever otherwise.
    times: Option<usize>,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Self {
        Self::made(inner, None)
    }

    /// One whose notifications may get lost as well, so that somebody has to look now and then.
    pub(crate) fn with_dice(inner: Arc<dyn Storage>, dice: Arc<dyn Dice>) -> Self {
        Self::made(inner, Some(dice))
    }

    fn made(inner: Arc<dyn Storage>, dice: Option<Arc<dyn Dice>>) -> Self {
        Self(Arc::new(Shared {
            inner,
            successor: OnceLock::new(),
            plans: Mutex::default(),
            counts: Mutex::default(),
            yields: AtomicUsize::new(0),
            gate: Notify::new(),
            held: AtomicUsize::new(0),
            depth: AtomicUsize::new(0),
            dice,
            under_way: AtomicUsize::new(0),
        }))
    }

    /// The storage inside, which never fails.
    pub(crate) fn inner(&self) -> &Arc<dyn Storage> {
        self.0.successor.get().unwrap_or(&self.0.inner)
    }

    /// From now on another storage answers; what happens in it is told by the first one.
    pub(crate) fn fail_over(&self, successor: Arc<dyn Storage>) {
        let first = self.0.successor.set(successor).is_ok();
        assert!(first, "only once");
    }

    pub(crate) fn set(&self, call: Call, fault: Fault) {
        self.plan(call, fault, 0, None);
    }

    pub(crate) fn times(&self, call: Call, fault: Fault, times: usize) {
        self.plan(call, fault, 0, Some(times));
    }

    pub(crate) fn after(&self, call: Call, after: usize, fault: Fault, times: usize) {
        self.plan(call, fault, after, Some(times));
    }

    pub(crate) fn set_all(&self, fault: Fault) {
        for call in ALL {
            self.set(call, fault);
        }
    }

    fn plan(&self, call: Call, fault: Fault, after: usize, times: Option<usize>) {
        let plan = Plan {
            fault,
            after,
            times,
        };
        self.0.plans.lock().unwrap().insert(call, plan);
    }

    /// From now on this call works; what is held stays held.
    pub(crate) fn clear(&self, call: Call) {
        self.0.plans.lock().unwrap().remove(&call);
    }

    /// From now on everything works, and what is held goes on.
    pub(crate) fn heal(&self) {
        self.0.plans.lock().unwrap().clear();
        self.let_go();
    }

    /// What is held goes on; the plans stay.
    pub(crate) fn let_go(&self) {
        self.0.gate.notify_waiters();
    }

    /// The number of calls that are held now.
    pub(crate) fn held(&self) -> usize {
        self.0.held.load(Ordering::SeqCst)
    }

    /// The number of calls that are under way now, those that nobody waits for too.
    pub(crate) fn under_way(&self) -> usize {
        self.0.under_way.load(Ordering::SeqCst)
    }

    /// Makes each call Pending so many times before and after its work.
    pub(crate) fn hesitate(&self, yields: usize) {
        self.0.yields.store(yields, Ordering::SeqCst);
    }

    /// Lets so many appends be under way at once.
    pub(crate) fn deepen(&self, depth: usize) {
        self.0.depth.store(depth, Ordering::SeqCst);
    }

    /// How often this was called.
    pub(crate) fn count(&self, call: Call) -> usize {
        *self.0.counts.lock().unwrap().get(&call).unwrap_or(&0)
    }

    /// How often anything was called.
    pub(crate) fn total(&self) -> usize {
        self.0.counts.lock().unwrap().values().sum()
    }

    /// How often something was called that writes.
    pub(crate) fn writes(&self) -> usize {
        let writes = [Call::Append, Call::Claim, Call::Commit, Call::Release];
        writes.into_iter().map(|call| self.count(call)).sum()
    }

    fn call<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce(Arc<dyn Storage>) -> BoxFuture<'static, Result<T>> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        Box::pin(async move {
            let (shared, inner) = (self.0.clone(), self.inner().clone());
            let yields = shared.yields.load(Ordering::SeqCst);
            let under_way = UnderWay::new(&shared);
            let (fault, number) = shared.begin(call);
            let dice = shared.dice.clone();
            let work = move |inner| {
                if let Some(dice) = dice {
                    dice.applies(number);
                }
                work(inner)
            };
            match fault {
                None if yields == 0 => work(inner).await,
                None => {
                    finish(tokio::spawn(async move {
                        let _under_way = under_way;
                        hesitate(yields).await;
                        let result = work(inner).await;
                        hesitate(yields).await;
                        result
                    }))
                    .await
                }
                Some(Fault::Fail) => Err(unavailable(call)),
                Some(Fault::Doubt) => Err(unavailable(call).with_doubt()),
                Some(Fault::Panic) => panic!("{call:?} panics"),
                Some(Fault::Break(kind)) => Err(Error::new(kind, format!("{call:?} is broken"))),
                Some(Fault::Lose) => {
                    work(inner).await?;
                    Err(unavailable(call).with_doubt())
                }
                Some(Fault::Hold) => {
                    finish(tokio::spawn(async move {
                        let _under_way = under_way;
                        shared.hold().await;
                        work(inner).await
                    }))
                    .await
                }
                Some(Fault::Late) => {
                    tokio::spawn(async move {
                        let _under_way = under_way;
                        shared.hold().await;
                        work(inner).await
                    });
                    Err(unavailable(call).with_doubt())
                }
                Some(Fault::Slow(before, after)) => {
                    finish(tokio::spawn(async move {
                        tokio::time::sleep(before).await;
                        let result = work(inner).await;
                        tokio::time::sleep(after).await;
                        result
                    }))
                    .await
                }
                Some(Fault::LateBy(time)) => {
                    tokio::spawn(async move {
                        tokio::time::sleep(time).await;
                        work(inner).await
                    });
                    Err(unavailable(call).with_doubt())
                }
            }
        })
    }
}

impl Shared {
    fn begin(&self, call: Call) -> (Option<Fault>, u64) {
        *self.counts.lock().unwrap().entry(call).or_default() += 1;
        let planned = self.planned(call);
        let Some(dice) = &self.dice else {
            return (planned, 0);
        };
        let fault = planned.or_else(|| dice.throw(call));
        (fault, dice.begins(call, fault))
    }

    fn planned(&self, call: Call) -> Option<Fault> {
        let mut plans = self.plans.lock().unwrap();
        let plan = plans.get_mut(&call)?;
        if plan.after > 0 {
            plan.after -= 1;
            return None;
        }
        let fault = plan.fault;
        if let Some(times) = &mut plan.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                plans.remove(&call);
            }
        }
        Some(fault)
    }

    async fn hold(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
        self.gate.notified().await;
        self.held.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn hesitate(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// The work belongs to a task, so it runs to its end even if nobody waits for it.
async fn finish<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    let ended = |_| {
        Err(Error::new(
            ErrorKind::Closed,
            "the runtime of this call has ended",
        ))
    };
    task.await.unwrap_or_else(ended)
}

fn unavailable(call: Call) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("{call:?} fails as it was told"),
    )
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faulty").field(&self.0.inner).finish()
    }
}

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
        self.call(Call::Read, |it| {
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
        self.call(Call::CreateGroup, move |it| {
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
        self.call(Call::Claim, |it| {
            Box::pin(async move { it.claim(claim).await })
        })
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>> {
        let (lease, verdicts) = (lease.clone(), verdicts.clone());
        self.call(Call::Commit, move |it| {
            Box::pin(async move { it.commit(&lease, &verdicts).await })
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        let lease = lease.clone();
        self.call(Call::Release, move |it| {
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
        self.call(Call::Reset, |it| {
            Box::pin(async move { it.reset(reset).await })
        })
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        let partition = partition.clone();
        self.call(Call::Trim, move |it| {
            Box::pin(async move { it.trim(&partition, before).await })
        })
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        let notifications = self.0.inner.notifications();
        let Some(dice) = self.0.dice.clone() else {
            return notifications;
        };
        let arrives = move |told: &Notification| std::future::ready(!dice.loses(told));
        notifications.filter(arrives).boxed()
    }

    fn poll_interval(&self) -> Option<Duration> {
        let may_lose = self.0.dice.is_some();
        let interval = may_lose.then_some(LOOK);
        interval.or(self.0.inner.poll_interval())
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.call(Call::Close, |it| Box::pin(async move { it.close().await }))
    }
}
