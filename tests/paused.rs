//! A partition that is paused says so, and why.

mod support;

use std::time::Duration;

use flowstream::{Consumer, Delivery, Message, Pause, Status};
use support::*;

/// Acks every other of all that comes, and gives those that are not.
async fn take_all_and_hold_half(consumer: &mut Consumer) -> Vec<Delivery> {
    let mut held = Vec::new();
    take_all(consumer, |delivery| match delivery.offset() % 2 {
        0 => held.push(delivery),
        _ => delivery.ack(),
    })
    .await;
    held
}

/// Once it was said to be active while nothing came any more.
#[tokio::test]
async fn a_partition_with_too_much_done_beyond_a_message_that_is_not_says_that_it_is_paused() {
    for url in STORAGES {
        let world = world_on(url, |options| options).await;
        world.fill("orders", 3000).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let control = consumer.control();
        let mut held = Vec::new();
        let mut verdict = |delivery: Delivery| match delivery.offset() % 2 {
            0 => held.push(delivery),
            _ => delivery.ack(),
        };
        for _ in 0..1998 {
            verdict(next(&mut consumer).await);
        }
        let active = Status::Active { epoch: 1 };
        assert_eq!(control.status(), active, "999 ranges");
        let watching = control.clone();
        let paused = tokio::spawn(async move { watching.wait_for(Status::is_paused).await });
        let mut more = 0;
        while !control.status().is_paused() {
            verdict(next(&mut consumer).await);
            more += 1;
        }
        assert!((2..10).contains(&more), "it pauses: {more}");
        let (epoch, why) = (1, Pause::AckedRanges);
        let status = soon("the status", paused).await.unwrap();
        assert_eq!(status, Status::Paused { epoch, why });
        assert_eq!(control.partitions(), [status]);
        assert!(status.is_active(), "it has the lease");
        let mut coming = Box::pin(consumer.next());
        assert!(stays_pending(&mut coming).await, "nothing new comes");
        drop(coming);

        held.drain(..).for_each(Delivery::ack);
        assert_eq!(control.status(), active);
        next(&mut consumer).await.ack();
        soon("the shutdown", control.shutdown()).await;
        assert_eq!(control.status(), Status::Closed);
    }
}

#[tokio::test]
async fn a_partition_with_too_many_that_wait_to_be_retried_says_so() {
    let world = world().await;
    world.fill("orders", 2000).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let control = consumer.control();
    let again = Duration::from_secs(60);
    let count = take_all(&mut consumer, |delivery| delivery.retry_after(again)).await;
    assert!((1000..1010).contains(&count), "it pauses: {count}");
    let (epoch, why) = (1, Pause::Retries);
    assert_eq!(control.status(), Status::Paused { epoch, why });
    world.pass(again).await;
    take_all(&mut consumer, Delivery::ack).await;
    assert_eq!(control.status(), Status::Active { epoch });
}

/// The status is of the lease: what is said under one that ended changes nothing.
#[tokio::test]
async fn a_verdict_under_a_lease_that_was_lost_does_not_change_the_status() {
    let world = world().await;
    world.fill("orders", 3000).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let control = consumer.control();
    let mut held = take_all_and_hold_half(&mut consumer).await;
    assert!(control.status().is_paused());
    world.take_over("orders", "billing").await;
    let last = held.pop().unwrap();
    let fenced = soon("an answer", last.commit()).await.unwrap_err();
    assert!(fenced.is_fenced(), "{fenced}");
    quiet().await;
    assert_eq!(control.status(), Status::Standby);
    held.drain(..).for_each(Delivery::ack);
    quiet().await;
    assert_eq!(control.status(), Status::Standby);
}

/// Of several partitions the most active one counts.
#[tokio::test]
async fn one_that_is_paused_stands_behind_one_that_is_not() {
    let world = world().await;
    world.flow.create_stream("orders", 2).await.unwrap();
    let mut producer = world.flow.producer("orders").await.unwrap();
    // All of a key go to one partition.
    let message = || Message::new("a").with_key("k");
    let messages: Vec<_> = (0..2500).map(|_| message()).collect();
    producer.append(messages).await.unwrap();
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let control = consumer.control();
    let _held = take_all_and_hold_half(&mut consumer).await;
    let partitions = control.partitions().into_iter();
    assert_eq!(partitions.filter(|it| it.is_paused()).count(), 1);
    assert_eq!(control.status(), Status::Active { epoch: 1 });
}
