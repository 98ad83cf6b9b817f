//! What the tests share: a storage with faults, a world to test in, and waiting with a deadline.

#![allow(dead_code, reason = "each test takes what it needs")]

mod faulty;
mod random;

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use flowstream::storage::{
    Claim, Group, GroupState, Id, Lease, MemoryStorage, Name, Over, Partition, Storage,
};
use flowstream::{Clock, Consumer, Delivery, Flowstream, ManualClock, Message, Options};
use futures::FutureExt;

#[allow(unused_imports, reason = "each test takes what it needs")]
pub(crate) use faulty::{ALL, Call, Dice, Fault, Faulty, MOMENTS, Moment, PANICS};
#[allow(unused_imports, reason = "each test takes what it needs")]
pub(crate) use random::Random;

/// The storages that tests run on, by URL.
pub(crate) const STORAGES: &[&str] = &[
    "memory:",
    #[cfg(feature = "redb")]
    "redb:",
];

/// A new storage in memory.
pub(crate) fn memory(clock: impl Clock) -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new(Arc::new(clock)))
}

/// A new storage that a URL names, and the directory that has to stay for as long as it is written to.
pub(crate) async fn storage(
    url: &str,
    clock: impl Clock,
) -> (Arc<dyn Storage>, Option<tempfile::TempDir>) {
    match url {
        "memory:" => (memory(clock), None),
        #[cfg(feature = "redb")]
        "redb:" => {
            use flowstream::storage::{RedbOptions, RedbStorage};
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("test.redb");
            let options = RedbOptions::new(Arc::new(clock));
            let storage = RedbStorage::open(path, options).await.unwrap();
            (Arc::new(storage), Some(dir))
        }
        _ => panic!("no storage for tests behind {url}"),
    }
}

/// A storage with faults, a clock that stands still, and what is made of both.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) faulty: Faulty,
    pub(crate) flow: Flowstream,
    pub(crate) dir: Option<tempfile::TempDir>,
}

/// Errors are reported at once: there is no retry budget.
pub(crate) async fn world() -> World {
    world_with(|options| options.retry_for(Duration::ZERO)).await
}

pub(crate) async fn world_with(set: impl FnOnce(Options) -> Options) -> World {
    world_on("memory:", set).await
}

pub(crate) async fn world_on(url: &str, set: impl FnOnce(Options) -> Options) -> World {
    let clock = ManualClock::new();
    let (storage, dir) = storage(url, clock.clone()).await;
    let faulty = Faulty::new(storage);
    let flow = open(&faulty, &clock, set);
    World {
        clock,
        faulty,
        flow,
        dir,
    }
}

/// Opens a storage that is there once more, as another process would.
pub(crate) fn open(
    faulty: &Faulty,
    clock: &ManualClock,
    set: impl FnOnce(Options) -> Options,
) -> Flowstream {
    let options = set(Options::new().clock(clock.clone()));
    options.open_storage(Arc::new(faulty.clone()))
}

impl World {
    /// Lets time pass in small steps, and all tasks run after each.
    pub(crate) async fn pass(&self, time: Duration) {
        self.pass_in(time, 20).await;
    }

    pub(crate) async fn pass_in(&self, time: Duration, steps: u32) {
        for _ in 0..steps {
            self.clock.advance(time / steps);
            quiet().await;
        }
    }

    /// Lets all tasks run until they have nothing to do and no call of the storage is under way.
    #[allow(
        clippy::disallowed_methods,
        reason = "a server takes its time from the machine"
    )]
    pub(crate) async fn rest(&self) {
        soon("rest", async {
            loop {
                quiet().await;
                if self.faulty.under_way() == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        })
        .await;
    }

    /// Appends messages with the bodies 0, 1, 2 … in one batch, past all faults.
    pub(crate) async fn fill(&self, stream: &str, count: u64) {
        let calm = Options::new().clock(self.clock.clone());
        let calm = calm.open_storage(self.faulty.inner().clone());
        fill(&calm, stream, count).await;
    }

    /// All bodies in the first partition of a stream, past all faults.
    pub(crate) async fn bodies(&self, stream: &str) -> Vec<String> {
        let calm = Options::new().clock(self.clock.clone());
        bodies(&calm.open_storage(self.faulty.inner().clone()), stream, 0).await
    }

    /// How a group stands in the first partition, past all faults.
    pub(crate) async fn group(&self, stream: &str, group: &str) -> GroupState {
        let calm = Options::new().clock(self.clock.clone());
        let calm = calm.open_storage(self.faulty.inner().clone());
        calm.group(stream, group).await.unwrap().remove(0)
    }

    pub(crate) async fn position(&self, stream: &str, group: &str) -> u64 {
        self.group(stream, group).await.progress.position()
    }

    /// Another owner takes the lease over, as if it had stood still for a whole lease.
    pub(crate) async fn take_over(&self, stream: &str, group: &str) -> Lease {
        let state = self.group(stream, group).await;
        let group = Group {
            partition: Partition {
                stream: Name::new(stream).unwrap(),
                index: 0,
            },
            name: Name::new(group).unwrap(),
        };
        let owner = Id::random();
        let claim = Claim {
            group: group.clone(),
            owner,
            over: Some(Over::another(state.epoch, state.generation)),
        };
        let state = self.faulty.inner().claim(claim).await.unwrap();
        assert_eq!(state.owner, Some(owner));
        Lease {
            group,
            owner,
            epoch: state.epoch,
        }
    }
}

/// Appends messages with the bodies 0, 1, 2 … in one batch.
pub(crate) async fn fill(flow: &Flowstream, stream: &str, count: u64) {
    let messages: Vec<Message> = (0..count).map(|i| i.to_string().into()).collect();
    let mut producer = flow.producer(stream).await.unwrap();
    producer.append(messages).await.unwrap();
}

/// All bodies in a partition.
pub(crate) async fn bodies(flow: &Flowstream, stream: &str, partition: u32) -> Vec<String> {
    let mut all = Vec::new();
    let mut from = flow.bounds(stream).await.unwrap()[partition as usize].start;
    loop {
        let page = flow.read(stream, partition, from).await.unwrap();
        let Some((last, _)) = page.last() else {
            return all;
        };
        from = last + 1;
        all.extend(page.iter().map(|(_, message)| text(message)));
    }
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.body().to_vec()).unwrap()
}

/// The bodies 0, 1, 2 …
pub(crate) fn numbers(count: u64) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

/// The next delivery, which must come.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    soon("the next delivery", consumer.next())
        .await
        .unwrap()
        .unwrap()
}

/// Takes what the consumer has, until it is pending and all tasks have come to rest.
pub(crate) async fn take_all(consumer: &mut Consumer, mut each: impl FnMut(Delivery)) -> u64 {
    let mut count = 0;
    let mut rested = false;
    loop {
        match consumer.next().now_or_never() {
            Some(delivery) => {
                each(delivery.unwrap().unwrap());
                (count, rested) = (count + 1, false);
            }
            None if rested => return count,
            None => {
                quiet().await;
                rested = true;
            }
        }
    }
}

/// Awaits what must resolve; panics instead of waiting for ever.
#[allow(clippy::disallowed_methods, reason = "a deadline on the test itself")]
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("did not happen: {what}"),
    }
}

/// Waits for a condition.
#[allow(clippy::disallowed_methods, reason = "a deadline on the test itself")]
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    })
    .await;
}

/// It costs nothing where all is well, and a machine may be twenty times as slow as another.
const PATIENCE: Duration = Duration::from_secs(300);

/// Lets all other tasks of this thread run until they have nothing to do.
pub(crate) async fn quiet() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Lets the tasks run, and says that this future is still pending.
pub(crate) async fn stays_pending<F: Future + Unpin>(future: &mut F) -> bool {
    for _ in 0..100 {
        if future.now_or_never().is_some() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

/// Polls a future at most so often, letting the tasks run in between; `None` if it was dropped
/// before it was ready.
pub(crate) async fn poll_at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

thread_local! {
    static UNWOKEN: Cell<usize> = const { Cell::new(16) };
    static IS_WOKEN_LAST: Cell<bool> = const { Cell::new(false) };
}

/// So many polls of [`drop_after`] come whether the future was woken or not. Where each call goes to a
/// server, there are few that matter.
pub(crate) fn poll_unwoken(polls: usize) {
    UNWOKEN.set(polls);
}

/// Whether [`drop_after`] drops a future that was polled only once it is woken again, or is not for a
/// while: what it waited for is there then, and nobody takes it.
pub(crate) fn drop_woken(is_woken: bool) {
    IS_WOKEN_LAST.set(is_woken);
}

/// Polls a future so many times, the first of them whether it was woken or not, and drops it then.
/// One that waits for a thread is not spun.
#[allow(
    clippy::disallowed_methods,
    reason = "a server takes its time from the machine"
)]
pub(crate) async fn drop_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let woken = Arc::new(Woken(tokio::sync::Notify::new()));
    let waker = futures::task::waker(woken.clone());
    for poll in 0..polls {
        if poll > UNWOKEN.get() {
            soon("a wake", woken.0.notified()).await;
        }
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    if polls > 0 && IS_WOKEN_LAST.get() {
        const A_WHILE: Duration = Duration::from_millis(50);
        let _ = tokio::time::timeout(A_WHILE, woken.0.notified()).await;
    }
    None
}

struct Woken(tokio::sync::Notify);

impl futures::task::ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.notify_one();
    }
}
