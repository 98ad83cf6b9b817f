//! A process that writes, in one of three ways.

use std::ops::Range;
use std::time::Duration;

use flowstream::{Batch, Message, Producer};
use futures::SinkExt;

use crate::process_support::history::{Event, What};
use crate::process_support::worker::{random, say};
use crate::tag::Tag;
use crate::worker::{Order, Worker};

/// The offset of a message whose writer does not get to know it.
pub(crate) const SOMEWHERE: u64 = u64::MAX;

/// The library tries again for so long; then the writer does.
const IMPATIENT: Duration = Duration::from_millis(300);
const PATIENT: Duration = Duration::from_secs(300);

pub(crate) async fn run(worker: &Worker) {
    let budget = match worker.part.number % 3 {
        0 => PATIENT,
        _ => IMPATIENT,
    };
    let flow = worker.open(budget).await;
    let mut producer = loop {
        match flow.producer(&worker.job.stream).await {
            Ok(producer) => break producer,
            Err(error) => worker.fails(&error).await,
        }
    };
    let mut next = 1;
    while worker.order() != Order::Stop {
        // Begun before the order is looked at: who then hears that nothing is under way can rely on it.
        let busy = worker.begin();
        if worker.order() == Order::Hold {
            drop(busy);
            worker.told(|order| order != Order::Hold).await;
            continue;
        }
        let count = 1 + random(20) as u32;
        let numbers = next..next + count;
        next += count;
        match worker.part.number % 3 {
            1 => append(worker, &mut producer, numbers).await,
            _ => send(worker, &mut producer, numbers).await,
        }
        drop(busy);
        let pause = worker.job.work.as_micros() as u64;
        tokio::time::sleep(Duration::from_micros(pause / 2 + random(pause))).await;
    }
}

/// In one call, together or not at all; what comes back is given in again.
async fn append(worker: &Worker, producer: &mut Producer, numbers: Range<u32>) {
    let of = numbers.end - numbers.start;
    let tag = |(place, number)| Tag {
        writer: worker.part.number,
        number,
        place,
        of,
    };
    let tags: Vec<Tag> = (0..).zip(numbers).map(tag).collect();
    let mut batch: Batch = tags.iter().map(Tag::message).collect();
    let appended = loop {
        match producer.append(batch).await {
            Ok(appended) => break appended,
            Err(failed) => {
                batch = failed.unsent;
                worker.fails(&failed.error).await;
            }
        }
    };
    let [row] = appended.offsets() else {
        panic!("one row: {appended:?}");
    };
    for (tag, offset) in tags.iter().zip(row.offsets.clone()) {
        sent(tag, offset);
    }
}

/// Through the Sink; after an error it still has what it was given.
async fn send(worker: &Worker, producer: &mut Producer, numbers: Range<u32>) {
    let tag = |number| Tag {
        writer: worker.part.number,
        number,
        place: 0,
        of: 1,
    };
    let tags: Vec<Tag> = numbers.map(tag).collect();
    for message in tags.iter().map(Tag::message) {
        feed(worker, producer, message).await;
    }
    while let Err(error) = producer.flush().await {
        worker.fails(&error).await;
    }
    for tag in &tags {
        sent(tag, SOMEWHERE);
    }
}

async fn feed(worker: &Worker, producer: &mut Producer, message: Message) {
    if let Err(error) = producer.feed(message).await {
        worker.fails(&error).await;
    }
}

fn sent(tag: &Tag, offset: u64) {
    say(Event {
        offset,
        message: tag.id(),
        ..Event::of(0, What::Sent)
    });
}
