//! Sink → Stream inside one process, beside channels that promise nothing.

use std::time::Instant;

use flowstream::{Consumer, Delivery, Flowstream, Message};
use futures::{SinkExt, StreamExt};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::harness::{Bench, Limit};
use crate::support::{Flavour, SIZE, message, run};
use crate::table::{Bar, Figure, Unit};

/// What becomes of the deliveries.
#[derive(Debug, Clone, Copy)]
enum Verdicts {
    Ack,
    Commit,
    /// 64 at a time.
    Buffered(Verdict),
}

#[derive(Debug, Clone, Copy)]
enum Verdict {
    Ack,
    Commit,
}

pub(crate) fn measure(bench: &mut Bench) {
    use Verdicts::{Ack, Buffered, Commit};

    let cases = [
        ("ack", Ack, 2_000_000, Some(Bar::AtLeast(5e6))),
        ("commit().await", Commit, 400_000, Some(Bar::AtLeast(7e5))),
        (
            "buffer_unordered(64), ack",
            Buffered(Verdict::Ack),
            1_000_000,
            None,
        ),
        (
            "buffer_unordered(64), commit",
            Buffered(Verdict::Commit),
            1_000_000,
            None,
        ),
    ];
    for flavour in Flavour::ALL {
        for (name, verdicts, count, bar) in cases {
            let name = format!("memory: Sink → Stream, {name}");
            let mut figure = Figure::new(name, flavour.name(), Unit::Rate(SIZE));
            figure.bar = bar;
            let count = bench.count(count);
            let runtime = flavour.runtime();
            let limits = match verdicts {
                Commit => vec![Limit::new("round trip to a task", || {
                    [round_trips(&runtime, count)]
                })],
                Ack => vec![
                    Limit::new("tokio mpsc", || [tokio_mpsc(&runtime, count)]),
                    Limit::new("flume", || [flume(&runtime, count)]),
                    Limit::new("crossbeam, two threads", || [crossbeam(count)]),
                ],
                Buffered(_) => vec![Limit::new("tokio mpsc", || [tokio_mpsc(&runtime, count)])],
            };
            let ours = || [relay(&runtime, verdicts, count)];
            bench.measure([figure], ours, limits);
        }
    }
}

/// Messages a second through a fresh storage.
fn relay(runtime: &Runtime, verdicts: Verdicts, count: usize) -> f64 {
    run(runtime, async move {
        let flow = flowstream::open("memory:").await.expect("a storage");
        let mut consumer = flow.consumer("s", "g").await.expect("a consumer");
        let began = Instant::now();
        let feeding = tokio::spawn(feed(flow, count));
        match verdicts {
            Verdicts::Ack => {
                for _ in 0..count {
                    next(&mut consumer).await.ack();
                }
            }
            Verdicts::Commit => {
                for _ in 0..count {
                    next(&mut consumer).await.commit().await.expect("a commit");
                }
            }
            Verdicts::Buffered(verdict) => {
                let done = consumer.take(count).map(|delivery| async move {
                    let delivery = delivery.expect("a delivery");
                    match verdict {
                        Verdict::Ack => delivery.ack(),
                        Verdict::Commit => delivery.commit().await.expect("a commit"),
                    }
                });
                done.buffer_unordered(64).for_each(async |()| ()).await;
            }
        }
        let took = began.elapsed();
        feeding.await.expect("all fed");
        count as f64 / took.as_secs_f64()
    })
}

async fn feed(flow: Flowstream, count: usize) {
    let mut producer = flow.producer("s").await.expect("a producer");
    for _ in 0..count {
        producer.feed(message()).await.expect("room");
    }
    producer.close().await.expect("all written");
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = consumer.try_next().await.expect("a delivery");
    delivery.expect("a consumer that was not shut down")
}

/// Messages that a channel has room for.
const ROOM: usize = 1024;

/// Messages a second through a channel of tokio.
fn tokio_mpsc(runtime: &Runtime, count: usize) -> f64 {
    run(runtime, async move {
        let (sender, mut receiver) = mpsc::channel::<Message>(ROOM);
        let began = Instant::now();
        tokio::spawn(async move {
            for _ in 0..count {
                sender.send(message()).await.expect("a receiver");
            }
        });
        let mut received = 0;
        while receiver.recv().await.is_some() {
            received += 1;
        }
        assert_eq!(received, count);
        count as f64 / began.elapsed().as_secs_f64()
    })
}

/// The same with a channel of flume.
fn flume(runtime: &Runtime, count: usize) -> f64 {
    run(runtime, async move {
        let (sender, receiver) = flume::bounded::<Message>(ROOM);
        let began = Instant::now();
        tokio::spawn(async move {
            for _ in 0..count {
                sender.send_async(message()).await.expect("a receiver");
            }
        });
        let mut received = 0;
        while receiver.recv_async().await.is_ok() {
            received += 1;
        }
        assert_eq!(received, count);
        count as f64 / began.elapsed().as_secs_f64()
    })
}

/// The same with a channel of crossbeam, between two threads that may block.
fn crossbeam(count: usize) -> f64 {
    let (sender, receiver) = crossbeam_channel::bounded::<Message>(ROOM);
    let began = Instant::now();
    let sending = std::thread::spawn(move || {
        for _ in 0..count {
            sender.send(message()).expect("a receiver");
        }
    });
    assert_eq!(receiver.iter().count(), count);
    sending.join().expect("all sent");
    count as f64 / began.elapsed().as_secs_f64()
}

/// How often a second a task can ask another one and wait for the answer.
fn round_trips(runtime: &Runtime, count: usize) -> f64 {
    run(runtime, async move {
        let (sender, mut receiver) = mpsc::channel::<oneshot::Sender<()>>(1024);
        tokio::spawn(async move {
            while let Some(answer) = receiver.recv().await {
                let _ = answer.send(());
            }
        });
        let began = Instant::now();
        for _ in 0..count {
            let (answer, asked) = oneshot::channel();
            sender.send(answer).await.expect("a task");
            asked.await.expect("an answer");
        }
        count as f64 / began.elapsed().as_secs_f64()
    })
}
