//! Answers that get lost: what was done is not done twice.

use std::sync::Arc;

use super::gate::Gate;
use super::rig::{LEASE, Rig, delivered, made, number_of, partition, patient};
use super::sink::{Forward, feed, flush};
use crate::conformance::Harness;
use crate::error::Result;
use crate::flowstream::Flowstream;
use crate::message::{Batch, Message};
use crate::storage::Progress;

/// A flow whose storage loses answers once it is told to.
fn lossy(rig: &Rig) -> (Arc<Gate>, Flowstream) {
    let gate = Arc::new(Gate::new(rig.subject.harness.storage()));
    let flow = rig.on(gate.clone());
    (gate, flow)
}

pub(crate) async fn what_is_sent_again_is_written_once(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let (gate, flow) = lossy(&rig);
    let mut producer = flow.producer("orders").await.expect("a producer");
    gate.lose_one_of(2);
    let sends = async {
        for number in (0..30u64).step_by(3) {
            for number in number..number + 2 {
                let fed = feed(&mut producer, number.to_string()).await;
                fed.expect("taken");
            }
            flush(&mut producer).await.expect("a flush");
            let last = Message::new((number + 2).to_string());
            let appended = producer.append(last).await.expect("an append");
            assert_eq!(appended.offsets()[0].offsets, number + 2..number + 3);
        }
    };
    let what = "what was sent is tried again";
    rig.passing(LEASE / 20, what, sends).await;
    let numbers = rig.numbers("orders").await;
    assert!(numbers.iter().copied().eq(0..30), "{numbers:?}");
}

pub(crate) async fn what_is_in_doubt_is_written_once(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let gate = Arc::new(Gate::new(rig.subject.harness.storage()));
    let flow = rig.hasty(gate.clone());
    let mut producer = flow.producer("orders").await.expect("a producer");
    // The first answers get lost, and nobody tries again but the user.
    for number in (0..40u64).step_by(4) {
        gate.lose_one_of(1);
        let fed = feed(&mut producer, number.to_string()).await;
        fed.expect("taken");
        let error = flush(&mut producer).await.expect_err("in doubt");
        assert!(error.in_doubt() && error.is_transient(), "{error}");
        gate.lose_one_of(0);
        if number % 8 == 0 {
            flush(&mut producer).await.expect("the same once more");
        } else {
            for batch in producer.take_unsent().await {
                assert!(batch.in_doubt());
                let appended = producer.append(batch).await.expect("settled");
                assert_eq!(appended.offsets()[0].offsets, number..number + 1);
            }
        }
        let batch: Batch = (number + 1..number + 4).map(of_number).collect();
        gate.lose_one_of(1);
        let answer = producer.append(batch).await;
        gate.lose_one_of(0);
        let error = answer.expect_err("in doubt");
        assert!(error.in_doubt(), "{error}");
        let batch = error.unsent;
        let appended = producer.append(batch).await.expect("settled");
        assert_eq!(appended.offsets()[0].offsets, number + 1..number + 4);
    }
    let numbers = rig.numbers("orders").await;
    assert!(numbers.iter().copied().eq(0..40), "{numbers:?}");
}

pub(crate) async fn what_is_taken_back_is_all_and_in_order(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let gate = Arc::new(Gate::new(rig.subject.harness.storage()));
    let flow = rig.hasty(gate.clone());
    let builder = flow.producer("orders").batch_messages(2);
    let mut producer = builder.await.expect("a producer");
    for first in (0..35u64).step_by(5) {
        gate.lose_one_of(1);
        for number in first..first + 5 {
            // It is taken, whatever this says.
            let _ = feed(&mut producer, number.to_string()).await;
        }
        if first % 10 == 0 {
            flush(&mut producer).await.expect_err("in doubt");
        }
        let batches = producer.take_unsent().await;
        gate.lose_one_of(0);
        let bodies = batches.iter().flat_map(Batch::messages).map(|it| it.body());
        let numbers: Vec<u64> = bodies.map(|body| number_of(body)).collect();
        let all: Vec<u64> = (first..first + 5).collect();
        assert_eq!(
            numbers, all,
            "all that is not known to be written, in order"
        );
        for batch in batches {
            producer.append(batch).await.expect("settled");
        }
    }
    let numbers = rig.numbers("orders").await;
    assert!(numbers.iter().copied().eq(0..35), "{numbers:?}");
}

pub(crate) async fn a_group_goes_on_where_answers_get_lost(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..30).await;
    let (gate, flow) = lossy(&rig);
    let work = async {
        for round in 0..3 {
            gate.lose_one_of(0);
            let builder = patient(flow.consumer("orders", "billing"));
            let mut consumer = made(builder).await;
            gate.lose_one_of(2);
            for offset in round * 10..round * 10 + 10 {
                let delivery = delivered(consumer.next().await);
                assert_eq!(delivery.offset(), offset, "what is done comes no more");
                assert_eq!(delivery.attempt(), 1);
                delivery.commit().await.expect("a commit");
            }
            // It gives its lease back although it is not answered.
            drop(consumer);
        }
    };
    let what = "a consumer goes on where answers get lost";
    rig.passing(LEASE / 20, what, work).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(30));
}

pub(crate) async fn a_relay_where_answers_get_lost_writes_once(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("in", 0..60).await;
    let (gate, flow) = lossy(&rig);
    let consumer = made(patient(flow.consumer("in", "relay")).prefetch(1)).await;
    let control = consumer.control();
    let producer = flow.producer("out").batch_messages(4).await;
    gate.lose_one_of(2);
    let relay = Forward::new(consumer, producer.expect("a producer"));
    let relay = tokio::spawn(relay);
    let out = partition("out");
    let relayed = rig.subject.eventually("all is relayed", || async {
        rig.subject.range(&out).await.end >= 60
    });
    let what = "a relay goes on where answers get lost";
    rig.passing(LEASE / 20, what, relayed).await;
    let what = "a pipeline ends";
    rig.passing(LEASE / 20, what, control.shutdown()).await;
    let ended: Result<()> = rig.subject.within(what, relay).await.expect("a task");
    ended.expect("a clean end");
    let numbers = rig.numbers("out").await;
    assert!(numbers.iter().copied().eq(0..60), "each once: {numbers:?}");
    let state = rig.state("in", "relay").await;
    assert_eq!(state.progress, Progress::at(60));
}

fn of_number(number: u64) -> Message {
    Message::new(number.to_string())
}
