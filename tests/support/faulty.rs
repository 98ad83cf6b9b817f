//! A storage that fails, hesitates and loses answers as it is told.

mod call;
mod catch;
mod storage;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use flowstream::storage::{Notification, Storage};
use flowstream::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use tokio::sync::{Notify, oneshot};

pub(crate) use call::{ALL, Call};
use catch::Catch;
pub(crate) use catch::{MOMENTS, Moment};

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
    /// Applied, and then a bug of the driver.
    PanicAfter,
    /// Its task is stopped at this moment, until it [comes to harm](Faulty::strike).
    Catch(Moment),
    /// Applied after the first time, and answered after the second. Where dice decide.
    Slow(Duration, Duration),
    /// Unavailable in doubt at once; applied after this time. Where dice decide.
    LateBy(Duration),
}

/// How often to look for what notifications may have missed, where dice decide about them.
const LOOK: Duration = Duration::from_secs(1);

/// A driver says so when it panics because it was told to.
pub(crate) const PANICS: &str = "panics as it was told";

/// Says what becomes of calls that no plan is for.
pub(crate) trait Dice: Send + Sync {
    fn throw(&self, call: Call) -> Option<Fault>;

    /// A call begins, with whatever fault: gives it a number.
    fn begins(&self, call: Call, fault: Option<Fault>) -> u64;

    /// The call with this number is applied now.
    fn applies(&self, number: u64);

    /// Whether this notification gets lost.
    fn loses(&self, notification: &Notification) -> bool;

    /// What a call about this partition waits for before it begins.
    fn transit(&self, _partition: u32) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// The server works by itself, whatever becomes of whoever called it.
    fn serve(&self, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }

    /// By the time of the server.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
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
    catch: Catch,
    /// As many appends at once, in place of what the storage inside says.
    depth: AtomicUsize,
    /// The storage inside is not closed with this one.
    outlives: AtomicBool,
    /// All notifications get lost, so that somebody has to look so often.
    deaf: OnceLock<Duration>,
    /// The driver panics in its notifications.
    snap: Arc<Notify>,
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
            catch: Catch::default(),
            depth: AtomicUsize::new(0),
            outlives: AtomicBool::new(false),
            deaf: OnceLock::new(),
            snap: Arc::default(),
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

    /// The storage inside stays open when this one is closed, so that a test can look into it.
    pub(crate) fn outlive(&self) {
        self.0.outlives.store(true, Ordering::SeqCst);
    }

    /// From the next subscription on all notifications get lost, so that somebody has to look so often.
    pub(crate) fn deafen(&self, look: Duration) {
        let first = self.0.deaf.set(look).is_ok();
        assert!(first, "only once");
    }

    /// The driver panics in each subscription that there is.
    pub(crate) fn break_notifications(&self) {
        self.0.snap.notify_waiters();
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
        self.call_at(0, call, work)
    }

    /// A call about this partition.
    fn call_at<T: Send + 'static>(
        &self,
        partition: u32,
        call: Call,
        work: impl FnOnce(Arc<dyn Storage>) -> BoxFuture<'static, Result<T>> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        Box::pin(async move {
            let (shared, inner) = (self.0.clone(), self.inner().clone());
            let yields = shared.yields.load(Ordering::SeqCst);
            let under_way = UnderWay::new(&shared);
            let transit = shared.dice.as_ref().and_then(|it| it.transit(partition));
            if let Some(transit) = transit {
                transit.await;
            }
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
                Some(Fault::Panic) => panic!("{call:?} {PANICS}"),
                Some(Fault::PanicAfter) => {
                    let _ = work(inner).await;
                    panic!("{call:?} {PANICS}")
                }
                Some(Fault::Catch(moment)) => {
                    shared.catch.stop(moment, async { work(inner).await }).await;
                    Err(unavailable(call).with_doubt())
                }
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
                    let (answer, answered) = oneshot::channel();
                    let server = shared.server();
                    shared.server().serve(Box::pin(async move {
                        server.sleep(before).await;
                        let result = work(inner).await;
                        server.sleep(after).await;
                        // Whoever is gone does not want to know.
                        let _ = answer.send(result);
                    }));
                    answered.await.unwrap_or_else(|_| Err(ended()))
                }
                Some(Fault::LateBy(time)) => {
                    let server = shared.server();
                    shared.server().serve(Box::pin(async move {
                        server.sleep(time).await;
                        let _ = work(inner).await;
                    }));
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

    fn server(&self) -> Arc<dyn Dice> {
        self.dice.clone().expect("a server, whose dice decide")
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
    task.await.unwrap_or_else(|_| Err(ended()))
}

fn ended() -> Error {
    Error::new(ErrorKind::Closed, "the runtime of this call has ended")
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
