//! Through the Sink.

use std::time::{Duration, Instant};

use flowstream::Flowstream;
use futures::SinkExt;
use tokio::task::JoinSet;

use crate::harness::{Bench, Limit};
use crate::raw::Raw;
use crate::server::{Link, Opened, Server};
use crate::support::{SIZE, message, message_of, run, thousands};
use crate::table::{Bar, Figure, Unit};

/// How the Sink is driven.
#[derive(Debug, Clone, Copy)]
enum Drive {
    /// A stream goes into it, which is what `forward` does; a batch leaves when it is full.
    Stream,
    /// It is filled and flushed, again and again: nothing is under way while it is filled.
    Flush,
}

pub(crate) fn measure(bench: &mut Bench, server: &Server, link: Link) {
    for drive in [Drive::Stream, Drive::Flush] {
        for batch in [1, 10, 100, 1_000, 5_000] {
            produce(bench, server, link, drive, [batch, SIZE]);
        }
        produce(bench, server, link, drive, [1_000, 1024]);
    }
    tasks(bench, server, link);
}

fn produce(bench: &mut Bench, server: &Server, link: Link, drive: Drive, batch: [usize; 2]) {
    let [count, size] = batch;
    let mut name = match drive {
        Drive::Stream => format!("produce, batches of {}", thousands(count)),
        Drive::Flush => format!("produce, flush each {}", thousands(count)),
    };
    if size != SIZE {
        name += " of 1 KiB";
    }
    if !bench.wants(&name) {
        return;
    }
    let opened = Opened::new(server, link);
    let runtime = &opened.runtime;
    let raw = Raw::connect(runtime, opened.url());
    let window = bench.window;
    bench.measure(
        [Figure::new(name, link.name(), Unit::Rate(size))],
        || match drive {
            Drive::Stream => [streaming(&opened, batch, window)],
            Drive::Flush => [flushing(&opened, batch, window)],
        },
        vec![
            Limit::new("blob", || [raw.blobs(runtime, batch, window)])
                .bar((count >= 100).then_some(Bar::AtLeast(0.8))),
            Limit::new("rows", || [raw.rows(runtime, batch, window)])
                .bar((count == 1_000 && size == SIZE).then_some(Bar::AtLeast(3.0))),
        ],
    );
}

fn tasks(bench: &mut Bench, server: &Server, link: Link) {
    let name = "tasks: 1,000, send one by one";
    if !bench.wants(name) {
        return;
    }
    let opened = Opened::new(server, link);
    let window = bench.window;
    bench.measure(
        [Figure::new(name, link.name(), Unit::Rate(SIZE))],
        || [sending(&opened, 1_000, window)],
        vec![
            Limit::new("ours, flush each 500", || {
                [flushing(&opened, [500, SIZE], window)]
            })
            .bar(Bar::AtLeast(0.6)),
        ],
    );
}

fn streaming(opened: &Opened<'_>, [batch, size]: [usize; 2], window: Duration) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let producer = flow.producer("s").batch_messages(batch);
        let mut producer = producer.batch_bytes(16 << 20).await.expect("a producer");
        let began = Instant::now();
        let mut sent = 0_usize;
        let messages = std::iter::from_fn(|| {
            // The clock is read once a batch.
            let goes_on = !sent.is_multiple_of(batch) || began.elapsed() < window;
            goes_on.then(|| {
                sent += 1;
                Ok(message_of(size))
            })
        });
        let mut messages = futures::stream::iter(messages);
        producer.send_all(&mut messages).await.expect("all written");
        drop(messages);
        sent as f64 / began.elapsed().as_secs_f64()
    })
}

fn flushing(opened: &Opened<'_>, batch: [usize; 2], window: Duration) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let began = Instant::now();
        let sent = flush_for(&flow, "s", batch, window).await;
        sent as f64 / began.elapsed().as_secs_f64()
    })
}

/// Fills and flushes as long as the window lasts: how many messages.
pub(crate) async fn flush_for(
    flow: &Flowstream,
    stream: &str,
    [batch, size]: [usize; 2],
    window: Duration,
) -> usize {
    // What is filled leaves with the flush, and not a part of it before.
    let producer = flow.producer(stream).batch_bytes(16 << 20);
    let mut producer = producer.await.expect("a producer");
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < window {
        for _ in 0..batch {
            producer.feed(message_of(size)).await.expect("room");
        }
        producer.flush().await.expect("all written");
        sent += batch;
    }
    sent
}

fn sending(opened: &Opened<'_>, tasks: usize, window: Duration) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let producer = flow.producer("s").await.expect("a producer");
        let began = Instant::now();
        let mut running = JoinSet::new();
        for _ in 0..tasks {
            let mut producer = producer.clone();
            running.spawn(async move {
                let mut sent = 0;
                while began.elapsed() < window {
                    producer.send(message()).await.expect("a durable message");
                    sent += 1;
                }
                sent
            });
        }
        let sent: usize = running.join_all().await.into_iter().sum();
        sent as f64 / began.elapsed().as_secs_f64()
    })
}
