//! What consumers cost that have nothing to do.

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::harness::Bench;
use crate::server::{Link, Opened, Server};
use crate::support::{run, thousands};
use crate::table::{Bar, Figure, Samples, Unit};

/// The server counts a transaction a second later at most, and those of the start are over by then.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) fn measure(bench: &mut Bench, server: &Server) {
    // Each on a stream of its own: what is watched is as much as can be.
    let count = if bench.quick { 50 } else { 1_000 };
    let name = format!("idle: transactions, {} consumers", thousands(count));
    if !bench.wants(&name) {
        return;
    }
    let opened = Opened::new(server, Link::Socket);
    let flow = opened.flow.clone();
    let consumers = run(&opened.runtime, async move {
        let starting = (0..count).map(async |number| {
            let consumer = flow.consumer(format!("s{number}"), "g").await;
            let mut consumer = consumer.expect("a consumer");
            let control = consumer.control();
            let waiting = tokio::spawn(async move { consumer.next().await.is_none() });
            control.wait_for(|status| status.is_active()).await;
            (control, waiting)
        });
        join_all(starting).await
    });
    std::thread::sleep(SETTLE);
    let windows = if bench.quick { 1 } else { 5 };
    let transactions = || {
        let database = &opened.database.name;
        let sql = format!(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{database}'"
        );
        server.number("postgres", &sql)
    };
    let samples = (0..windows).map(|_| {
        let (before, began) = (transactions(), Instant::now());
        std::thread::sleep(Duration::from_secs(if bench.quick { 2 } else { 4 }));
        (transactions() - before) / began.elapsed().as_secs_f64()
    });
    let samples = Samples(samples.collect());
    // One query a second may fall twice into a window of four.
    let figure = Figure::new(name, Link::Socket.name(), Unit::Operations).bar(Bar::AtMost(1.25));
    bench.report(figure, samples, vec![]);
    run(&opened.runtime, async move {
        for (control, waiting) in consumers {
            control.shutdown().await;
            assert!(waiting.await.expect("it ran"), "nothing to deliver");
        }
    });
}
