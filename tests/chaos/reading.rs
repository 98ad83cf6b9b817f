//! Processes that consume.

use std::sync::Arc;
use std::time::Duration;

use flowstream::{Delivery, Error, ErrorKind, Flowstream};
use futures::{StreamExt, TryStreamExt};

use crate::process_support::history::What;
use crate::role::Without;
use crate::tag::Tag;
use crate::worker::{Order, Worker};

/// Where copies go.
pub(crate) const OUT: &str = "out";

/// Longer than any outage.
const PATIENT: Duration = Duration::from_secs(300);

/// Works on messages, many at once, and commits each.
pub(crate) async fn work(worker: &Arc<Worker>) {
    let flow = worker.open(PATIENT).await;
    let consumer = loop {
        let consumer = flow.consumer(&worker.job.stream, &worker.job.groups[0]);
        let stop = worker.told(|order| order == Order::Stop);
        match consumer.lease(worker.job.lease).shutdown_on(stop).await {
            Ok(consumer) => break consumer,
            Err(error) => worker.fails(&error).await,
        }
    };
    let control = consumer.control();
    tokio::spawn(worker.clone().report(consumer.control()));
    let handle = |next| handle(worker, next);
    consumer
        .for_each_concurrent(worker.job.in_flight, handle)
        .await;
    control.shutdown().await;
}

async fn handle(worker: &Worker, next: flowstream::Result<Delivery>) {
    let delivery = match next {
        Ok(delivery) => delivery,
        Err(error) => return failed(worker, &error).await,
    };
    let _busy = worker.begin();
    let (offset, epoch) = (delivery.offset(), delivery.epoch());
    let message = Tag::of(delivery.message()).map_or(0, |tag| tag.id());
    if worker.part.without == Without::Order {
        let committed = delivery.commit().await;
        tokio::time::sleep(worker.job.work).await;
        worker.say(What::Delivered, offset, epoch, message);
        return verdict(worker, committed, offset, epoch, message);
    }
    worker.say(What::Delivered, offset, epoch, message);
    tokio::time::sleep(worker.job.work).await;
    verdict(worker, delivery.commit().await, offset, epoch, message);
}

fn verdict(
    worker: &Worker,
    committed: flowstream::Result<()>,
    offset: u64,
    epoch: u64,
    message: u64,
) {
    let what = match committed {
        Ok(()) => What::Committed,
        Err(error) if error.is_fenced() => What::Fenced,
        Err(error) => {
            eprintln!("{:?}, offset {offset}: {error}", worker.part);
            What::Failed
        }
    };
    worker.say(what, offset, epoch, message);
}

/// Copies into another stream, with the position in the same transaction. A pipeline that fails is
/// made anew.
pub(crate) async fn copy(worker: &Arc<Worker>) {
    let flow = worker.open(PATIENT).await;
    while worker.order() != Order::Stop {
        if let Err(error) = pipeline(worker, &flow).await {
            failed(worker, &error).await;
        }
    }
}

async fn pipeline(worker: &Arc<Worker>, flow: &Flowstream) -> flowstream::Result<()> {
    let producer = flow.producer(OUT).batch_messages(50).await?;
    let stop = worker.told(|order| order == Order::Stop);
    let consumer = flow.consumer(&worker.job.stream, &worker.job.groups[0]);
    let consumer = consumer.lease(worker.job.lease).shutdown_on(stop).await?;
    let control = consumer.control();
    tokio::spawn(worker.clone().report(consumer.control()));
    consumer
        .map_ok(Delivery::into_message)
        .forward(producer)
        .await?;
    control.shutdown().await;
    Ok(())
}

async fn failed(worker: &Worker, error: &Error) {
    match error.kind() {
        // Told of once, by who had read what is gone.
        ErrorKind::Data => worker.say(What::Lost, 0, 0, 0),
        _ => worker.fails(error).await,
    }
}
