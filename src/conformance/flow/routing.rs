//! Where messages go, and what goes with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::rig::{Rig, number_of, partition};
use super::sink::{feed, flush, send};
use crate::conformance::Harness;
use crate::conformance::build::name;
use crate::message::Message;
use crate::record::Headers;
use crate::storage::Partition;

const PARTITIONS: u32 = 5;

pub(crate) async fn a_key_stays_in_its_partition(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let created = rig.create_stream("orders", PARTITIONS).await;
    created.expect("a stream");
    // Another process sends the same keys to the same places.
    let another = rig.another();
    let mut producers = [rig.makes("orders").await, another.makes("orders").await];
    for number in 0..300u64 {
        let message = Message::new(number.to_string()).with_key((number % 20).to_string());
        let producer = &mut producers[(number / 20 % 2) as usize];
        feed(producer, message).await.expect("taken");
        if number % 20 == 19 {
            flush(producer).await.expect("a flush");
        }
    }
    let mut places: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut all = Vec::new();
    for index in 0..PARTITIONS {
        let stream = name("orders");
        let log = rig.subject.log(&Partition { stream, index }).await;
        for (_, body) in log {
            let number = number_of(&body);
            let key = number % 20;
            places.entry(key).or_default().insert(index);
            let before = last.insert(key, number);
            assert!(before < Some(number), "a key keeps its order");
            all.push(number);
        }
    }
    assert!(
        places.values().all(|places| places.len() == 1),
        "each key has one partition: {places:?}"
    );
    all.sort_unstable();
    assert!(all.into_iter().eq(0..300), "each message once");
}

pub(crate) async fn messages_without_a_key_are_written_once(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let created = rig.create_stream("orders", PARTITIONS).await;
    created.expect("a stream");
    for round in 0..10 {
        rig.fill("orders", round * 10..round * 10 + 10).await;
    }
    let mut all = Vec::new();
    for index in 0..PARTITIONS {
        let stream = name("orders");
        let log = rig.subject.log(&Partition { stream, index }).await;
        let numbers: Vec<u64> = log.iter().map(|(_, body)| number_of(body)).collect();
        assert!(numbers.is_sorted(), "one producer's order: {numbers:?}");
        all.extend(numbers);
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..100), "each message once");
}

pub(crate) async fn a_message_goes_to_its_own_stream(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut producer = rig.makes("orders").await;
    for body in ["a", "b", "c", "d"] {
        let mut message = Message::new(body);
        if body > "b" {
            // Made with the first message to it.
            message = message.with_stream(format!("own {body}")).expect("a name");
        }
        feed(&mut producer, message).await.expect("taken");
    }
    flush(&mut producer).await.expect("a flush");
    assert_eq!(rig.text("orders").await, "a b");
    assert_eq!(rig.text("own c").await, "c");
    assert_eq!(rig.text("own d").await, "d");
}

pub(crate) async fn a_delivery_is_as_it_was_sent(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut headers = Headers::new();
    for (name, value) in [("trace", &b"\x00\xff"[..]), ("empty", b""), ("trace", b"2")] {
        headers.insert(name, value).expect("a header");
    }
    let happened = SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567_890_123_456);
    let full = Message::new("full").with_key("table 7");
    let full = full.with_headers(headers.clone()).with_timestamp(happened);
    let mut producer = rig.makes("orders").await;
    feed(&mut producer, full).await.expect("taken");
    feed(&mut producer, Message::new("")).await.expect("taken");
    let empty_key = Message::new(vec![0, 159, 146, 150]).with_key("");
    send(&mut producer, empty_key).await.expect("a send");

    let mut consumer = rig.takes("orders", "billing").await;
    let full = rig.next(&mut consumer).await;
    assert_eq!(
        (full.stream(), full.partition(), full.offset()),
        ("orders", 0, 0)
    );
    assert_eq!((full.attempt(), full.epoch()), (1, 1));
    assert_eq!(full.body(), "full");
    assert_eq!(full.key().map(|key| &key[..]), Some(&b"table 7"[..]));
    assert_eq!(full.headers(), &headers);
    assert_eq!(full.timestamp(), happened);

    let empty = rig.next(&mut consumer).await;
    assert_eq!((empty.body().len(), empty.key()), (0, None));
    assert!(empty.headers().is_empty());
    let fetched = rig.subject.fetch(&partition("orders"), 1).await;
    let appended_at = fetched.batches[0].appended_at;
    assert_eq!(empty.timestamp(), appended_at, "that of its append");
    assert_eq!(empty.message().timestamp(), None, "which is not its own");

    let (message, _) = rig.next(&mut consumer).await.into_parts();
    assert_eq!(&message.compact().body()[..], [0, 159, 146, 150]);
}
