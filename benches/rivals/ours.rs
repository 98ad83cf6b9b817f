//! This crate, through the Sink and the Stream.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use flowstream::Flowstream;
use futures::SinkExt;
use tokio::runtime::Runtime;

use crate::BATCH;
use crate::server::{Link, Opened, Server};
use crate::sides::{Rival, per_second, rest};
use crate::support::{Flavour, Place, message, run};

/// How many batches are read.
const BATCHES: usize = 400;

pub(crate) struct Ours<'a> {
    name: &'static str,
    flow: Flowstream,
    /// What receives: connections of its own, where there are some.
    other: Flowstream,
    groups: usize,
    // Goes last: what is open is closed while there is a runtime, and a database.
    home: Home<'a>,
}

enum Home<'a> {
    Postgres(Opened<'a>),
    Redb(
        Runtime,
        #[expect(dead_code, reason = "keeps the file")] Place,
    ),
}

impl<'a> Ours<'a> {
    pub(crate) fn on_postgres(server: &'a Server) -> Self {
        let opened = Opened::new(server, Link::Socket);
        let url = opened.url();
        let other = run(&opened.runtime, async move { flowstream::open(&url).await });
        Self {
            name: "flowstream, PostgreSQL",
            flow: opened.flow.clone(),
            other: other.expect("a storage"),
            groups: 0,
            home: Home::Postgres(opened),
        }
    }
}

impl Ours<'static> {
    pub(crate) fn on_redb() -> Self {
        let (runtime, place) = (Flavour::Multi.runtime(), Place::new());
        let url = place.url("rival.redb");
        let flow = run(&runtime, async move { flowstream::open(&url).await });
        let flow = flow.expect("a storage");
        Self {
            name: "flowstream, redb",
            other: flow.clone(),
            flow,
            groups: 0,
            home: Home::Redb(runtime, place),
        }
    }
}

impl Ours<'_> {
    fn runtime(&self) -> &Runtime {
        match &self.home {
            Home::Postgres(opened) => &opened.runtime,
            Home::Redb(runtime, _) => runtime,
        }
    }
}

impl Rival for Ours<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> String {
        format!("{}, an fsync for each batch", env!("CARGO_PKG_VERSION"))
    }

    fn produce(&mut self, window: Duration) -> f64 {
        let flow = self.flow.clone();
        run(self.runtime(), async move {
            let mut producer = flow.producer("produce").await.expect("a producer");
            let began = Instant::now();
            let mut batches = 0;
            while began.elapsed() < window {
                for _ in 0..BATCH {
                    producer.feed(message()).await.expect("room");
                }
                producer.flush().await.expect("all written");
                batches += 1;
            }
            per_second(batches, began)
        })
    }

    fn consume(&mut self, part: usize) -> f64 {
        let batches = BATCHES / part;
        let (flow, other) = (self.flow.clone(), self.other.clone());
        self.groups += 1;
        let number = self.groups;
        run(self.runtime(), async move {
            if number == 1 {
                let mut producer = flow.producer("consume").await.expect("a producer");
                for _ in 0..batches * BATCH {
                    producer.feed(message()).await.expect("room");
                }
                producer.close().await.expect("all written");
            }
            let consumer = other.consumer("consume", format!("g{number}")).await;
            let mut consumer = consumer.expect("a consumer");
            let control = consumer.control();
            let began = Instant::now();
            for at in 1..=batches * BATCH {
                let delivery = consumer.try_next().await.expect("a delivery");
                let delivery = delivery.expect("a consumer that was not shut down");
                // What is dropped is covered by the commit that comes.
                if at % BATCH == 0 {
                    delivery.commit_through().await.expect("a commit");
                }
            }
            let rate = per_second(batches, began);
            control.shutdown().await;
            rate
        })
    }

    fn delivery(&mut self, count: usize) -> f64 {
        let (flow, other) = (self.flow.clone(), self.other.clone());
        let (seen, arrivals) = mpsc::channel();
        let control = run(self.runtime(), async move {
            let consumer = other.consumer("delivery", "g").await;
            let mut consumer = consumer.expect("a consumer");
            let control = consumer.control();
            tokio::spawn(async move {
                while let Some(delivery) = consumer.try_next().await.expect("a delivery") {
                    let at = Instant::now();
                    delivery.ack();
                    if seen.send(at).is_err() {
                        return;
                    }
                }
            });
            control.wait_for(|status| status.is_active()).await;
            control
        });
        let times = run(self.runtime(), async move {
            let mut producer = flow.producer("delivery").await.expect("a producer");
            let mut times = Vec::with_capacity(count);
            for number in 0..count {
                tokio::task::block_in_place(|| rest(number));
                let began = Instant::now();
                producer.send(message()).await.expect("a durable message");
                let arrival = tokio::task::block_in_place(|| arrivals.recv());
                times.push(arrival.expect("a consumer") - began);
            }
            times.sort_unstable();
            times
        });
        run(self.runtime(), async move { control.shutdown().await });
        times[(count - 1) / 2].as_nanos() as f64 / 1e3
    }
}
