//! Many producers at once: clones, shared writes, partitions.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use flowstream::{Batch, Message};
use futures::SinkExt;
use support::*;

#[tokio::test]
async fn a_clone_has_buffers_of_its_own() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    producer.feed("kept".into()).await.unwrap();
    let mut clone = producer.clone();
    clone.flush().await.unwrap();
    assert_eq!(world.faulty.count(Call::Append), 0);
    clone.feed("dropped".into()).await.unwrap();
    drop(clone);
    producer.close().await.unwrap();
    assert_eq!(world.bodies("orders").await, ["kept"]);
}

#[tokio::test]
async fn many_that_each_send_one_message_share_few_writes_in_order() {
    let world = world().await;
    world.faulty.hesitate(3);
    let producer = world.flow.producer("orders").await.unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|task| {
            let mut producer = producer.clone();
            tokio::spawn(async move {
                for number in 0..10 {
                    producer
                        .send(format!("{task}:{number}").into())
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let writes = world.faulty.count(Call::Append);
    assert!(writes <= 30, "2,000 sends were {writes} writes");
    let mut next = BTreeMap::<String, u32>::new();
    let bodies = world.bodies("orders").await;
    assert_eq!(bodies.len(), 2000);
    for body in bodies {
        let (task, number) = body.split_once(':').unwrap();
        let next = next.entry(task.to_owned()).or_default();
        assert_eq!(number.parse::<u32>().unwrap(), *next);
        *next += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_send_at_once_lose_nothing() {
    let world = world().await;
    let producer = world.flow.producer("orders").await.unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|task| {
            let mut producer = producer.clone();
            tokio::spawn(async move {
                for number in 0..40 {
                    producer
                        .feed(format!("{task}:{number}").into())
                        .await
                        .unwrap();
                    if number % 3 == 0 {
                        producer.flush().await.unwrap();
                    }
                }
                producer.close().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        soon("a sender", task).await.unwrap();
    }
    let bodies: BTreeSet<String> = world.bodies("orders").await.into_iter().collect();
    assert_eq!(bodies.len(), 2000);
}

#[tokio::test]
async fn equal_keys_go_to_one_partition_in_order_and_all_arrive() {
    let world = world().await;
    world.flow.create_stream("orders", 4).await.unwrap();
    let mut producer = world
        .flow
        .producer("orders")
        .batch_messages(7)
        .await
        .unwrap();
    for number in 0..400 {
        let message = Message::new(format!("{}:{number}", number % 20));
        let message = message.with_key(format!("key {}", number % 20));
        producer.feed(message).await.unwrap();
    }
    for number in 0..100 {
        producer
            .feed(format!("none:{number}").into())
            .await
            .unwrap();
    }
    producer.flush().await.unwrap();
    let mut places = BTreeMap::new();
    let mut last = BTreeMap::new();
    let mut used = BTreeSet::new();
    let mut count = 0;
    for partition in 0..4 {
        for body in bodies(&world.flow, "orders", partition).await {
            count += 1;
            used.insert(partition);
            let (key, number) = body.split_once(':').unwrap();
            if key == "none" {
                continue;
            }
            assert_eq!(
                *places.entry(key.to_owned()).or_insert(partition),
                partition
            );
            let number: u32 = number.parse().unwrap();
            assert!(
                last.insert(key.to_owned(), number)
                    .is_none_or(|last| last < number)
            );
        }
    }
    assert_eq!((count, places.len(), used.len()), (500, 20, 4));
}

/// The hashes of Kafka's own tests, without their sign.
#[tokio::test]
async fn a_key_has_the_partition_that_it_has_in_kafka() {
    let world = world().await;
    world.flow.create_stream("orders", 7).await.unwrap();
    let mut producer = world.flow.producer("orders").await.unwrap();
    for (key, hash) in [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("abc", 479_470_107),
    ] {
        let message = Message::new("m").with_key(key);
        let appended = producer.append(message).await.unwrap();
        let expected = (hash & i32::MAX) as u32 % 7;
        assert_eq!(appended.offsets()[0].partition, expected, "{key}");
    }
}

#[tokio::test]
async fn messages_without_a_key_go_to_all_partitions_in_turn() {
    let world = world().await;
    world.flow.create_stream("orders", 4).await.unwrap();
    let mut producer = world.flow.producer("orders").await.unwrap();
    assert_eq!(producer.stream(), "orders");
    // The turn is that of the process, in which other tests run as well.
    let mut used = BTreeSet::new();
    for _ in 0..200 {
        let appended = producer.append(Message::new("m")).await.unwrap();
        used.insert(appended.offsets()[0].partition);
    }
    assert_eq!(used.len(), 4);
}

#[tokio::test]
async fn a_clone_of_a_closed_producer_is_closed() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    producer.close().await.unwrap();
    let error = producer.clone().send("0".into()).await.unwrap_err();
    assert_eq!(error.kind(), flowstream::ErrorKind::Closed);
    assert!(world.bodies("orders").await.is_empty());
}

/// Batches of several producers, all given while a write is under way: how many writes they share.
async fn writes(world: &World, batches: usize, batch: impl Fn() -> Batch) -> usize {
    let producer = world.flow.producer("orders").await.unwrap();
    world.faulty.times(Call::Append, Fault::Hold, 1);
    let append = |batch| {
        let mut producer = producer.clone();
        tokio::spawn(async move { producer.append(batch).await })
    };
    let first = append(Batch::from(Message::new("first")));
    eventually("the first", || world.faulty.held() == 1).await;
    let others: Vec<_> = (0..batches).map(|_| append(batch())).collect();
    quiet().await;
    world.faulty.let_go();
    for appending in std::iter::once(first).chain(others) {
        soon("an append", appending).await.unwrap().unwrap();
    }
    world.faulty.count(Call::Append) - 1
}

#[tokio::test]
async fn a_write_has_a_bound_in_bytes_and_in_messages() {
    let world = world().await;
    let mebibyte = || Batch::from(Message::new(vec![7; 1 << 20]));
    assert_eq!(writes(&world, 4, mebibyte).await, 1);
    let world = support::world().await;
    assert_eq!(writes(&world, 9, mebibyte).await, 3, "4, 4 and 1 MiB");
    let world = support::world().await;
    let many = || (0..1 << 14).map(|_| Message::new("")).collect();
    assert_eq!(writes(&world, 9, many).await, 3, "4, 4 and 1 times 16,384");
}
