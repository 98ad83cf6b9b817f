//! A process of the crew, as it sees itself.

use std::sync::Arc;
use std::time::Duration;

use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{Control, Flowstream, Options, Status};
use tokio::sync::watch;

use crate::process_support::Job;
use crate::process_support::history::{Event, What};
use crate::process_support::worker::say;
use crate::role::{Part, Role};
use crate::tampered::Tampered;
use crate::{reading, writing};

/// What the process is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Work,
    /// Finish what is begun, and wait.
    Hold,
    /// Finish, and go.
    Stop,
}

/// What its tasks share.
pub(crate) struct Worker {
    pub(crate) job: Job,
    pub(crate) part: Part,
    orders: watch::Sender<Order>,
    /// How much it is at.
    busy: watch::Sender<u64>,
}

/// Does its part until it is told to stop or the parent is gone. Returns at once if there is none.
pub(crate) fn run_if_asked() {
    let (Some(job), Some(part)) = (Job::given(), Part::given()) else {
        return;
    };
    // The harness of the tests may have begun a line.
    println!();
    let worker = Arc::new(Worker {
        job,
        part,
        orders: watch::Sender::new(Order::Work),
        busy: watch::Sender::new(0),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let work = worker.clone();
    runtime.spawn(async move {
        match work.part.role {
            Role::Write => writing::run(&work).await,
            Role::Work => reading::work(&work).await,
            Role::Copy => reading::copy(&work).await,
        }
        std::process::exit(0);
    });
    for word in std::io::stdin().lines().map_while(Result::ok) {
        match word.as_str() {
            "stop" => drop(worker.orders.send_replace(Order::Stop)),
            "hold" => drop(worker.orders.send_replace(Order::Hold)),
            "go on" => drop(worker.orders.send_replace(Order::Work)),
            // Says when all that it had begun is told.
            "mark" => {
                let mut busy = worker.busy.subscribe();
                runtime.spawn(async move {
                    let _ = busy.wait_for(|busy| *busy == 0).await;
                    say(Event::of(0, What::Left));
                });
            }
            word => panic!("what is {word:?}?"),
        }
    }
    // The parent is gone.
    std::process::exit(1);
}

impl Worker {
    /// Opens the storage, as soon as that is possible.
    pub(crate) async fn open(&self, budget: Duration) -> Flowstream {
        loop {
            let options = PostgresOptions::new().statement_timeout(Duration::from_secs(10));
            match PostgresStorage::connect(&self.job.url, options).await {
                Ok(storage) => {
                    let storage = Tampered::new(Arc::new(storage), self.part.without);
                    let options = Options::new().retry_for(budget);
                    return options.open_storage(Arc::new(storage));
                }
                Err(error) => self.fails(&error).await,
            }
        }
    }

    /// Tells of an error, after which something is tried again.
    pub(crate) async fn fails(&self, error: &flowstream::Error) {
        say(Event::of(0, What::Error));
        if !error.is_transient() {
            eprintln!("{:?}: {error}", self.part);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Something begins; it is over when this is dropped.
    pub(crate) fn begin(&self) -> Busy<'_> {
        self.busy.send_modify(|busy| *busy += 1);
        Busy(&self.busy)
    }

    pub(crate) fn order(&self) -> Order {
        *self.orders.borrow()
    }

    /// Waits for one of these orders.
    pub(crate) fn told(
        &self,
        fits: fn(Order) -> bool,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut orders = self.orders.subscribe();
        async move {
            let _ = orders.wait_for(|order| fits(*order)).await;
        }
    }

    /// Tells of each status of a consumer until the last.
    pub(crate) async fn report(self: Arc<Self>, control: Control) {
        let mut last = Status::Idle;
        while last != Status::Closed {
            last = control.wait_for(|status| status != last).await;
            match last {
                Status::Active { epoch } => self.say(What::Active, 0, epoch, 0),
                Status::Standby => self.say(What::Standby, 0, 0, 0),
                Status::Idle => self.say(What::Idle, 0, 0, 0),
                _ => self.say(What::Closed, 0, 0, 0),
            }
        }
    }

    /// Tells of its group.
    pub(crate) fn say(&self, what: What, offset: u64, epoch: u64, message: u64) {
        say(Event {
            group: self.job.groups[0].clone(),
            offset,
            epoch,
            message,
            ..Event::of(0, what)
        });
    }
}

/// Something is under way.
pub(crate) struct Busy<'a>(&'a watch::Sender<u64>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|busy| *busy -= 1);
    }
}
