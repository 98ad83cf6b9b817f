//! Several that produce at once, in one process and in as many.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::child::{Child, Role};
use crate::harness::{Bench, Limit};
use crate::produce::flush_for;
use crate::raw::Raw;
use crate::server::{Database, Link, Opened, Server};
use crate::support::{SIZE, run};
use crate::table::{Bar, Figure, Unit};

const BATCH: [usize; 2] = [1_000, SIZE];

pub(crate) fn measure(bench: &mut Bench, server: &Server, link: Link) {
    for count in [2, 4, 8] {
        producers(bench, server, link, count);
        for is_shared in [true, false] {
            let places = if is_shared { "one" } else { "as many" };
            let name = format!("processes: {count} on {places}, flush each 1,000");
            if !bench.wants(&name) {
                continue;
            }
            let database = Database::new(server);
            let url = database.url(link);
            // Whoever opens first makes the schema; not in a window.
            let mut ours: Vec<Child> = (0..count)
                .map(|number| match is_shared {
                    true => Child::start(Role::Produce, &url, "s"),
                    false => Child::start(Role::Produce, &url, &format!("s{number}")),
                })
                .collect();
            let mut blobs: Vec<Child> = (0..count)
                .map(|_| Child::start(Role::Blobs, &url, ""))
                .collect();
            let mut one = Child::start(Role::Blobs, &url, "");
            let window = bench.window;
            bench.measure(
                [Figure::new(name, link.name(), Unit::Rate(SIZE))],
                || [all(&mut ours, window)],
                vec![
                    Limit::new("one with blobs", || {
                        [all(std::slice::from_mut(&mut one), window)]
                    })
                    .bar(is_shared.then_some(Bar::AtLeast(1.0))),
                    Limit::new("as many with blobs", || [all(&mut blobs, window)]),
                ],
            );
        }
    }
}

fn producers(bench: &mut Bench, server: &Server, link: Link, count: usize) {
    let name = format!("producers: {count} on one, flush each 1,000");
    if !bench.wants(&name) {
        return;
    }
    let opened = Opened::new(server, link);
    let raw = Raw::connect(&opened.runtime, opened.url());
    let window = bench.window;
    bench.measure(
        [Figure::new(name, link.name(), Unit::Rate(SIZE))],
        || [flushing(&opened, count, window)],
        vec![
            Limit::new("one with blobs", || {
                [raw.blobs(&opened.runtime, BATCH, window)]
            })
            .bar(Bar::AtLeast(1.0)),
        ],
    );
}

/// All in this process: messages a second, together.
fn flushing(opened: &Opened<'_>, count: usize, window: Duration) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let began = Instant::now();
        let mut running = JoinSet::new();
        for _ in 0..count {
            let flow = flow.clone();
            running.spawn(async move { flush_for(&flow, "s", BATCH, window).await });
        }
        let sent: usize = running.join_all().await.into_iter().sum();
        sent as f64 / began.elapsed().as_secs_f64()
    })
}

/// All at once: messages a second, together.
fn all(children: &mut [Child], window: Duration) -> f64 {
    for child in &mut *children {
        child.tell(&window.as_millis().to_string());
    }
    children.iter_mut().map(Child::hear).sum()
}
