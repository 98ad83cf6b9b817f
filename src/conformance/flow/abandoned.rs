//! Futures that are dropped at any of their polls: nothing is lost that was promised, and whatever
//! comes next goes on.

use std::sync::Arc;

use super::rig::{Rig, delivered, number_of, patient};
use super::sink::{close, feed, flush, polls, send};
use crate::conformance::Harness;
use crate::message::Message;
use crate::storage::Progress;

/// More than any of these futures needs.
const POLLS: usize = 6;

pub(crate) async fn a_dropped_send_is_taken_or_not(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let builder = rig.producer("orders").batch_messages(2);
    let mut producer = builder.await.expect("a producer");
    let mut number = 0u64;
    let mut sure = Vec::new();
    for times in (0..POLLS).chain(0..POLLS) {
        for _ in 0..3 {
            let sent = polls(times, send(&mut producer, number.to_string())).await;
            if sent.is_some() {
                sure.push(number);
            }
            number += 1;
        }
        polls(times, flush(&mut producer)).await;
        let fed = feed(&mut producer, number.to_string()).await;
        fed.expect("the sink goes on");
        sure.push(number);
        number += 1;
    }
    polls(1, close(&mut producer)).await;
    let closed = rig
        .subject
        .within("a sink closes", close(&mut producer))
        .await;
    closed.expect("a sink closes");
    let numbers = rig.numbers("orders").await;
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "each once, in order: {numbers:?}"
    );
    let lost: Vec<_> = sure
        .iter()
        .filter(|number| !numbers.contains(number))
        .collect();
    assert!(lost.is_empty(), "taken, and not written: {lost:?}");
}

pub(crate) async fn a_dropped_append_of_many_is_one(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut producer = rig.makes("orders").await;
    rig.makes("audit").await;
    let mut sure = Vec::new();
    for (number, times) in (0..POLLS).chain(0..POLLS).enumerate() {
        feed(&mut producer, number.to_string())
            .await
            .expect("taken");
        let copy = Message::new(number.to_string()).with_stream("audit");
        let batch = [Message::new(number.to_string()), copy.expect("a name")];
        if let Some(appended) = polls(times, producer.append(batch)).await {
            appended.expect("an append");
            sure.push(number as u64);
        }
    }
    flush(&mut producer).await.expect("the sink goes on");
    // One after all that may be under way.
    producer
        .append(Message::new("999"))
        .await
        .expect("an append");
    let audit = rig.numbers("audit").await;
    assert!(
        audit.is_sorted_by(|a, b| a < b),
        "each once, in order: {audit:?}"
    );
    assert!(
        sure.iter().all(|number| audit.contains(number)),
        "{audit:?}"
    );
    let orders = rig.numbers("orders").await;
    for number in 0..2 * POLLS as u64 {
        let times = orders.iter().filter(|other| **other == number).count();
        let expected = 1 + usize::from(audit.contains(&number));
        assert_eq!(
            times, expected,
            "{number} of both or of none: {orders:?} {audit:?}"
        );
    }
    assert!(orders.is_sorted(), "in order: {orders:?}");
}

pub(crate) async fn a_dropped_next_loses_nothing(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut consumer = rig.takes("orders", "billing").await;
    let writer = rig.clone();
    let writing = tokio::spawn(async move {
        for number in 0..60 {
            writer.fill("orders", number..number + 1).await;
        }
    });
    let all = async {
        let mut next = 0;
        for times in (0..4).cycle() {
            if let Some(delivery) = polls(times, consumer.next()).await {
                let delivery = delivered(delivery);
                assert_eq!(delivery.offset(), next);
                delivery.ack();
                next += 1;
            } else {
                tokio::task::yield_now().await;
            }
            if next == 60 {
                return;
            }
        }
    };
    rig.subject.within("all messages come", all).await;
    writing.await.expect("the writer");
}

pub(crate) async fn a_dropped_builder_blocks_nobody(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    for times in 0..POLLS {
        let (orders, billing) = (format!("orders {times}"), format!("billing {times}"));
        polls(times, rig.create_stream(&orders, 1)).await;
        polls(times, IntoFuture::into_future(rig.producer(&orders))).await;
        let builder = patient(rig.consumer(&orders, &billing));
        polls(times, IntoFuture::into_future(builder)).await;
        rig.fill(&orders, 0..3).await;
        let mut consumer = rig.takes(&orders, &billing).await;
        rig.expect(&mut consumer, 0..3).await;
    }
}

pub(crate) async fn a_dropped_shutdown_goes_on(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..POLLS as u64 + 1).await;
    for times in 0..POLLS {
        let mut consumer = rig.takes("orders", "billing").await;
        let offset = times as u64;
        let delivery = rig
            .expect(&mut consumer, offset..offset + 1)
            .await
            .remove(0);
        delivery.ack();
        let control = consumer.control();
        polls(times, control.shutdown()).await;
        polls(times, control.wait_for(|_| false)).await;
        assert!(consumer.next().await.is_none());
    }
    let mut consumer = rig.takes("orders", "billing").await;
    let last = POLLS as u64;
    rig.expect(&mut consumer, last..last + 1).await;
}

pub(crate) async fn dropped_questions_leave_nothing_behind(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    for number in 0..8 {
        rig.fill("orders", number..number + 1).await;
    }
    let mut consumer = rig.takes("orders", "billing").await;
    let delivery = rig.expect(&mut consumer, 0..1).await.remove(0);
    delivery.commit().await.expect("a commit");
    for times in 0..POLLS {
        polls(times, rig.bounds("orders")).await;
        polls(times, rig.group("orders", "billing")).await;
        polls(times, rig.read("orders", 0, 2)).await;
        polls(times, rig.trim("orders", 0, 1)).await;
    }
    let start = rig.trim("orders", 0, 1).await.expect("a trim");
    let ends = rig.bounds("orders").await.expect("where the log ends");
    assert_eq!((start, ends), (1, vec![1..8]));
    let page = rig.read("orders", 0, 0).await.expect("a page");
    assert!(
        page.iter()
            .all(|(at, message)| number_of(message.body()) == *at)
    );
    assert_eq!(page.len(), 7);
    let states = rig.group("orders", "billing").await.expect("a group");
    assert_eq!(states[0].progress, Progress::at(1));
    rig.expect(&mut consumer, 1..8).await;
}
