//! Many producers at once: clones, shared writes, partitions.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use flowstream::Message;
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
