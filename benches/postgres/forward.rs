//! One stream into another.

use std::time::Instant;

use flowstream::{Consumer, Delivery, Flowstream, Message, Producer};
use futures::{StreamExt, TryStreamExt};

use crate::harness::{Bench, Limit};
use crate::raw::Raw;
use crate::server::{Link, Opened, Server};
use crate::support::{SIZE, run, thousands};
use crate::table::{Bar, Figure, Unit};

/// What carries the messages over.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// `map_ok(Delivery::into_message).forward(producer)`.
    Forward,
    /// An `append` of a batch in which its commits ride.
    Riding,
    /// An `append` of a batch, then its commit: at least once.
    Apart,
}

pub(crate) fn measure(bench: &mut Bench, server: &Server, link: Link) {
    for batch in [100, 1_000] {
        forward(bench, server, link, Way::Riding, batch);
        forward(bench, server, link, Way::Forward, batch);
    }
}

fn forward(bench: &mut Bench, server: &Server, link: Link, way: Way, batch: usize) {
    let how = match way {
        Way::Forward => ", by .forward",
        _ => "",
    };
    let name = format!("forward, exactly once, {} each{how}", thousands(batch));
    if !bench.wants(&name) {
        return;
    }
    let batches = bench.count(300);
    let opened = Opened::new(server, link);
    crate::drain::fill(&opened, batches * batch, batch);
    let raw = Raw::connect(&opened.runtime, opened.url());
    let groups = std::cell::Cell::new(0);
    let carry = |way| {
        groups.set(groups.get() + 1);
        [carrying(&opened, groups.get(), way, [batches, batch])]
    };
    bench.measure(
        [Figure::new(name, link.name(), Unit::Rate(SIZE))],
        || carry(way),
        vec![
            Limit::new("append, then commit", || carry(Way::Apart)).bar(Bar::AtLeast(0.8)),
            Limit::new("by hand", || [raw.forward(&opened.runtime, SIZE)]),
        ],
    );
}

/// Messages a second, by a group that has seen none of them, into a stream that is new.
fn carrying(opened: &Opened<'_>, number: usize, way: Way, [batches, batch]: [usize; 2]) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let (consumer, producer) = ends(&flow, number, batch).await;
        let control = consumer.control();
        let began = Instant::now();
        let consumer = consumer.take(batches * batch);
        match way {
            Way::Forward => {
                let messages = consumer.map_ok(Delivery::into_message);
                messages.forward(producer).await.expect("all forwarded");
            }
            Way::Riding => riding(consumer, producer, batch).await,
            Way::Apart => apart(consumer, producer, batch).await,
        }
        let took = began.elapsed();
        control.shutdown().await;
        (batches * batch) as f64 / took.as_secs_f64()
    })
}

async fn ends(flow: &Flowstream, number: usize, batch: usize) -> (Consumer, Producer) {
    let producer = flow.producer(format!("to{number}")).batch_messages(batch);
    let consumer = flow.consumer("s", format!("g{number}"));
    let consumer = consumer.await.expect("a consumer");
    (consumer, producer.await.expect("a producer"))
}

type Deliveries = futures::stream::Take<Consumer>;

async fn riding(consumer: Deliveries, mut producer: Producer, batch: usize) {
    let mut batches = consumer.map_ok(Delivery::into_message).try_chunks(batch);
    while let Some(batch) = batches.try_next().await.expect("messages") {
        producer.append(batch).await.expect("appended");
    }
}

async fn apart(consumer: Deliveries, mut producer: Producer, batch: usize) {
    let mut batches = consumer.map_ok(Delivery::into_parts).try_chunks(batch);
    while let Some(batch) = batches.try_next().await.expect("messages") {
        let (batch, mut commits): (Vec<Message>, Vec<_>) = batch.into_iter().unzip();
        producer.append(batch).await.expect("appended");
        let last = commits.pop().expect("one at least");
        // What is dropped is covered by the commit that comes.
        drop(commits);
        last.commit_through().await.expect("a commit");
    }
}
