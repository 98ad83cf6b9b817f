//! A task that exists only while there is work, and goes on elsewhere when its runtime ends.
//!
//! A library that has a task for good keeps the runtime that it was made on, or dies with it. Here whoever
//! has work starts the task, on the runtime that it is called on, and the task ends once nothing is left.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::future::BoxFuture;
use tokio::runtime::{self, Handle};

use crate::sync::atomic::{AtomicU8, Ordering};

/// Whether the task of some [`Work`] runs.
///
/// ```text
///          wake: starts it            wake
///   idle ──────────────────▶ running ──────▶ woken
///    ▲                       │  ▲             │
///    └───────────────────────┘  └─────────────┘
///      found nothing to do, or    found nothing to do:
///      its runtime has ended      looks once more
/// ```
///
/// Who has work puts it where the task finds it, and then wakes it. A task that found nothing goes to rest
/// only if it was not woken since it was told so the last time: what came between its look and its end is
/// seen.
#[derive(Debug)]
pub(crate) struct OnDemand(AtomicU8);

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const WOKEN: u8 = 2;

/// What a task does that exists on demand.
pub(crate) trait Work: Send + Sync + 'static {
    /// Whether its task runs.
    fn on_demand(&self) -> &OnDemand;

    /// Works until nothing is left. What has to have happened before whoever woke it goes on is done
    /// before the future is given.
    fn work(self: Arc<Self>) -> BoxFuture<'static, ()>;

    /// Its task has ended, because nothing was left, or with this runtime. The next one may have begun.
    fn ended(&self, with: Option<runtime::Id>);
}

impl OnDemand {
    pub(crate) const fn new() -> Self {
        Self(AtomicU8::new(IDLE))
    }

    /// Whether a task runs.
    pub(crate) fn is_running(&self) -> bool {
        // Acquire: with what the task has done before it went to rest.
        self.0.load(Ordering::Acquire) != IDLE
    }

    /// Says that there is work. Whether a task is to be started for it: else one runs, and sees it.
    fn wake(&self) -> bool {
        // Release: the work is seen by the task that is woken. Acquire: as it was left by the one before.
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                Some(if state == IDLE { RUNNING } else { WOKEN })
            });
        before == Ok(IDLE)
    }

    /// Whether a task is to be started, because none runs: one that runs is not woken.
    fn revive(&self) -> bool {
        // As in `wake`. The first look is cheap, for this may be called often.
        !self.is_running()
            && self
                .0
                .compare_exchange(IDLE, RUNNING, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Nothing was found to do: whether the task may end. Else it was woken, and looks once more.
    fn rest(&self) -> bool {
        // Acquire: the work of who has woken it. Release: what was done is seen by the next task.
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                Some(if state == WOKEN { RUNNING } else { IDLE })
            });
        before == Ok(RUNNING)
    }

    /// The task is gone with its runtime.
    fn abandon(&self) {
        // Release: what was done is seen by the next task.
        self.0.store(IDLE, Ordering::Release);
    }
}

/// Says that there is work: a task is started for it on this runtime, unless one runs. Whether it was.
pub(crate) fn wake<W: Work>(work: &Arc<W>, runtime: &Handle) -> bool {
    let is_first = work.on_demand().wake();
    if is_first {
        start(work, runtime);
    }
    is_first
}

/// There was work before, whose task may have ended with its runtime: then it goes on on this one.
pub(crate) fn revive<W: Work>(work: &Arc<W>, runtime: &Handle) {
    if work.on_demand().revive() {
        start(work, runtime);
    }
}

fn start<W: Work>(work: &Arc<W>, runtime: &Handle) {
    runtime.spawn(OnDemandTask::new(work.clone(), runtime.id()));
}

/// Its fields are dropped in this order: it is said first that no task runs any more, so that whoever is
/// answered by the end of the future may wake another one.
struct OnDemandTask<W: Work> {
    running: Running<W>,
    future: BoxFuture<'static, ()>,
}

impl<W: Work> OnDemandTask<W> {
    fn new(work: Arc<W>, runtime: runtime::Id) -> Self {
        let running = Running {
            work: work.clone(),
            runtime,
            is_over: false,
        };
        let future = work.work();
        Self { running, future }
    }
}

impl<W: Work> Future for OnDemandTask<W> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.future.as_mut().poll(cx));
            if self.running.work.on_demand().rest() {
                self.running.is_over = true;
                self.running.work.ended(None);
                return Poll::Ready(());
            }
            self.future = self.running.work.clone().work();
        }
    }
}

/// Says that a task runs. Dropped before its end, its runtime has ended.
struct Running<W: Work> {
    work: Arc<W>,
    runtime: runtime::Id,
    is_over: bool,
}

impl<W: Work> Drop for Running<W> {
    fn drop(&mut self) {
        if !self.is_over {
            self.work.on_demand().abandon();
            self.work.ended(Some(self.runtime));
        }
    }
}

#[cfg(all(test, shuttle))]
mod models {
    use shuttle::future::block_on;
    use shuttle::rand::{Rng, thread_rng};
    use shuttle::thread;
    use tokio::runtime::Builder;

    use super::*;
    use crate::sync::Mutex;

    /// Takes what is handed in, and counts it.
    struct Counter {
        on_demand: OnDemand,
        waiting: Mutex<u32>,
        /// What a task took, and what came back because its runtime had ended.
        taken: Mutex<[u32; 2]>,
    }

    impl Counter {
        fn take(&self, into: usize) -> u32 {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            self.taken.lock()[into] += waiting;
            waiting
        }
    }

    impl Work for Counter {
        fn on_demand(&self) -> &OnDemand {
            &self.on_demand
        }

        fn work(self: Arc<Self>) -> BoxFuture<'static, ()> {
            Box::pin(async move {
                while self.take(0) > 0 {
                    shuttle::future::yield_now().await;
                }
            })
        }

        fn ended(&self, with: Option<runtime::Id>) {
            if with.is_some() {
                self.take(1);
            }
        }
    }

    /// As `wake`, with a thread for the runtime, which may end before the task.
    fn hand_in(work: &Arc<Counter>, runtime: runtime::Id) -> Option<thread::JoinHandle<()>> {
        *work.waiting.lock() += 1;
        work.on_demand.wake().then(|| {
            let task = OnDemandTask::new(work.clone(), runtime);
            thread::spawn(move || match thread_rng().gen_bool(0.3) {
                true => drop(task),
                false => block_on(task),
            })
        })
    }

    /// What is handed in is taken by a task, or comes back: nothing waits for a task that is not there.
    #[test]
    fn models_a_task_on_demand_against_the_end_of_its_runtime() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let id = runtime.handle().id();
        shuttle::check_random(
            move || {
                let work = Arc::new(Counter {
                    on_demand: OnDemand::new(),
                    waiting: Mutex::new(0),
                    taken: Mutex::new([0; 2]),
                });
                let callers: Vec<_> = (0..3)
                    .map(|_| {
                        let work = work.clone();
                        thread::spawn(move || hand_in(&work, id))
                    })
                    .collect();
                for caller in callers {
                    if let Some(task) = caller.join().unwrap() {
                        task.join().unwrap();
                    }
                }
                let [taken, back] = *work.taken.lock();
                assert_eq!((taken + back, *work.waiting.lock()), (3, 0));
                assert!(!work.on_demand.is_running());
            },
            5_000,
        );
    }
}
