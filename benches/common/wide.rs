//! What a partition costs where a stream has many, beside what it costs where it has a hundred.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowstream::storage::Storage;
use flowstream::{Batch, Flowstream, Message, Options};
use tokio::runtime::Runtime;

use super::growth::separated;
use super::harness::Bench;
use super::support::run;
use super::table::{Bar, Beside, Figure, Samples, Unit};

const LEAST: u32 = 100;
/// Of each partition in one append, in the mean.
const MESSAGES: u32 = 5;
const OPERATIONS: [&str; 3] = ["append", "build a consumer", "groups"];
/// The cost of a partition is at most half as much again.
const BAR: Bar = Bar::AtLeast(1.0 / 1.5);

/// Measures what each does a second, in partitions: one append to all of them; the build of a consumer for
/// a new group; the list of a group that has something to do in each.
pub(crate) fn measure(
    bench: &mut Bench,
    storage: &str,
    setting: &'static str,
    runtime: &Runtime,
    mut make: impl FnMut(u32) -> Wide,
) {
    let sizes: &[u32] = if bench.quick {
        &[300]
    } else {
        &[1_000, 10_000]
    };
    for &size in sizes {
        let figures = OPERATIONS.map(|operation| {
            let size = separated(size as usize);
            let name = format!("{storage}growth: {operation}, {size} partitions");
            Figure::new(name, setting, Unit::Operations)
        });
        if !figures.iter().any(|figure| bench.wants(&figure.name)) {
            continue;
        }
        let (mut large, mut small) = (make(size), make(LEAST));
        let rounds = if bench.quick { 1 } else { 5 };
        let [mut own, mut beside] = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            let samples = (large.work(runtime, 1), small.work(runtime, size / LEAST));
            // The first round warms up.
            if round > 0 {
                own.push(samples.0);
                beside.push(samples.1);
            }
        }
        for (index, figure) in figures.into_iter().enumerate() {
            let of = |all: &[[f64; 3]]| Samples(all.iter().map(|sample| sample[index]).collect());
            let beside = Beside {
                name: "100 partitions",
                bar: Some(BAR),
                samples: of(&beside),
            };
            bench.report(figure, of(&own), vec![beside]);
        }
    }
}

/// A storage with streams of so many partitions.
pub(crate) struct Wide {
    flow: Flowstream,
    partitions: u32,
    built: u32,
    /// What has to stay as long as the storage is open.
    _home: Box<dyn std::any::Any>,
}

impl Wide {
    pub(crate) fn new(
        runtime: &Runtime,
        storage: Arc<dyn Storage>,
        partitions: u32,
        home: impl std::any::Any,
    ) -> Self {
        let flow = Options::new().open_storage(storage);
        let made = flow.clone();
        run(runtime, async move {
            for stream in ["wide", "listed"] {
                let created = made.create_stream(stream, partitions).await;
                created.expect("a stream");
            }
            append(&made, "listed", partitions).await;
            made.consumer("listed", "g").await.expect("a consumer");
        });
        Self {
            flow,
            partitions,
            built: 0,
            _home: Box::new(home),
        }
    }

    /// Partitions a second of each operation, done so often.
    fn work(&mut self, runtime: &Runtime, times: u32) -> [f64; 3] {
        let (flow, partitions, built) = (self.flow.clone(), self.partitions, self.built);
        self.built += times;
        run(runtime, async move {
            let rate = |took: Duration| f64::from(partitions * times) / took.as_secs_f64();
            let mut appending = Duration::ZERO;
            for _ in 0..times {
                appending += append(&flow, "wide", partitions).await;
            }
            let began = Instant::now();
            for group in built..built + times {
                let building = flow.consumer("wide", format!("g{group}"));
                // Nothing of it has begun.
                drop(building.await.expect("a consumer"));
            }
            let building = began.elapsed();
            let began = Instant::now();
            for _ in 0..times {
                let groups = flow.groups("listed").await.expect("the groups");
                assert_eq!(groups.len(), partitions as usize);
            }
            [rate(appending), rate(building), rate(began.elapsed())]
        })
    }
}

/// One append to almost all partitions, and how long it took.
async fn append(flow: &Flowstream, stream: &str, partitions: u32) -> Duration {
    let message = |key: u32| Message::new(vec![7; 20]).with_key(key.to_string());
    let batch: Batch = (0..MESSAGES * partitions).map(message).collect();
    let mut producer = flow.producer(stream).await.expect("a producer");
    let began = Instant::now();
    producer.append(batch).await.expect("an append");
    began.elapsed()
}
