//! From the call of `send` to the delivery, one message at a time: in another process, and in the same.

use std::sync::Arc;
use std::time::Instant;

use flowstream::Message;
use futures::SinkExt;
use tokio::sync::{Mutex, mpsc};

use crate::child::{Child, Role, dated};
use crate::harness::{Bench, Limit};
use crate::raw::{connect, insert_blob};
use crate::server::{Link, Opened, Server};
use crate::support::run;
use crate::table::{Bar, Figure, Unit};

/// Not worth waiting for the disk.
const NOTIFY: &str = "WITH quick AS MATERIALIZED (
        SELECT set_config('synchronous_commit', 'off', true)
    ) SELECT pg_notify('bare', '') FROM quick";

pub(crate) fn measure(bench: &mut Bench, server: &Server, link: Link) {
    if bench.wants("latency to another process") {
        to_another_process(bench, server, link);
    }
    if bench.wants("latency in the process") {
        in_the_process(bench, server, link);
    }
}

fn figures(what: &str, link: Link) -> [Figure; 5] {
    ["p10", "p50", "p90", "p99", "p99.9"].map(|part| {
        let name = format!("{what}, {part}");
        Figure::new(name, link.name(), Unit::Micros)
    })
}

fn to_another_process(bench: &mut Bench, server: &Server, link: Link) {
    let figures = figures("latency to another process", link);
    let opened = Opened::new(server, link);
    let runtime = &opened.runtime;
    let count = bench.count(1_000);
    let url = opened.url();
    let consumer = Child::start(Role::Consume, &url, "s");
    let consumer = Arc::new(Mutex::new(consumer));
    let listener = Arc::new(Mutex::new(Child::start(Role::Hear, &url, "bare")));
    let connection = run(runtime, async move { connect(&url).await });
    let connection = Arc::new(Mutex::new(connection));
    bench.measure(
        figures,
        || {
            let (flow, consumer) = (opened.flow.clone(), consumer.clone());
            run(runtime, async move {
                let mut consumer = consumer.lock().await;
                let mut producer = flow.producer("s").await.expect("a producer");
                let mut times = Vec::with_capacity(count);
                for _ in 0..count {
                    let message = Message::new(dated().to_vec());
                    producer.send(message).await.expect("a durable message");
                    times.push(consumer.heard().await);
                }
                percentiles(times)
            })
        },
        vec![
            Limit::new("INSERT, NOTIFY, SELECT", || {
                let (connection, listener) = (connection.clone(), listener.clone());
                run(runtime, async move {
                    let mut connection = connection.lock().await;
                    let mut listener = listener.lock().await;
                    let mut times = Vec::with_capacity(count);
                    for _ in 0..count {
                        insert_blob(&mut connection, &dated()).await;
                        let told = sqlx::query(NOTIFY).execute(&mut *connection).await;
                        told.expect("a notification");
                        times.push(listener.heard().await);
                    }
                    percentiles(times)
                })
            })
            .bar(Bar::AtMost(2.0)),
        ],
    );
}

fn in_the_process(bench: &mut Bench, server: &Server, link: Link) {
    let figures = figures("latency in the process", link);
    let opened = Opened::new(server, link);
    let runtime = &opened.runtime;
    let count = bench.count(1_000);
    let url = opened.url();
    let connection = run(runtime, async move { connect(&url).await });
    let connection = Arc::new(Mutex::new(connection));
    bench.measure(
        figures,
        || {
            let flow = opened.flow.clone();
            run(runtime, async move {
                let mut producer = flow.producer("here").await.expect("a producer");
                let mut consumer = flow.consumer("here", "g").await.expect("a consumer");
                let (told, mut arrivals) = mpsc::channel(1);
                let consuming = tokio::spawn(async move {
                    for _ in 0..count {
                        let delivery = consumer.try_next().await.expect("a delivery");
                        let at = Instant::now();
                        delivery.expect("a consumer that goes on").ack();
                        told.send(at).await.expect("someone who asks");
                    }
                    consumer.control().shutdown().await;
                });
                let mut times = Vec::with_capacity(count);
                for _ in 0..count {
                    let began = Instant::now();
                    let message = Message::new(dated().to_vec());
                    producer.send(message).await.expect("a durable message");
                    let arrival: Instant = arrivals.recv().await.expect("a consumer");
                    times.push((arrival - began).as_nanos() as f64 / 1e3);
                }
                consuming.await.expect("a consumer that ended");
                percentiles(times)
            })
        },
        vec![
            Limit::new("INSERT", || {
                let connection = connection.clone();
                run(runtime, async move {
                    let mut connection = connection.lock().await;
                    let mut times = Vec::with_capacity(count);
                    for _ in 0..count {
                        let began = Instant::now();
                        insert_blob(&mut connection, &dated()).await;
                        times.push(began.elapsed().as_nanos() as f64 / 1e3);
                    }
                    percentiles(times)
                })
            })
            .bar(Bar::AtMost(1.1)),
        ],
    );
}

/// Of microseconds.
fn percentiles(mut times: Vec<f64>) -> [f64; 5] {
    times.sort_by(f64::total_cmp);
    [100, 500, 900, 990, 999].map(|part| times[(times.len() - 1) * part / 1_000])
}
