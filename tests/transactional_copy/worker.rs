//! The process that copies, as it sees itself.

use std::sync::Arc;

use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{Control, Delivery, Flowstream, Options, Status};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::watch;

use crate::process_support::Job;
use crate::process_support::history::{Event, What};
use crate::process_support::worker::say;
use crate::steps::{Step, Steps};

/// Where a process finds the stream that it copies to.
pub(crate) const TO: &str = "FLOWSTREAM_COPY_TO";
/// Set if positions are written apart from messages.
pub(crate) const APART: &str = "FLOWSTREAM_COPY_APART";

/// Copies as the parent said, until it is told to end or the parent is gone. Returns at once if there
/// is nothing to do.
pub(crate) fn run_if_asked() {
    let Some(job) = Job::given() else { return };
    // The harness of the tests may have begun a line.
    println!();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let storage = PostgresStorage::connect(&job.url, PostgresOptions::new());
    let storage = runtime.block_on(storage).expect("it opens");
    let steps = Steps::new(Arc::new(storage), std::env::var_os(APART).is_some());
    let flow = {
        let _inside = runtime.enter();
        Options::new().open_storage(Arc::new(steps.clone()))
    };
    let stop = watch::Sender::new(false);
    let work = copy(flow.clone(), job, stop.subscribe());
    runtime.spawn(async move {
        work.await;
        flow.close().await.expect("it closes");
        std::process::exit(0);
    });
    for line in std::io::stdin().lines().map_while(Result::ok) {
        if let Some(step) = Step::decode(&line) {
            steps.set(step);
            say(Event::of(0, What::Armed));
            continue;
        }
        if line == "go on" {
            steps.go_on();
            continue;
        }
        assert_eq!(line, "stop");
        stop.send_replace(true);
    }
    // The parent is gone.
    std::process::exit(1);
}

/// Until it is stopped. A pipeline that fails is made anew.
async fn copy(flow: Flowstream, job: Job, stop: watch::Receiver<bool>) {
    let to = std::env::var(TO).expect("where to copy to");
    while !*stop.borrow() {
        let mut told = stop.clone();
        let done = pipeline(&flow, &job, &to, async move {
            let _ = told.wait_for(|stop| *stop).await;
        });
        if let Err(error) = done.await {
            eprintln!("{} to {to}: {error}", job.stream);
            say(Event::of(0, What::Error));
        }
    }
}

async fn pipeline(
    flow: &Flowstream,
    job: &Job,
    to: &str,
    stop: impl Future<Output = ()> + Send + 'static,
) -> flowstream::Result<()> {
    let producer = flow.producer(to).batch_messages(50).await?;
    let consumer = flow.consumer(&job.stream, &job.groups[0]);
    let consumer = consumer.lease(job.lease).shutdown_on(stop).await?;
    let control = consumer.control();
    tokio::spawn(report(consumer.control()));
    consumer
        .map_ok(Delivery::into_message)
        .forward(producer)
        .await?;
    control.shutdown().await;
    Ok(())
}

/// Tells of each status until the last.
async fn report(control: Control) {
    let mut last = Status::Idle;
    while last != Status::Closed {
        last = control.wait_for(|status| status != last).await;
        let what = match last {
            Status::Active { .. } => What::Active,
            Status::Standby => What::Standby,
            Status::Idle => What::Idle,
            _ => What::Closed,
        };
        say(Event::of(0, what));
    }
}
