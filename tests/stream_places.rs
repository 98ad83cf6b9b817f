//! Where a group begins, what trimming does to it, and several partitions.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use flowstream::{Clock, ErrorKind, Message, Start};
use futures::SinkExt;
use support::*;

/// Six messages in three batches, a minute after each other.
async fn three_batches() -> World {
    let world = world().await;
    for _ in 0..3 {
        world.fill("orders", 2).await;
        world.clock.advance(Duration::from_secs(60));
    }
    world
}

#[tokio::test]
async fn a_group_begins_where_it_is_told_and_only_the_first_time() {
    let world = three_batches().await;
    let day = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
    for (index, (start, first)) in [
        (Start::Earliest, 0),
        (Start::Offset(3), 3),
        (Start::Time(day), 0),
        (Start::Time(day + Duration::from_secs(60)), 2),
        (Start::Time(day + Duration::from_secs(61)), 4),
    ]
    .into_iter()
    .enumerate()
    {
        let group = format!("group {index}");
        let mut consumer = world
            .flow
            .consumer("orders", &group)
            .start(start)
            .await
            .unwrap();
        assert_eq!(next(&mut consumer).await.offset(), first, "{start:?}");
        drop(consumer);
        let again = world.flow.consumer("orders", &group).start(Start::Latest);
        assert_eq!(
            next(&mut again.await.unwrap()).await.offset(),
            first,
            "{start:?}"
        );
    }
}

#[tokio::test]
async fn latest_begins_with_what_comes_after_the_group_was_made() {
    let world = three_batches().await;
    let consumer = world.flow.consumer("orders", "late").start(Start::Latest);
    let mut consumer = consumer.await.unwrap();
    world.fill("orders", 1).await;
    assert_eq!(next(&mut consumer).await.offset(), 6);
    let after = Start::Time(world.clock.wall() + Duration::from_secs(1));
    let mut consumer = world
        .flow
        .consumer("orders", "later")
        .start(after)
        .await
        .unwrap();
    world.fill("orders", 1).await;
    assert_eq!(next(&mut consumer).await.offset(), 7);
}

#[tokio::test]
async fn a_group_that_begins_beyond_the_log_waits() {
    let world = three_batches().await;
    let consumer = world
        .flow
        .consumer("orders", "ahead")
        .start(Start::Offset(9));
    let mut consumer = consumer.await.unwrap();
    let mut coming = Box::pin(consumer.next());
    assert!(stays_pending(&mut coming).await);
    world.fill("orders", 2).await;
    assert!(stays_pending(&mut coming).await);
    world.fill("orders", 3).await;
    let delivery = soon("the message", coming).await.unwrap().unwrap();
    assert_eq!(
        (delivery.offset(), text(delivery.message())),
        (9, "1".to_owned())
    );
}

#[tokio::test]
async fn what_was_trimmed_is_one_error_and_the_stream_goes_on_behind() {
    let world = three_batches().await;
    assert_eq!(world.flow.trim("orders", 0, 5).await.unwrap(), 4);
    for start in [0, 1] {
        let group = format!("group {start}");
        let consumer = world
            .flow
            .consumer("orders", &group)
            .start(Start::Offset(start));
        let mut consumer = consumer.await.unwrap();
        let error = soon("the error", consumer.next())
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        for offset in 4..6 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.offset(), offset);
            delivery.commit().await.unwrap();
        }
        assert_eq!(world.position("orders", &group).await, 6);
        assert_eq!(take_all(&mut consumer, drop).await, 0);
    }
    let mut earliest = world.flow.consumer("orders", "earliest").await.unwrap();
    assert_eq!(next(&mut earliest).await.offset(), 4);
}

#[tokio::test]
async fn trimming_all_and_then_appending_goes_on_with_the_next_offset() {
    let world = three_batches().await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    next(&mut consumer).await.commit().await.unwrap();
    drop(consumer);
    quiet().await;
    assert_eq!(world.flow.trim("orders", 0, 6).await.unwrap(), 6);
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let error = soon("the error", consumer.next())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    world.fill("orders", 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.offset(), 6);
    delivery.commit().await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 7);
}

#[tokio::test]
async fn one_consumer_gets_all_partitions_each_in_order() {
    let world = world().await;
    world.flow.create_stream("wide", 5).await.unwrap();
    let mut producer = world
        .flow
        .producer("wide")
        .batch_messages(20)
        .await
        .unwrap();
    for number in 0..1000 {
        let message = Message::new(number.to_string()).with_key(format!("key {}", number % 50));
        producer.feed(message).await.unwrap();
    }
    producer.flush().await.unwrap();
    let mut consumer = world
        .flow
        .consumer("wide", "billing")
        .prefetch(2000)
        .await
        .unwrap();
    let mut ends = [0; 5];
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        let delivery = next(&mut consumer).await;
        let end = &mut ends[delivery.partition() as usize];
        assert_eq!(delivery.offset(), *end);
        *end += 1;
        assert!(seen.insert(text(delivery.message())));
        delivery.ack();
    }
    soon("the shutdown", consumer.control().shutdown()).await;
    for (state, end) in world
        .flow
        .group("wide", "billing")
        .await
        .unwrap()
        .iter()
        .zip(ends)
    {
        assert_eq!((state.progress.position(), state.owner), (end, None));
    }
}

#[tokio::test]
async fn a_small_prefetch_and_large_batches_deliver_everything() {
    let world = world().await;
    for size in [1, 3000] {
        world.fill("orders", size).await;
    }
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .prefetch(0)
        .await
        .unwrap();
    let mut expected = 0;
    let count = take_all(&mut consumer, |delivery| {
        assert_eq!(delivery.offset(), expected);
        expected += 1;
        delivery.ack();
    })
    .await;
    assert_eq!(count, 3001);
}
