//! Random operations against a model that is too simple to be wrong.

mod support;

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::time::Duration;

use flowstream::storage::Start;
use flowstream::{Consumer, Delivery, ErrorKind, Message, Producer, Result};
use futures::{FutureExt, SinkExt};
use proptest::prelude::*;
use support::*;

const LEASE: Duration = Duration::from_secs(30);
const AFTER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
enum Op {
    Feed(u8),
    Flush,
    Append(u8),
    Consume(u8),
    Commit(usize),
    CommitThrough(usize),
    CommitDropped(usize),
    Ack(usize),
    Drop(usize),
    Retry(usize, u8),
    Bury(usize),
    BuryDropped(usize),
    Relay(usize),
    Shutdown,
    DropConsumer,
    Fence,
    Evict,
    Reset(u64),
    Trim(u64),
    Reopen,
    Pass(u8),
    Fail(u8),
    Lose(u8),
    Late(u8),
    LetGo,
    Hesitate(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0usize..100;
    prop_oneof![
        3 => (1u8..5).prop_map(Op::Feed),
        2 => Just(Op::Flush),
        2 => (1u8..5).prop_map(Op::Append),
        6 => (1u8..6).prop_map(Op::Consume),
        3 => at().prop_map(Op::Commit),
        1 => at().prop_map(Op::CommitThrough),
        1 => at().prop_map(Op::CommitDropped),
        3 => at().prop_map(Op::Ack),
        2 => at().prop_map(Op::Drop),
        2 => (at(), 0u8..8).prop_map(|(at, after)| Op::Retry(at, after)),
        1 => at().prop_map(Op::Bury),
        1 => at().prop_map(Op::BuryDropped),
        2 => at().prop_map(Op::Relay),
        1 => Just(Op::Shutdown),
        1 => Just(Op::DropConsumer),
        1 => Just(Op::Fence),
        1 => Just(Op::Evict),
        1 => (0u64..100).prop_map(Op::Reset),
        1 => (0u64..10).prop_map(Op::Trim),
        1 => Just(Op::Reopen),
        2 => (1u8..10).prop_map(Op::Pass),
        1 => (0u8..4).prop_map(Op::Fail),
        1 => (0u8..4).prop_map(Op::Lose),
        1 => (0u8..4).prop_map(Op::Late),
        1 => Just(Op::LetGo),
        1 => (0u8..3).prop_map(Op::Hesitate),
    ]
}

enum Sink {
    In,
    Out,
}

struct Run {
    world: World,
    producer: Producer,
    relay: Producer,
    consumer: Option<Consumer>,
    held: Vec<Delivery>,
    /// Offsets that are to be retried and have not come again.
    waiting: BTreeSet<u64>,
    /// What was given to the producer, in order.
    sent: u64,
    /// Offsets whose commit resolved with Ok, or whose relay did.
    durable: BTreeSet<u64>,
    epoch: u64,
    /// Where the log starts.
    start: u64,
    /// Whether the group was moved: then messages may be relayed once more.
    is_moved: bool,
}

impl Run {
    async fn new() -> Self {
        let world = world().await;
        let producer = world.flow.producer("in").batch_messages(3).await.unwrap();
        let relay = world.flow.producer("out").await.unwrap();
        drop(world.flow.consumer("in", "group").await.unwrap());
        world.flow.producer("in.group.dead").await.unwrap();
        Self {
            world,
            producer,
            relay,
            consumer: None,
            held: Vec::new(),
            waiting: BTreeSet::new(),
            sent: 0,
            durable: BTreeSet::new(),
            epoch: 0,
            start: 0,
            is_moved: false,
        }
    }

    fn message(&mut self) -> Message {
        self.sent += 1;
        (self.sent - 1).to_string().into()
    }

    fn take(&mut self, at: usize) -> Option<Delivery> {
        (!self.held.is_empty()).then(|| self.held.swap_remove(at % self.held.len()))
    }

    fn got(&mut self, delivery: Delivery) {
        assert_eq!(delivery.body(), &delivery.offset().to_string());
        assert!(
            !self.durable.contains(&delivery.offset()),
            "{} was done",
            delivery.offset()
        );
        assert!(delivery.epoch() >= self.epoch);
        self.epoch = delivery.epoch();
        self.waiting.remove(&delivery.offset());
        self.held.push(delivery);
    }

    async fn consume(&mut self, count: u8) {
        if self.consumer.is_none() {
            let builder = self
                .world
                .flow
                .consumer("in", "group")
                .redeliver_after(AFTER);
            self.consumer = Some(builder.lease(LEASE).await.unwrap());
        }
        for _ in 0..count {
            let consumer = self.consumer.as_mut().unwrap();
            match poll_at_most(50, consumer.next()).await {
                Some(delivery) => match delivery.unwrap() {
                    Ok(delivery) => self.got(delivery),
                    Err(error) => {
                        let is_trimmed = error.kind() == ErrorKind::OutOfRange && self.start > 0;
                        assert!(error.is_transient() || is_trimmed, "{error}");
                    }
                },
                None => return,
            }
        }
    }

    /// Gives a message to a sink. One that has an error to tell twice tries again after a while only.
    async fn give(&mut self, to: Sink, message: Message) -> Result<()> {
        let clock = self.world.clock.clone();
        let producer = match to {
            Sink::In => &mut self.producer,
            Sink::Out => &mut self.relay,
        };
        let time = async {
            loop {
                quiet().await;
                clock.advance(Duration::from_millis(100));
            }
        };
        let giving = async {
            match to {
                Sink::In => producer.feed(message).await,
                Sink::Out => producer.send(message).await,
            }
        };
        tokio::select! {
            biased;
            given = soon("a message is taken", giving) => given,
            () = time => unreachable!("time does not end"),
        }
    }

    async fn commit(&mut self, commit: flowstream::Committing, done: impl Iterator<Item = u64>) {
        if soon("a commit", commit).await.is_ok() {
            self.durable.extend(done);
        }
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Feed(count) => {
                for _ in 0..count {
                    let message = self.message();
                    // It is taken, whatever this says.
                    let _ = self.give(Sink::In, message).await;
                }
            }
            Op::Flush => drop(soon("a flush", self.producer.flush()).await),
            Op::Append(count) => {
                let messages: Vec<Message> = (0..count).map(|_| self.message()).collect();
                let mut batch = flowstream::Batch::from(messages);
                while let Err(error) = soon("append", self.producer.append(batch)).await {
                    batch = error.unsent;
                }
            }
            Op::Consume(count) => self.consume(count).await,
            Op::Commit(at) => {
                if let Some(held) = self.take(at) {
                    let offset = held.offset();
                    self.commit(held.commit(), offset..offset + 1).await;
                }
            }
            Op::CommitThrough(at) => {
                if let Some(held) = self.take(at) {
                    let mut done: BTreeSet<u64> = (0..=held.offset()).collect();
                    done.retain(|offset| !self.waiting.contains(offset));
                    self.commit(held.commit_through(), done.into_iter()).await;
                }
            }
            Op::CommitDropped(at) => {
                if let Some(held) = self.take(at) {
                    drop(held.commit().now_or_never());
                }
            }
            Op::Ack(at) => {
                if let Some(held) = self.take(at) {
                    held.ack();
                }
            }
            Op::Drop(at) => drop(self.take(at)),
            Op::Retry(at, after) => {
                if let Some(held) = self.take(at) {
                    self.waiting.insert(held.offset());
                    held.retry_after(Duration::from_secs(after.into()));
                }
            }
            Op::Bury(at) => {
                if let Some(held) = self.take(at) {
                    let offset = held.offset();
                    if soon("a move", held.dead_letter("no")).await.is_ok() {
                        self.durable.insert(offset);
                    }
                }
            }
            Op::BuryDropped(at) => {
                if let Some(held) = self.take(at) {
                    let _ = poll_at_most(at % 5, held.dead_letter("no")).await;
                }
            }
            Op::Relay(at) => {
                if let Some(held) = self.take(at) {
                    let _ = self.give(Sink::Out, held.into_message()).await;
                }
            }
            Op::Shutdown => {
                if let Some(consumer) = self.consumer.take() {
                    let stopped = consumer.control().shutdown();
                    drop(consumer);
                    self.held.clear();
                    while soon("a flush", self.relay.flush()).await.is_err() {}
                    soon("a shutdown", stopped).await;
                }
            }
            Op::DropConsumer => drop(self.consumer.take()),
            Op::Fence => {
                let usurper = self.world.take_over("in", "group").await;
                self.world.faulty.inner().release(&usurper).await.unwrap();
            }
            Op::Evict => {
                let evicted = self.world.flow.evict("in", "group");
                soon("an eviction", evicted).await.unwrap();
            }
            Op::Reset(to) => {
                let to = to % (self.sent + 1);
                let reset = self.world.flow.reset("in", "group", Start::Offset(to));
                soon("a reset", reset.force().into_future()).await.unwrap();
                self.durable.retain(|offset| *offset < to);
                self.is_moved = true;
            }
            Op::Trim(count) => {
                let trimmed = self.world.flow.trim("in", 0, self.start + count);
                self.start = soon("a trim", trimmed).await.unwrap();
            }
            Op::Reopen => {
                self.held.clear();
                self.consumer = None;
                while soon("a flush", self.producer.flush()).await.is_err() {}
                while soon("a flush", self.relay.flush()).await.is_err() {}
                let World { clock, faulty, .. } = &self.world;
                self.world.flow = open(faulty, clock, |it| it.retry_for(Duration::ZERO));
                self.producer = self
                    .world
                    .flow
                    .producer("in")
                    .batch_messages(3)
                    .await
                    .unwrap();
                self.relay = self.world.flow.producer("out").await.unwrap();
            }
            Op::Pass(seconds) => self.world.pass(Duration::from_secs(seconds.into())).await,
            Op::Fail(which) => self.fail(which, Fault::Fail),
            Op::Lose(which) => self.fail(which, Fault::Lose),
            Op::Late(which) => self.fail(which, Fault::Late),
            Op::LetGo => self.world.faulty.let_go(),
            Op::Hesitate(yields) => self.world.faulty.hesitate(yields.into()),
        }
        quiet().await;
    }

    fn fail(&self, which: u8, fault: Fault) {
        let calls = [Call::Append, Call::Commit, Call::Read, Call::Claim];
        self.world.faulty.times(calls[usize::from(which)], fault, 1);
    }

    /// Everything heals, and whatever is left is done.
    async fn finish(mut self) {
        self.world.faulty.heal();
        while soon("a flush", self.producer.flush()).await.is_err() {}
        while soon("a flush", self.relay.flush()).await.is_err() {}
        self.held.clear();
        // Something beyond all others, or the last of them would not be in its way.
        let last = self.message();
        self.producer.append(last).await.unwrap();
        let left = &numbers(self.sent)[self.start as usize..];
        assert_eq!(self.world.bodies("in").await, left, "the log");
        for _ in 0..40 {
            self.consume(200).await;
            while let Some(held) = self.held.pop() {
                let offset = held.offset();
                self.commit(held.commit(), offset..offset + 1).await;
            }
            if self.world.position("in", "group").await >= self.sent {
                break;
            }
            self.world.pass(LEASE / 2).await;
        }
        assert_eq!(
            self.world.position("in", "group").await,
            self.sent,
            "the group"
        );
        let mut relayed = self.world.bodies("out").await;
        relayed.extend(self.world.bodies("in.group.dead").await);
        let once: BTreeSet<&String> = relayed.iter().collect();
        let is_once = once.len() == relayed.len();
        assert!(is_once || self.is_moved, "written twice: {relayed:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        // What stands still takes as long as `soon` is patient, each time.
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_log_and_the_group_are_as_promised(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for op in ops {
                run.apply(op).await;
            }
            run.finish().await;
        });
    }
}
