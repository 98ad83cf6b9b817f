//! Many consumers of one group that come, work and go at random.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::rig::{FOR_EVER, LEASE, Rig, delivered, made, patient};
use crate::conformance::Harness;
use crate::conformance::generator::Random;
use crate::conformance::support::pause;
use crate::consumer::Consumer;
use crate::consumer::Delivery;
use crate::storage::Progress;

const MESSAGES: u64 = 150;
const CONSUMERS: u64 = 8;

/// What was seen, by all of them.
#[derive(Default)]
struct Seen {
    /// Which consumer delivered under an epoch.
    epochs: HashMap<u64, u64>,
    last_epoch: u64,
    delivered: HashSet<u64>,
    /// Commits that gave Ok.
    committed: HashSet<u64>,
    consumers: u64,
}

struct Storm {
    rig: Rig,
    lease: Duration,
    /// Whether leases end only by leaving.
    orderly: bool,
    seen: Mutex<Seen>,
}

pub(crate) async fn a_storm_of_consumers_does_each_message(harness: Arc<dyn Harness>) {
    storm(harness, FOR_EVER, true).await;
}

pub(crate) async fn a_storm_with_leases_that_run_out_ends(harness: Arc<dyn Harness>) {
    storm(harness, LEASE, false).await;
}

async fn storm(harness: Arc<dyn Harness>, lease: Duration, orderly: bool) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..MESSAGES / 2).await;
    let storm = Arc::new(Storm {
        rig: rig.clone(),
        lease,
        orderly,
        seen: Mutex::default(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..CONSUMERS {
        tasks.spawn(storm.clone().come_and_go(Random(seed)));
    }
    rig.fill("orders", MESSAGES / 2..MESSAGES).await;
    let all = async {
        while let Some(task) = tasks.join_next().await {
            task.expect("a consumer of the storm");
        }
    };
    rig.passing(LEASE / 20, "a storm ends with all done", all)
        .await;
    let delivered = storm.seen(|seen| seen.delivered.len() as u64);
    assert_eq!(delivered, MESSAGES, "each was delivered");
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(MESSAGES));
}

impl Storm {
    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn is_over(&self) -> bool {
        let state = self.rig.state("orders", "billing").await;
        state.progress == Progress::at(MESSAGES)
    }

    async fn come_and_go(self: Arc<Self>, mut random: Random) {
        let rig = match random.below(2) {
            0 => self.rig.clone(),
            _ => self.rig.another(),
        };
        loop {
            let consumer = self.seen(|seen| {
                seen.consumers += 1;
                seen.consumers
            });
            let builder = patient(rig.consumer("orders", "billing"));
            let builder = builder.lease(self.lease).redeliver_after(LEASE / 8);
            let mut stream = made(builder).await;
            self.work(consumer, &mut stream, &mut random).await;
            match random.below(3) {
                0 => drop(stream.control().shutdown()),
                1 => stream.control().shutdown().await,
                _ => {}
            }
            drop(stream);
            if self.is_over().await {
                return;
            }
        }
    }

    /// For so many looks at the storage: where that is slow, so is getting a lease.
    async fn idle(&self, moments: u64) {
        for _ in 0..=moments {
            pause().await;
            self.rig.state("orders", "billing").await;
        }
    }

    async fn work(&self, consumer: u64, stream: &mut Consumer, random: &mut Random) {
        let mut held = Vec::new();
        for _ in 0..random.below(12) {
            let next = tokio::select! {
                next = stream.next() => next,
                // None may come any more, or somebody else has the lease.
                () = self.idle(random.below(8)) => break,
            };
            let delivery = delivered(next);
            self.look(consumer, &delivery);
            match random.below(8) {
                0 => drop(delivery),
                1 => held.push(delivery),
                2 => {
                    held.clear();
                    self.commit(delivery).await;
                }
                _ => self.commit(delivery).await,
            }
        }
        for delivery in held {
            self.commit(delivery).await;
        }
    }

    fn look(&self, consumer: u64, delivery: &Delivery) {
        let (epoch, offset) = (delivery.epoch(), delivery.offset());
        self.seen(|seen| {
            let owner = *seen.epochs.entry(epoch).or_insert(consumer);
            assert_eq!(owner, consumer, "epoch {epoch} has two owners");
            seen.delivered.insert(offset);
            if self.orderly {
                assert!(!seen.committed.contains(&offset), "{offset} was committed");
                assert!(epoch >= seen.last_epoch, "epoch {epoch} was replaced");
                seen.last_epoch = epoch;
            }
        });
    }

    async fn commit(&self, delivery: Delivery) {
        let (offset, epoch) = (delivery.offset(), delivery.epoch());
        match delivery.commit().await {
            Ok(()) => self.seen(|seen| {
                seen.committed.insert(offset);
            }),
            Err(error) => assert!(
                error.is_fenced() && !self.orderly,
                "{offset} is committed under epoch {epoch}: {error}"
            ),
        }
    }
}
