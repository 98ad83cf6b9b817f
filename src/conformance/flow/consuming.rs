//! The stream.

use std::sync::Arc;
use std::time::Duration;

use futures_core::stream::FusedStream;

use super::rig::{FOR_EVER, Rig, delivered, made, number_of, partition, patient};
use super::sink::{feed, polls};
use crate::conformance::Harness;
use crate::conformance::build::name;
use crate::conformance::support::{pause, poll_once};
use crate::consumer::Delivery;
use crate::consumer::Status;
use crate::error::ErrorKind;
use crate::message::{Batch, Message};
use crate::storage::{Partition, Progress, Start};

pub(crate) async fn each_group_gets_each_message(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..20).await;
    let mut consumers = Vec::new();
    for group in ["billing", "shipping", "audit"] {
        consumers.push(rig.takes("orders", group).await);
    }
    rig.fill("orders", 20..40).await;
    for consumer in &mut consumers {
        for delivery in rig.expect(consumer, 0..40).await {
            assert_eq!(delivery.attempt(), 1);
            delivery.commit().await.expect("a commit");
        }
    }
}

pub(crate) async fn a_new_group_begins_as_its_consumer_says(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    for number in 0..6 {
        rig.fill("orders", number..number + 1).await;
        rig.subject.harness.pass(Duration::from_millis(20)).await;
    }
    let fetched = rig.subject.fetch(&partition("orders"), 4).await;
    let of_four = fetched.batches[0].appended_at;
    let starts = [
        (Start::Earliest, 0),
        (Start::Latest, 6),
        (Start::Offset(2), 2),
        (Start::Offset(8), 8),
        (Start::Time(of_four), 4),
    ];
    let mut consumers = Vec::new();
    for (index, (start, first)) in starts.into_iter().enumerate() {
        let builder = patient(rig.consumer("orders", format!("group {index}")));
        consumers.push((made(builder.start(start)).await, start, first));
    }
    // A group is there once its consumer is, polled or not.
    rig.fill("orders", 6..10).await;
    for (consumer, start, first) in &mut consumers {
        let delivery = rig.next(consumer).await;
        assert_eq!(delivery.offset(), *first, "{start:?}");
        delivery.commit_through().await.expect("a commit");
    }
    // One that is there begins where it is.
    drop(consumers);
    let builder = patient(rig.consumer("orders", "group 1"));
    let mut consumer = made(builder.start(Start::Latest)).await;
    rig.expect(&mut consumer, 7..10).await;
}

pub(crate) async fn messages_that_come_meanwhile_are_seen(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut consumer = rig.takes("orders", "billing").await;
    let mut producer = rig.makes("orders").await;
    let writer = tokio::spawn(async move {
        for number in 0..200u64 {
            let message = Message::new(number.to_string());
            if number % 3 == 0 {
                producer.append(message).await.expect("an append");
            } else {
                feed(&mut producer, message).await.expect("taken");
            }
        }
        producer.append(Vec::new()).await.expect("a flush");
    });
    for offset in 0..200 {
        for delivery in rig.expect(&mut consumer, offset..offset + 1).await {
            delivery.ack();
        }
    }
    writer.await.expect("the writer");
}

pub(crate) async fn a_small_prefetch_skips_nothing(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut written = 0;
    for count in [1, 5, 50, 2, 1, 30] {
        rig.fill("orders", written..written + count).await;
        written += count;
    }
    for (group, bytes) in [("none", 0), ("one", 1), ("some", 100)] {
        let builder = patient(rig.consumer("orders", group)).prefetch(bytes);
        let mut consumer = made(builder).await;
        rig.expect(&mut consumer, 0..written).await;
    }
}

pub(crate) async fn a_consumer_gets_all_partitions(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.create_stream("orders", 4).await.expect("a stream");
    let mut producer = rig.makes("orders").await;
    let mut consumer = rig.takes("orders", "billing").await;
    for number in 0..100u64 {
        let message = Message::new(number.to_string()).with_key(number.to_string());
        feed(&mut producer, message).await.expect("taken");
    }
    producer.append(Vec::new()).await.expect("a flush");
    let mut next = [0; 4];
    let mut all = Vec::new();
    for _ in 0..100 {
        let delivery = rig.next(&mut consumer).await;
        let next = &mut next[delivery.partition() as usize];
        assert_eq!(delivery.offset(), *next, "each partition in order");
        *next += 1;
        all.push(number_of(delivery.body()));
        delivery.commit().await.expect("a commit");
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..100), "each message once");
    for (status, index) in consumer.control().partitions().into_iter().zip(0..) {
        assert!(status.is_active(), "partition {index} is {status:?}");
        let stream = name("orders");
        let ends = rig.subject.range(&Partition { stream, index }).await;
        assert_eq!(ends, 0..next[index as usize], "all of it was delivered");
    }
}

/// Messages in two partitions, so many in each.
async fn fill_two_partitions(rig: &Rig, each: usize) {
    rig.create_stream("orders", 2).await.expect("a stream");
    let mut producer = rig.makes("orders").await;
    let of = |key: u64| Message::new("m").with_key(key.to_string());
    let (mut keys, mut counts) = ([None; 2], [0; 2]);
    for key in 0.. {
        let appended = producer.append(of(key)).await.expect("an append");
        let partition = appended.offsets()[0].partition as usize;
        keys[partition] = Some(key);
        counts[partition] += 1;
        if keys.iter().all(Option::is_some) {
            break;
        }
    }
    for (key, count) in keys.into_iter().flatten().zip(counts) {
        let rest: Batch = (count..each).map(|_| of(key)).collect();
        producer.append(rest).await.expect("an append");
    }
}

pub(crate) async fn a_paused_partition_keeps_no_other_waiting(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    fill_two_partitions(&rig, 2_600).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let (mut held, mut others, mut waited) = (Vec::new(), 0, 0);
    while others < 2_600 && waited < 200 {
        let Some(next) = polls(1, consumer.next()).await else {
            waited += 1;
            pause().await;
            continue;
        };
        let delivery = delivered(next);
        waited = 0;
        match (delivery.partition(), delivery.offset() % 2) {
            (0, 0) => held.push(delivery),
            (0, _) => delivery.ack(),
            _ => {
                others += 1;
                delivery.ack();
            }
        }
    }
    assert_eq!(others, 2_600, "all of the one that is not paused");
    assert!(held.len() < 1_300, "the other one is paused");
    let mut left = 5_200 - 2 * held.len() as u64 - others;
    held.into_iter().for_each(Delivery::ack);
    while left > 0 {
        left -= 1;
        rig.next(&mut consumer).await.ack();
    }
    rig.shut_down(&consumer.control()).await;
    let states = rig.group("orders", "billing").await.expect("the group");
    assert!(states.iter().all(|state| state.lag() == 0));
}

pub(crate) async fn what_was_trimmed_is_told_once(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    for number in 0..6 {
        rig.fill("orders", number..number + 1).await;
    }
    let mut consumer = rig.takes("orders", "billing").await;
    let start = rig.trim("orders", 0, 4).await.expect("a trim");
    assert_eq!(start, 4);
    let what = "a consumer is told of what is gone";
    let told = rig.subject.within(what, consumer.try_next()).await;
    let error = told.expect_err("what was trimmed is an error");
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    for delivery in rig.expect(&mut consumer, 4..6).await {
        delivery.commit().await.expect("a commit");
    }
    rig.shut_down(&consumer.control()).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(6), "what is gone is done");
    rig.fill("orders", 6..7).await;
    let mut consumer = rig.takes("orders", "billing").await;
    rig.expect(&mut consumer, 6..7).await;
}

pub(crate) async fn a_stream_ends_with_its_shutdown(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..10).await;
    // Before the first poll.
    let mut consumer = rig.takes("orders", "billing").await;
    assert_eq!(consumer.control().status(), Status::Idle);
    rig.shut_down(&consumer.control()).await;
    assert!(consumer.next().await.is_none());

    // With more to come.
    let mut consumer = rig.takes("orders", "billing").await;
    let control = consumer.control();
    rig.expect(&mut consumer, 0..2).await;
    assert!(!consumer.is_terminated());
    drop(control.shutdown());
    let next = poll_once(consumer.next()).expect("the end comes at once");
    assert!(next.is_none(), "what was read ahead is dropped");
    assert!(consumer.is_terminated());
    assert!(consumer.next().await.is_none(), "for ever");
    rig.shut_down(&control).await;
    rig.shut_down(&control).await;
    assert_eq!(control.status(), Status::Closed);
    assert_eq!(rig.state("orders", "billing").await.owner, None);

    // While it waits, by a signal of the user's.
    let signal = Arc::new(tokio::sync::Notify::new());
    let heard = signal.clone();
    let builder = rig.consumer("orders", "audit").lease(FOR_EVER);
    let builder = builder.shutdown_on(async move { heard.notified().await });
    let mut consumer = made(builder).await;
    rig.expect(&mut consumer, 0..10).await;
    let waiting = tokio::spawn(async move { consumer.next().await.is_none() });
    signal.notify_one();
    let what = "a consumer that waits is told of its shutdown";
    let ended = rig.subject.within(what, waiting).await;
    assert!(ended.expect("the consumer"));
}
