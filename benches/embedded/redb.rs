//! The storage in a file, beside redb alone and a bare file on the same disk.

use std::time::{Duration, Instant};

use flowstream::Flowstream;
use futures::SinkExt;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::harness::{Bench, Limit};
use crate::raw::{RawFile, RawRedb};
use crate::support::{Flavour, Place, SIZE, message, noise, run, thousands};
use crate::table::{Bar, Figure, Unit};

pub(crate) fn measure(bench: &mut Bench) {
    for batch in [1, 10, 100, 1_000, 5_000] {
        produce(bench, Flavour::Multi, batch);
    }
    produce(bench, Flavour::Current, 1_000);
    for batch in [100, 1_000, 5_000] {
        feed(bench, batch);
    }
    many_tasks(bench);
    drain(bench, "redb: drain, commit each 1,000", Drain::Committing);
    drain(bench, "redb: drain, ack", Drain::Acking);
}

/// A storage in a file, and a runtime for it.
pub(crate) struct Opened {
    // Goes first: the file is closed while there is a runtime.
    pub(crate) flow: Flowstream,
    pub(crate) runtime: Runtime,
}

impl Opened {
    pub(crate) fn new(place: &Place, flavour: Flavour) -> Self {
        let runtime = flavour.runtime();
        let url = place.url("flowstream.redb");
        let flow = run(&runtime, async move { flowstream::open(&url).await });
        let flow = flow.expect("a storage");
        Self { flow, runtime }
    }
}

/// A flush after each batch: one durable transaction each, as in the limits.
fn produce(bench: &mut Bench, flavour: Flavour, batch: usize) {
    let name = format!("redb: produce, flush each {}", thousands(batch));
    if !bench.wants(&name) {
        return;
    }
    let figure = Figure::new(name, flavour.name(), Unit::Rate(SIZE));
    let place = Place::new();
    let opened = Opened::new(&place, flavour);
    let mut redb = RawRedb::create(&place.file("raw.redb"));
    let mut file = RawFile::create(&place.file("raw"));
    let window = bench.window;
    bench.measure(
        [figure],
        || [flushing(&opened, batch, window)],
        vec![
            Limit::new("redb, one value", || [redb.produce(batch, window)])
                .bar((batch >= 100).then_some(Bar::AtLeast(0.7))),
            Limit::new("file, append + fdatasync", || [file.produce(batch, window)]),
        ],
    );
}

/// Never waits for the disk: the next batch is taken in while one is written.
fn feed(bench: &mut Bench, batch: usize) {
    let name = format!("redb: produce, feed by {}", thousands(batch));
    if !bench.wants(&name) {
        return;
    }
    let flavour = Flavour::Multi;
    let place = Place::new();
    let opened = Opened::new(&place, flavour);
    let mut redb = RawRedb::create(&place.file("raw.redb"));
    let window = bench.window;
    bench.measure(
        [Figure::new(name, flavour.name(), Unit::Rate(SIZE))],
        || [feeding(&opened, batch, window)],
        vec![Limit::new("redb, one value", || {
            [redb.produce(batch, window)]
        })],
    );
}

fn many_tasks(bench: &mut Bench) {
    let name = "redb: 1,000 tasks, send one by one";
    if !bench.wants(name) {
        return;
    }
    let flavour = Flavour::Multi;
    let place = Place::new();
    let opened = Opened::new(&place, flavour);
    let window = bench.window;
    bench.measure(
        [Figure::new(name, flavour.name(), Unit::Rate(SIZE))],
        || [sending(&opened, 1_000, window)],
        vec![Limit::new("ours, flush each 500", || {
            [flushing(&opened, 500, window)]
        })],
    );
}

fn flushing(opened: &Opened, batch: usize, window: Duration) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let mut producer = flow.producer("s").await.expect("a producer");
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < window {
            for _ in 0..batch {
                producer.feed(message()).await.expect("room");
            }
            producer.flush().await.expect("all written");
            sent += batch;
        }
        sent as f64 / began.elapsed().as_secs_f64()
    })
}

fn feeding(opened: &Opened, batch: usize, window: Duration) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let producer = flow.producer("s").batch_messages(batch);
        let mut producer = producer.await.expect("a producer");
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < window {
            for _ in 0..batch {
                producer.feed(message()).await.expect("room");
            }
            sent += batch;
        }
        producer.flush().await.expect("all written");
        sent as f64 / began.elapsed().as_secs_f64()
    })
}

fn sending(opened: &Opened, tasks: usize, window: Duration) -> f64 {
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

#[derive(Debug, Clone, Copy)]
enum Drain {
    /// Waits for a durable commit after each batch.
    Committing,
    /// Never waits.
    Acking,
}

const BATCH: usize = 1_000;

fn drain(bench: &mut Bench, name: &str, kind: Drain) {
    if !bench.wants(name) {
        return;
    }
    let flavour = Flavour::Multi;
    let batches = match kind {
        Drain::Committing => bench.count(300),
        Drain::Acking => bench.count(2_000),
    };
    let place = Place::new();
    let opened = Opened::new(&place, flavour);
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let mut producer = flow.producer("s").await.expect("a producer");
        for _ in 0..batches {
            for _ in 0..BATCH {
                producer.feed(message()).await.expect("room");
            }
            producer.flush().await.expect("all written");
        }
    });
    let mut raw = RawRedb::create(&place.file("raw.redb"));
    for _ in 0..batches {
        raw.commit(&noise(BATCH * SIZE));
    }
    let is_committing = matches!(kind, Drain::Committing);
    let mut groups = 0;
    bench.measure(
        [Figure::new(name, flavour.name(), Unit::Rate(SIZE))],
        || {
            groups += 1;
            [draining(
                &opened,
                format!("g{groups}"),
                batches * BATCH,
                kind,
            )]
        },
        vec![Limit::new("redb, copy the values", || {
            let began = Instant::now();
            let bytes = raw.drain(is_committing);
            [(bytes / SIZE) as f64 / began.elapsed().as_secs_f64()]
        })],
    );
}

/// Messages a second to a group that has seen none of them.
fn draining(opened: &Opened, group: String, count: usize, kind: Drain) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let consumer = flow.consumer("s", group).await;
        let mut consumer = consumer.expect("a consumer");
        let began = Instant::now();
        for at in 1..=count {
            let delivery = consumer.try_next().await.expect("a delivery");
            let delivery = delivery.expect("a consumer that was not shut down");
            match kind {
                Drain::Acking => delivery.ack(),
                Drain::Committing if at % BATCH == 0 => {
                    delivery.commit_through().await.expect("a commit");
                }
                // Covered by the commit that comes.
                Drain::Committing => drop(delivery),
            }
        }
        let took = began.elapsed();
        consumer.control().shutdown().await;
        count as f64 / took.as_secs_f64()
    })
}
