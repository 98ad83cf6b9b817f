//! From the call of `send` until it resolves, and until the delivery; one message at a time.

use std::time::{Duration, Instant};

use flowstream::{Flowstream, Message};
use futures::SinkExt;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::harness::{Bench, Limit};
use crate::raw::RawRedb;
use crate::redb::Opened;
use crate::support::{Flavour, Place, SIZE, message, run};
use crate::table::{Figure, Unit};

pub(crate) fn measure(bench: &mut Bench) {
    let flavour = Flavour::Multi;
    let figures = |storage: &str| {
        ["send", "delivery", "delivery, 99 of 100"].map(|part| {
            let name = format!("{storage}: latency, {part}");
            Figure::new(name, flavour.name(), Unit::Micros)
        })
    };
    if bench.wants("memory: latency") {
        let runtime = flavour.runtime();
        let count = bench.count(20_000);
        bench.measure(
            figures("memory"),
            || {
                let flow = run(&runtime, flowstream::open("memory:"));
                send(&runtime, flow.expect("a storage"), count)
            },
            vec![Limit::new("tokio mpsc", || channel(&runtime, count))],
        );
    }
    if bench.wants("redb: latency") {
        let place = Place::new();
        let opened = Opened::new(&place, flavour);
        let mut raw = RawRedb::create(&place.file("raw.redb"));
        let count = bench.count(400);
        bench.measure(
            figures("redb"),
            || send(&opened.runtime, opened.flow.clone(), count),
            vec![Limit::new("redb, one commit", || {
                let commit = |_| {
                    let began = Instant::now();
                    raw.commit(&[b'x'; SIZE]);
                    began.elapsed()
                };
                let [median, high] = percentiles((0..count).map(commit).collect());
                [median, median, high]
            })],
        );
    }
}

/// Each message is delivered before the next is sent.
fn send(runtime: &Runtime, flow: Flowstream, count: usize) -> [f64; 3] {
    run(runtime, async move {
        let mut producer = flow.producer("s").await.expect("a producer");
        let mut consumer = flow.consumer("s", "g").await.expect("a consumer");
        let (seen, mut arrivals) = mpsc::channel(1);
        let consuming = tokio::spawn(async move {
            for _ in 0..count {
                let delivery = consumer.try_next().await.expect("a delivery");
                let at = Instant::now();
                delivery.expect("a consumer that was not shut down").ack();
                seen.send(at).await.expect("someone who asks");
            }
            consumer.control().shutdown().await;
        });
        let mut sends = Vec::with_capacity(count);
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            producer.send(message()).await.expect("a durable message");
            sends.push(began.elapsed());
            let arrival = arrivals.recv().await.expect("a consumer");
            times.push(arrival - began);
        }
        consuming.await.expect("a consumer that ended");
        let [median, high] = percentiles(times);
        [percentiles(sends)[0], median, high]
    })
}

fn channel(runtime: &Runtime, count: usize) -> [f64; 3] {
    run(runtime, async move {
        let (sender, mut receiver) = mpsc::channel::<Message>(1024);
        let (seen, mut arrivals) = mpsc::channel(1);
        tokio::spawn(async move {
            while receiver.recv().await.is_some() {
                seen.send(Instant::now()).await.expect("someone who asks");
            }
        });
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            sender.send(message()).await.expect("a receiver");
            let arrival = arrivals.recv().await.expect("a receiver");
            times.push(arrival - began);
        }
        let [median, high] = percentiles(times);
        [median, median, high]
    })
}

/// The median and the 99th of 100, in microseconds.
fn percentiles(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| times[(times.len() - 1) * percent / 100].as_nanos() as f64 / 1e3)
}
