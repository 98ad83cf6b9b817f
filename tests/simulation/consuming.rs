//! Pipelines: handlers that commit, forget, hesitate and come to harm, and those that copy.

use std::future::IntoFuture;
use std::time::Duration;

use flowstream::{Batch, Commit, Committing, Consumer, Delivery, Flowstream, Producer};
use futures::{FutureExt, SinkExt};

use crate::history::{Event, Owner};
use crate::producing::body;
use crate::run::{Kind, Mistake, Run, State};
use crate::world::PATIENCE;

/// A pipeline for a group, for as long as its consumer is not shut down.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) run: Run,
    pub(crate) flow: Flowstream,
    pub(crate) plan: Plan,
}

/// What a group does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) number: usize,
    /// Of all streams that are consumed.
    pub(crate) partitions: usize,
    pub(crate) stream: &'static str,
    pub(crate) name: &'static str,
    /// Where it copies to.
    pub(crate) to: Option<&'static str>,
    pub(crate) lease: Duration,
    /// The lease as this process knows it.
    pub(crate) trust: Duration,
    pub(crate) max_processing: Duration,
    pub(crate) max_attempts: Option<u32>,
}

impl Plan {
    /// Whether a pipeline that keeps a message to itself loses its lease before all has to be done.
    fn gives_up_soon(&self) -> bool {
        self.max_processing < PATIENCE
    }
}

/// The first message of a consumer that came again, or has not.
struct Reader {
    run: Run,
    /// The place in the history of the group at partition 0; those at the others follow.
    first_group: usize,
    consumer: Consumer,
    number: u32,
    /// It was told that the stream ends.
    is_broken: bool,
}

impl Pipeline {
    pub(crate) async fn consumer(&self) -> Consumer {
        let plan = &self.plan;
        let building = || {
            let builder = self
                .flow
                .consumer(plan.stream, plan.name)
                .lease(plan.trust)
                .max_processing(plan.max_processing)
                .drain(Duration::from_millis(700))
                .redeliver_after(Duration::from_millis(400))
                // A read gives few batches.
                .prefetch(64);
            match plan.max_attempts {
                Some(attempts) => builder.max_attempts(attempts).dead_letters("dead"),
                None => builder,
            }
            .into_future()
        };
        self.run.persist(building).await
    }

    /// Until the stream ends; says whether it broke.
    pub(crate) async fn consume(&self, consumer: Consumer, number: u32) -> bool {
        let mut reader = Reader {
            run: self.run.clone(),
            first_group: self.plan.number * self.plan.partitions,
            consumer,
            number,
            is_broken: false,
        };
        if self.plan.trust > self.plan.lease {
            let clocks = |it: &mut State| it.history.with_wrong_clocks.insert(number);
            self.run.with(clocks);
        }
        match self.plan.to {
            None => self.handle(&mut reader).await,
            Some(to) => self.copy(&mut reader, to).await,
        }
        reader.is_broken
    }

    async fn handle(&self, reader: &mut Reader) {
        while let Some((owner, delivery)) = reader.next().await {
            if self.run.is_calm() {
                self.spawn_commit(owner, delivery);
                continue;
            }
            match self.run.below(20) {
                0..5 => commit(&self.run, owner, delivery).await,
                5..10 => self.spawn_commit(owner, delivery),
                10 if self.plan.max_attempts.is_none() => {
                    commit_through(&self.run, owner, delivery).await;
                }
                10..13 => {
                    self.run.push(asked(owner, delivery.offset()));
                    delivery.ack();
                }
                13 if self.run.has(Mistake::KeepsWhatItDrops) => self.run.keep(delivery),
                13 => self.run.count(Kind::DroppedDelivery),
                14 | 15 => self.retry(owner, delivery),
                16 => self.hold(owner, delivery),
                17 => {
                    self.run.count(Kind::DroppedCommit);
                    self.run.push(asked(owner, delivery.offset()));
                    let _ = delivery.commit().now_or_never();
                }
                18 => {
                    // The handler takes its time, and the consumer is not polled.
                    self.run.sleep_below(300).await;
                    commit(&self.run, owner, delivery).await;
                }
                _ => {
                    let (_, handle) = delivery.into_parts();
                    self.run.sleep_below(100).await;
                    self.commit_handle(owner, handle).await;
                }
            }
        }
    }

    fn spawn_commit(&self, owner: Owner, delivery: Delivery) {
        let run = self.run.clone();
        let is_late = !run.is_calm() && run.chance(50);
        tokio::spawn(async move {
            if is_late {
                run.sleep_below(200).await;
            }
            commit(&run, owner, delivery).await;
        });
    }

    fn retry(&self, owner: Owner, delivery: Delivery) {
        self.run.count(Kind::Retry);
        self.run.push(Event::Retried {
            owner,
            offset: delivery.offset(),
        });
        delivery.retry_after(self.run.time_below(800));
    }

    /// Holds it for longer than a lease.
    fn hold(&self, owner: Owner, delivery: Delivery) {
        self.run.count(Kind::HeldForLong);
        let (run, lease) = (self.run.clone(), self.plan.lease);
        let time = lease + run.time_below(2_000);
        tokio::spawn(async move {
            run.time.sleep(time).await;
            commit(&run, owner, delivery).await;
        });
    }

    async fn commit_handle(&self, owner: Owner, handle: Commit) {
        let offset = handle.offset();
        self.run.push(asked(owner, offset));
        finish(&self.run, owner, offset, handle.commit()).await;
    }

    /// What comes is written to another stream, with its commit.
    async fn copy(&self, reader: &mut Reader, to: &str) {
        let building = || {
            let messages = 1 + self.run.below(3);
            self.flow
                .producer(to)
                .batch_messages(messages)
                .into_future()
        };
        let mut producer = self.run.persist(building).await;
        while let Some((owner, delivery)) = reader.next().await {
            self.run.push(asked(owner, delivery.offset()));
            let message = delivery.into_message();
            match self.run.below(3) {
                // It leaves with the next ones, or with the consumer, which is taken for stuck then.
                0 if !self.run.is_calm() && self.plan.gives_up_soon() => {
                    let _ = producer.feed(message).await;
                }
                0 | 1 => {
                    let _ = producer.feed(message).await;
                    flush(&self.run, &mut producer).await;
                }
                _ => {
                    flush(&self.run, &mut producer).await;
                    self.append(&mut producer, Batch::from(message)).await;
                }
            }
        }
        flush(&self.run, &mut producer).await;
    }

    async fn append(&self, producer: &mut Producer, mut batch: Batch) {
        while let Err(failed) = producer.append(batch).await {
            if failed.is_fenced() {
                return self.run.count(Kind::AppendFenced);
            }
            self.run.pause(&failed.error).await;
            batch = failed.unsent;
        }
    }
}

impl Reader {
    async fn next(&mut self) -> Option<(Owner, Delivery)> {
        loop {
            let Some(next) = self.consumer.next().await else {
                self.run.push(Event::Ended {
                    consumer: self.number,
                });
                return None;
            };
            match next {
                Ok(delivery) => {
                    let owner = Owner {
                        group: self.first_group + delivery.partition() as usize,
                        consumer: self.number,
                        epoch: delivery.epoch(),
                    };
                    if delivery.attempt() > 1 {
                        self.run.count(Kind::DeliveredAgain);
                    }
                    let message = body(delivery.message());
                    self.run.delivered(owner, delivery.offset(), message);
                    return Some((owner, delivery));
                }
                Err(error) => {
                    self.run.expect(&error);
                    self.run.count(Kind::StreamError);
                    if !error.is_transient() || self.run.has(Mistake::TakesErrorsForTheEnd) {
                        self.broke();
                    }
                    self.run.note(&"error");
                }
            }
        }
    }

    fn broke(&mut self) {
        self.run.count(Kind::StreamBroken);
        self.is_broken = true;
        self.run.push(Event::Broken {
            consumer: self.number,
        });
    }
}

async fn flush(run: &Run, producer: &mut Producer) {
    while let Err(error) = producer.flush().await {
        run.pause(&error).await;
    }
}

fn asked(owner: Owner, offset: u64) -> Event {
    Event::Asked {
        owner,
        offset,
        through: false,
    }
}

async fn commit(run: &Run, owner: Owner, delivery: Delivery) {
    let offset = delivery.offset();
    run.push(asked(owner, offset));
    finish(run, owner, offset, delivery.commit()).await;
}

async fn commit_through(run: &Run, owner: Owner, delivery: Delivery) {
    let offset = delivery.offset();
    run.push(Event::Asked {
        owner,
        offset,
        through: true,
    });
    finish(run, owner, offset, delivery.commit_through()).await;
}

async fn finish(run: &Run, owner: Owner, offset: u64, committing: Committing) {
    run.push(match committing.await {
        Ok(()) => Event::Committed { owner, offset },
        // One that is transient goes with the next write.
        Err(error) if !error.in_doubt() && !error.is_transient() => {
            run.count(Kind::CommitFenced);
            Event::Refused { owner, offset }
        }
        Err(_) => {
            run.count(Kind::CommitUnknown);
            Event::Unknown { owner, offset }
        }
    });
}
