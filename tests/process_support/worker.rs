//! The process that consumes, as it sees itself.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use flowstream::{Clock, Consumer, Control, Delivery, Flowstream, Options, Status, SystemClock};
use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use tokio::sync::watch;

use super::history::{Event, What};
use super::{Job, Style};

/// Does the job that the parent gave, until it is told to end or the parent is gone. Returns at once
/// if there is none.
pub fn run_if_asked() {
    let Some(job) = Job::given() else { return };
    // The harness of the tests may have begun a line.
    println!();
    let worker = Arc::new(Worker {
        job,
        consumers: AtomicU64::new(0),
        panics: AtomicBool::new(false),
        orders: watch::Sender::new(Order::Work),
        controls: Mutex::default(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let flow = runtime.block_on(worker.open());
    for group in worker.job.groups.clone() {
        for _ in 0..worker.job.consumers {
            let (worker, flow, group) = (worker.clone(), flow.clone(), group.clone());
            match worker.job.style {
                Style::Stay => runtime.spawn(async move { worker.stay(&flow, &group).await }),
                Style::Storm => runtime.spawn(worker.come_and_go(flow, group)),
            };
        }
    }
    let mut runtime = Some(runtime);
    for word in std::io::stdin().lines().map_while(Result::ok) {
        match word.as_str() {
            "stop" => {
                say(Event::of(0, What::Leaving));
                let controls = worker.controls();
                let stopping = join_all(controls.iter().map(Control::shutdown));
                if let Some(runtime) = &runtime {
                    runtime.block_on(stopping);
                }
                std::process::exit(0);
            }
            "drop" => drop(worker.orders.send_replace(Order::LetGo)),
            "panic" => worker.panics.store(true, Ordering::Relaxed),
            "line up" => drop(worker.orders.send_replace(Order::LineUp)),
            // The handle of the storage stays.
            "drop the runtime" => {
                say(Event::of(0, What::Leaving));
                drop(runtime.take());
            }
            word => panic!("what is {word:?}?"),
        }
    }
    // The parent is gone.
    std::process::exit(1);
}

/// What all consumers of the process are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Work,
    /// Drop everything.
    LetGo,
    /// Stay until you had a turn, then go.
    LineUp,
}

struct Worker {
    job: Job,
    consumers: AtomicU64,
    /// Whether the next handler panics.
    panics: AtomicBool,
    orders: watch::Sender<Order>,
    controls: Mutex<Vec<Control>>,
}

impl Worker {
    async fn open(&self) -> Flowstream {
        let options = Options::new();
        let options = match self.job.clock_jumps {
            true => options.clock(JumpingClock::default()),
            false => options,
        };
        options.open(&self.job.url).await.expect("it opens")
    }

    fn controls(&self) -> Vec<Control> {
        let controls = self.controls.lock();
        controls.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new consumer, which tells of its status.
    async fn consumer(self: &Arc<Self>, flow: &Flowstream, group: &str) -> (One, Consumer) {
        let one = One {
            worker: self.clone(),
            number: self.consumers.fetch_add(1, Ordering::Relaxed),
            group: group.to_owned(),
            commits: Arc::new(watch::Sender::new(0)),
        };
        let consumer = loop {
            let consumer = flow.consumer(&self.job.stream, group);
            match consumer.lease(self.job.lease).await {
                Ok(consumer) => break consumer,
                Err(error) => {
                    eprintln!("no consumer yet: {error}");
                    one.say(What::Error, 0, 0);
                }
            }
        };
        let mut controls = self.controls.lock().unwrap_or_else(PoisonError::into_inner);
        controls.push(consumer.control());
        drop(controls);
        tokio::spawn(one.clone().report(consumer.control()));
        (one, consumer)
    }

    /// Works until it is told otherwise.
    async fn stay(self: Arc<Self>, flow: &Flowstream, group: &str) {
        let (one, consumer) = self.consumer(flow, group).await;
        let mut orders = self.orders.subscribe();
        tokio::select! {
            () = one.work(consumer) => {}
            _ = orders.wait_for(|order| *order == Order::LetGo) => one.say(What::Leaving, 0, 0),
        }
    }

    /// Joins, works for a moment, and leaves in one way or another, until it is told to line up:
    /// then it stays until it had a turn.
    async fn come_and_go(self: Arc<Self>, flow: Flowstream, group: String) {
        let mut orders = self.orders.subscribe();
        loop {
            let (one, consumer) = self.consumer(&flow, &group).await;
            let control = consumer.control();
            let mut work = Box::pin(one.work(consumer));
            let turn = async {
                let _ = orders.wait_for(|order| *order == Order::LineUp).await;
                let mut commits = one.commits.subscribe();
                let _ = commits.changed().await;
            };
            let has_turn = tokio::select! {
                () = &mut work => return,
                () = turn => true,
                () = moment(&control), if *self.orders.borrow() == Order::Work => false,
            };
            match if has_turn { 0 } else { random(3) } {
                0 => drop(tokio::join!(work, control.shutdown())),
                1 => drop((control.shutdown(), work)),
                _ => drop(work),
            }
            if has_turn {
                return one.say(What::Left, 0, 0);
            }
        }
    }
}

/// One consumer.
#[derive(Clone)]
struct One {
    worker: Arc<Worker>,
    number: u64,
    group: String,
    /// How many gave Ok.
    commits: Arc<watch::Sender<u64>>,
}

impl One {
    async fn work(&self, consumer: Consumer) {
        let in_flight = self.worker.job.in_flight;
        let handle = |next| self.handle(next);
        consumer.for_each_concurrent(in_flight, handle).await;
    }

    async fn handle(&self, next: flowstream::Result<Delivery>) {
        let delivery = match next {
            Ok(delivery) => delivery,
            Err(error) => {
                eprintln!("{}: {error}", self.group);
                return self.say(What::Error, 0, 0);
            }
        };
        let (offset, epoch) = (delivery.offset(), delivery.epoch());
        self.say(What::Delivered, offset, epoch);
        if self.worker.panics.swap(false, Ordering::Relaxed) {
            self.say(What::Leaving, 0, 0);
            // A panic that prints nothing.
            std::panic::resume_unwind(Box::new("a handler that was told to panic"));
        }
        tokio::time::sleep(self.worker.job.work).await;
        let what = match delivery.commit().await {
            Ok(()) => What::Committed,
            Err(error) if error.is_fenced() => What::Fenced,
            Err(error) => {
                eprintln!("{}, offset {offset}: {error}", self.group);
                What::Failed
            }
        };
        self.say(what, offset, epoch);
        if what == What::Committed {
            self.commits.send_modify(|commits| *commits += 1);
        }
    }

    /// Tells of each status until the last.
    async fn report(self, control: Control) {
        let mut last = Status::Idle;
        while last != Status::Closed {
            last = control.wait_for(|status| status != last).await;
            match last {
                Status::Active { epoch } => self.say(What::Active, 0, epoch),
                Status::Standby => self.say(What::Standby, 0, 0),
                Status::Idle => self.say(What::Idle, 0, 0),
                _ => self.say(What::Closed, 0, 0),
            }
        }
    }

    fn say(&self, what: What, offset: u64, epoch: u64) {
        say(Event {
            consumer: self.number,
            group: self.group.clone(),
            offset,
            epoch,
            ..Event::of(0, what)
        });
    }
}

/// A moment longer than it takes to work a little; or not so long, if there is nothing to do.
async fn moment(control: &Control) {
    let patience = Duration::from_millis(500 + random(2500));
    let active = control.wait_for(Status::is_active);
    if tokio::time::timeout(patience, active).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50 + random(250))).await;
    }
}

/// Any number below this one.
pub fn random(below: u64) -> u64 {
    (flowstream::storage::Id::random().0 as u64) % below
}

/// Tells the parent.
pub fn say(event: Event) {
    // If the parent is gone, this process ends soon.
    let _ = writeln!(std::io::stdout().lock(), "{}", event.encode());
}

/// A wall clock that is an hour early or late, by turns.
#[derive(Debug, Default)]
struct JumpingClock {
    clock: SystemClock,
    looks: AtomicU64,
}

impl Clock for JumpingClock {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn wall(&self) -> SystemTime {
        const HOUR: Duration = Duration::from_secs(3600);
        let wall = self.clock.wall();
        match self.looks.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => wall + HOUR,
            _ => wall - HOUR,
        }
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep_until(deadline)
    }
}
