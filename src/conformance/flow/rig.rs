//! A `Flowstream` on the storage under test, with what most checks do.

use std::ops::{Deref, Range};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::sink::{HarnessClock, feed, flush};
use crate::conformance::Harness;
use crate::conformance::build::{append, claim, name, row};
use crate::conformance::support::{Subject, pause};
use crate::consumer::Delivery;
use crate::consumer::{Consumer, ConsumerBuilder, Control};
use crate::error::Result;
use crate::flowstream::Flowstream;
use crate::options::Options;
use crate::producer::Producer;
use crate::storage::{Group, GroupState, Lease, Partition, Storage};

/// Longer than any check: such a lease does not run out.
pub(super) const FOR_EVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Short enough to pass for real.
pub(super) const LEASE: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(super) struct Rig {
    pub(super) subject: Subject,
    flow: Flowstream,
}

impl Deref for Rig {
    type Target = Flowstream;

    fn deref(&self) -> &Flowstream {
        &self.flow
    }
}

impl Rig {
    pub(super) fn new(harness: Arc<dyn Harness>) -> Self {
        let subject = Subject::new(harness);
        let flow = open(&subject, subject.harness.storage());
        Self { subject, flow }
    }

    /// Another `Flowstream` on the same storage, as in another process.
    pub(super) fn another(&self) -> Self {
        Self::new(self.subject.harness.clone())
    }

    /// One on a storage that wraps the one under test, or that is another.
    pub(super) fn on(&self, storage: Arc<dyn Storage>) -> Flowstream {
        open(&self.subject, storage)
    }

    /// One that takes no larger messages.
    pub(super) fn limited(harness: Arc<dyn Harness>, max_message_bytes: usize) -> Flowstream {
        Options::new()
            .clock(HarnessClock(harness.clock()))
            .max_message_bytes(max_message_bytes)
            .open_storage(harness.storage())
    }

    /// One that tries nothing again by itself.
    pub(super) fn hasty(&self, storage: Arc<dyn Storage>) -> Flowstream {
        Options::new()
            .clock(HarnessClock(self.subject.harness.clock()))
            .retry_for(Duration::ZERO)
            .open_storage(storage)
    }

    /// Closes and opens it again; false if it does not outlive its process.
    pub(super) async fn reopen(&mut self) -> bool {
        if !self.subject.reopen().await {
            return false;
        }
        self.flow = open(&self.subject, self.subject.harness.storage());
        true
    }

    pub(super) async fn makes(&self, stream: &str) -> Producer {
        let producer = self.flow.producer(stream).await;
        producer.unwrap_or_else(|error| panic!("a producer of {stream}: {error}"))
    }

    /// A consumer whose lease does not run out.
    pub(super) async fn takes(&self, stream: &str, group: &str) -> Consumer {
        made(patient(self.consumer(stream, group))).await
    }

    /// A consumer whose lease the harness can let run out.
    pub(super) async fn leases(&self, stream: &str, group: &str) -> Consumer {
        self.leases_for(LEASE, stream, group).await
    }

    /// A consumer with a lease of this length.
    pub(super) async fn leases_for(&self, lease: Duration, stream: &str, group: &str) -> Consumer {
        let builder = patient(self.consumer(stream, group));
        made(builder.lease(lease)).await
    }

    /// Sends numbers, each a message, and waits until they are durable.
    pub(super) async fn fill(&self, stream: &str, numbers: Range<u64>) {
        let mut producer = self.makes(stream).await;
        for number in numbers {
            let fed = feed(&mut producer, number.to_string()).await;
            fed.unwrap_or_else(|error| panic!("{number} is taken: {error}"));
        }
        let flushed = flush(&mut producer).await;
        flushed.unwrap_or_else(|error| panic!("what was taken is written: {error}"));
    }

    /// All bodies in partition 0, one after the other, as text.
    pub(super) async fn text(&self, stream: &str) -> String {
        self.subject.text(&partition(stream)).await
    }

    /// All bodies in partition 0, as numbers.
    pub(super) async fn numbers(&self, stream: &str) -> Vec<u64> {
        let log = self.subject.log(&partition(stream)).await;
        log.iter().map(|(_, body)| number_of(body)).collect()
    }

    /// The next delivery of a consumer, which has to come.
    pub(super) async fn next(&self, consumer: &mut Consumer) -> Delivery {
        let what = "a consumer gets the next message";
        let next = self.subject.within(what, consumer.next()).await;
        delivered(next)
    }

    /// The next deliveries, whose offsets have to be these, each of a message that is its offset.
    pub(super) async fn expect(
        &self,
        consumer: &mut Consumer,
        offsets: Range<u64>,
    ) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for offset in offsets {
            let delivery = self.next(consumer).await;
            assert_eq!(delivery.offset(), offset, "in the order of the log");
            assert_eq!(number_of(delivery.body()), offset, "the message itself");
            deliveries.push(delivery);
        }
        deliveries
    }

    pub(super) async fn shut_down(&self, control: &Control) {
        let what = "a shutdown ends";
        self.subject.within(what, control.shutdown()).await;
    }

    pub(super) async fn state(&self, stream: &str, group: &str) -> GroupState {
        self.subject.state(&of(stream, group)).await
    }

    /// Another owner takes the lease, as after a death of the one who has it.
    pub(super) async fn takes_over(&self, stream: &str, group: &str) -> Lease {
        let group = of(stream, group);
        let what = "a lease is taken over";
        self.subject
            .within(what, async {
                loop {
                    // The owner may write between the two.
                    let state = self.subject.state(&group).await;
                    let claim = claim(&group, Some((state.epoch, state.generation)));
                    let owner = claim.owner;
                    let state = self.subject.claim(claim).await.expect("an answer");
                    if state.owner == Some(owner) {
                        let (group, epoch) = (group.clone(), state.epoch);
                        return Lease {
                            group,
                            owner,
                            epoch,
                        };
                    }
                }
            })
            .await
    }

    /// What `future` gives, while time passes in such steps. Between two there is time for a write,
    /// so that no lease runs out because the storage is slow.
    pub(super) async fn passing<T>(
        &self,
        step: Duration,
        what: &str,
        future: impl Future<Output = T>,
    ) -> T {
        let mut future = pin!(future);
        let passing = async {
            loop {
                tokio::select! {
                    biased;
                    done = &mut future => return done,
                    () = pause() => {}
                }
                self.write().await;
                self.subject.harness.pass(step).await;
            }
        };
        self.subject.within(what, passing).await
    }

    /// Some write; one that breaks off has taken its time, too.
    async fn write(&self) {
        let pace = partition("pace");
        let _ = self.subject.create_stream(&pace.stream, None).await;
        let _ = self.subject.append(append([row(&pace, &["pace"])])).await;
    }
}

/// A check of leases that hold while time passes. Where one is lost, the machine may have been too busy
/// for it, which proves nothing: then the check is made again, on another stream, with a lease four
/// times as long. The third one has to hold. Any other error is one at once.
pub(super) async fn unhurried<F>(
    harness: Arc<dyn Harness>,
    check: impl Fn(Rig, Duration, &'static str) -> F,
) where
    F: Future<Output = Result<()>>,
{
    let rig = Rig::new(harness);
    let attempts = [(1, "orders"), (4, "orders-again"), (16, "orders-at-last")];
    let mut lost = None;
    for (times, stream) in attempts {
        match check(rig.clone(), LEASE * times, stream).await {
            Ok(()) => return,
            Err(error) if error.is_fenced() => lost = Some(error),
            Err(error) => panic!("a commit: {error:?}"),
        }
    }
    panic!("a lease of {:?} holds: {lost:?}", LEASE * 16);
}

fn open(subject: &Subject, storage: Arc<dyn Storage>) -> Flowstream {
    Options::new()
        .clock(HarnessClock(subject.harness.clock()))
        .open_storage(storage)
}

/// Settings with which nothing runs out by itself.
pub(super) fn patient(builder: ConsumerBuilder) -> ConsumerBuilder {
    builder
        .lease(FOR_EVER)
        .max_processing(FOR_EVER)
        .drain(FOR_EVER)
}

pub(super) async fn made(builder: ConsumerBuilder) -> Consumer {
    builder
        .await
        .unwrap_or_else(|error| panic!("a consumer is made: {error}"))
}

pub(super) fn delivered(next: Option<Result<Delivery>>) -> Delivery {
    match next {
        Some(Ok(delivery)) => delivery,
        other => panic!("a consumer gives a delivery, and not {other:?}"),
    }
}

pub(super) fn partition(stream: &str) -> Partition {
    Partition {
        stream: name(stream),
        index: 0,
    }
}

pub(super) fn of(stream: &str, group: &str) -> Group {
    Group {
        partition: partition(stream),
        name: name(group),
    }
}

pub(super) fn number_of(body: &[u8]) -> u64 {
    let text = std::str::from_utf8(body).expect("a body of this check is text");
    text.parse().expect("a body of this check is a number")
}
