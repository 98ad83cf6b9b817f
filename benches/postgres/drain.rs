//! Reading everything, with commits.

use std::time::Instant;

use flowstream::Delivery;
use futures::{SinkExt, StreamExt, TryStreamExt};

use crate::harness::{Bench, Limit};
use crate::raw::{Raw, insert_blob};
use crate::server::{Link, Opened, Server};
use crate::support::{SIZE, message, noise, run};
use crate::table::{Bar, Figure, Unit};

const BATCH: usize = 1_000;

#[derive(Debug, Clone, Copy)]
enum Commits {
    /// After each 1,000 messages.
    EachBatch,
    /// Of each message, 64 at a time.
    Each,
    /// Never waits for one.
    Acks,
}

pub(crate) fn measure(bench: &mut Bench, server: &Server, link: Link) {
    drain(
        bench,
        server,
        link,
        "drain, commit each 1,000",
        Commits::EachBatch,
    );
    drain(
        bench,
        server,
        link,
        "drain, commit each (64 at a time)",
        Commits::Each,
    );
    drain(bench, server, link, "drain, ack", Commits::Acks);
}

fn drain(bench: &mut Bench, server: &Server, link: Link, name: &str, commits: Commits) {
    if !bench.wants(name) {
        return;
    }
    let (batches, step, limit, bar) = match commits {
        Commits::EachBatch => (400, BATCH, "blobs, the same commits", Some(0.7)),
        Commits::Each => (40, 64, "blobs, commit each 64", None),
        Commits::Acks => (400, usize::MAX, "blobs", Some(0.9)),
    };
    let batches = bench.count(batches);
    let opened = Opened::new(server, link);
    fill(&opened, batches * BATCH, BATCH);
    let raw = Raw::connect(&opened.runtime, opened.url());
    let mut groups = 0;
    bench.measure(
        [Figure::new(name, link.name(), Unit::Rate(SIZE))],
        || {
            groups += 1;
            let group = format!("g{groups}");
            [draining(&opened, group, batches * BATCH, commits)]
        },
        vec![
            Limit::new(limit, || [raw.drain(&opened.runtime, [step, SIZE])])
                .bar(bar.map(Bar::AtLeast)),
        ],
    );
}

/// So many messages into the stream, and the same bytes as blobs, so many at once.
pub(crate) fn fill(opened: &Opened<'_>, messages: usize, batch: usize) {
    let (flow, url) = (opened.flow.clone(), opened.url());
    run(&opened.runtime, async move {
        let mut producer = flow.producer("s").await.expect("a producer");
        let mut connection = crate::raw::connect(&url).await;
        let blob = noise(batch * SIZE);
        for _ in 0..messages / batch {
            for _ in 0..batch {
                producer.feed(message()).await.expect("room");
            }
            producer.flush().await.expect("all written");
            insert_blob(&mut connection, &blob).await;
        }
    });
}

/// Messages a second to a group that has seen none of them.
fn draining(opened: &Opened<'_>, group: String, count: usize, commits: Commits) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let consumer = flow.consumer("s", group).await;
        let mut consumer = consumer.expect("a consumer");
        let control = consumer.control();
        let began = Instant::now();
        match commits {
            Commits::EachBatch => {
                for at in 1..=count {
                    let delivery = consumer.try_next().await.expect("a delivery");
                    let delivery = delivery.expect("a consumer that was not shut down");
                    // What is dropped is covered by the commit that comes.
                    if at % BATCH == 0 {
                        delivery.commit_through().await.expect("a commit");
                    }
                }
            }
            Commits::Acks => {
                for _ in 0..count {
                    let delivery = consumer.try_next().await.expect("a delivery");
                    delivery.expect("a consumer that was not shut down").ack();
                }
            }
            Commits::Each => {
                let deliveries = (&mut consumer).take(count);
                let done = deliveries.try_for_each_concurrent(64, Delivery::commit);
                done.await.expect("all committed");
            }
        }
        let took = began.elapsed();
        control.shutdown().await;
        count as f64 / took.as_secs_f64()
    })
}
