//! Deliveries that were dropped: delivered again, never skipped, never in the way for ever.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use flowstream::Status;
use flowstream::storage::{Group, Lease, Name, Partition, Verdicts};
use support::*;

const AFTER: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_hole_is_delivered_again_after_a_while_and_not_earlier() {
    let world = world().await;
    world.fill("orders", 3).await;
    let consumer = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(AFTER);
    let mut consumer = consumer.await.unwrap();
    for attempt in 1..5 {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.offset(), delivery.attempt()), (0, attempt));
        drop(delivery);
        if attempt == 1 {
            next(&mut consumer).await.commit().await.unwrap();
        }
        quiet().await;
        world.pass(AFTER - Duration::from_millis(1)).await;
        let mut early = 0;
        take_all(&mut consumer, |delivery| {
            assert_eq!(delivery.offset(), 2);
            early += 1;
            delivery.ack();
        })
        .await;
        assert_eq!(
            early,
            u32::from(attempt == 1),
            "only what was never delivered"
        );
        world.pass(Duration::from_millis(2)).await;
    }
    next(&mut consumer).await.commit().await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 3);
    world.pass(AFTER * 3).await;
    assert_eq!(take_all(&mut consumer, drop).await, 0);
}

#[tokio::test]
async fn a_dropped_message_with_nothing_done_beyond_waits_for_that() {
    let world = world().await;
    world.fill("orders", 2).await;
    let consumer = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(AFTER);
    let mut consumer = consumer.await.unwrap();
    drop(next(&mut consumer).await);
    let second = next(&mut consumer).await;
    world.pass(AFTER * 2).await;
    assert_eq!(take_all(&mut consumer, drop).await, 0);
    second.commit().await.unwrap();
    world.pass(AFTER * 2).await;
    assert_eq!(next(&mut consumer).await.offset(), 0);
}

#[tokio::test]
async fn a_hole_survives_an_outage() {
    let world = world().await;
    world.fill("orders", 3).await;
    let consumer = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(AFTER);
    let mut consumer = consumer.lease(AFTER * 1000).await.unwrap();
    drop(next(&mut consumer).await);
    next(&mut consumer).await.commit().await.unwrap();
    world.faulty.set(Call::Read, Fault::Fail);
    world.faulty.set(Call::Observe, Fault::Fail);
    world.pass(AFTER * 3).await;
    world.faulty.heal();
    world.pass(AFTER * 3).await;
    let mut offsets = Vec::new();
    take_all(&mut consumer, |delivery| offsets.push(delivery.offset())).await;
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 2]);
}

#[tokio::test]
async fn too_many_holes_pause_the_consumer_and_it_recovers() {
    let world = world().await;
    world.fill("orders", 5000).await;
    let consumer = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(AFTER);
    let mut consumer = consumer.lease(AFTER * 1000).await.unwrap();
    let mut paused = 0;
    let mut done = BTreeSet::new();
    for _ in 0..100 {
        take_all(&mut consumer, |delivery| {
            if delivery.offset() % 2 == 1 || delivery.attempt() > 1 {
                assert!(done.insert(delivery.offset()));
                delivery.ack();
            }
        })
        .await;
        world.pass_in(Duration::from_millis(100), 2).await;
        let state = world.group("orders", "billing").await;
        assert!(state.progress.acked().len() <= 1000);
        paused += usize::from(state.progress.acked().len() >= 999);
        if state.progress.position() == 5000 {
            break;
        }
        world.pass_in(AFTER, 5).await;
    }
    assert!(paused > 0, "it never paused");
    assert_eq!(done.len(), 5000);
    assert_eq!(world.position("orders", "billing").await, 5000);
}

#[tokio::test]
async fn handles_that_are_held_pause_it_and_their_commits_resume_it() {
    let world = world().await;
    world.fill("orders", 5000).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let mut held = Vec::new();
    let mut total = 0;
    while total < 5000 {
        let count = take_all(&mut consumer, |delivery| match delivery.offset() % 2 {
            0 => held.push(delivery),
            _ => delivery.ack(),
        })
        .await;
        assert!(count > 0, "paused for ever at {total}");
        total += count;
        for delivery in held.drain(..) {
            delivery.ack();
        }
    }
    soon("the shutdown", consumer.control().shutdown()).await;
    assert_eq!(world.position("orders", "billing").await, 5000);
}

#[tokio::test]
async fn commit_through_closes_a_hole() {
    let world = world().await;
    world.fill("orders", 4).await;
    let consumer = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(AFTER);
    let mut consumer = consumer.await.unwrap();
    drop(next(&mut consumer).await);
    next(&mut consumer).await.commit().await.unwrap();
    drop(next(&mut consumer).await);
    next(&mut consumer).await.commit_through().await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 4);
    world.pass(AFTER * 3).await;
    assert_eq!(take_all(&mut consumer, drop).await, 0);
}

#[tokio::test]
async fn holes_in_several_partitions_all_come_again() {
    let world = world().await;
    world.flow.create_stream("wide", 3).await.unwrap();
    let mut producer = world.flow.producer("wide").await.unwrap();
    let messages = (0..300).map(|i| flowstream::Message::new("m").with_key(i.to_string()));
    producer
        .append(messages.collect::<flowstream::Batch>())
        .await
        .unwrap();
    let consumer = world
        .flow
        .consumer("wide", "billing")
        .redeliver_after(AFTER);
    let mut consumer = consumer.lease(AFTER * 1000).await.unwrap();
    let mut done = BTreeSet::new();
    for _ in 0..100 {
        take_all(&mut consumer, |delivery| {
            if delivery.offset() % 3 != 0 || delivery.attempt() > 1 {
                done.insert((delivery.partition(), delivery.offset()));
                delivery.ack();
            }
        })
        .await;
        world.pass_in(AFTER * 2, 10).await;
        // The last of a partition is no hole before something beyond it is done.
        let mut producer = world.flow.producer("wide").await.unwrap();
        for i in 0..3 {
            let more = flowstream::Message::new("more").with_key(format!("more {i}"));
            producer.append(more).await.unwrap();
        }
        if done.len() >= 300 {
            break;
        }
    }
    assert!(done.len() >= 300, "{}", done.len());
}

/// A message may be done without its consumer's knowing: the answer was lost.
#[tokio::test]
async fn progress_is_read_again_before_a_hole_comes_again() {
    for is_taken_over in [false, true] {
        let world = world().await;
        world.fill("orders", 2).await;
        let consumer = world
            .flow
            .consumer("orders", "billing")
            .redeliver_after(AFTER);
        let mut consumer = consumer.lease(AFTER * 1000).await.unwrap();
        drop(next(&mut consumer).await);
        next(&mut consumer).await.commit().await.unwrap();
        let lease = match is_taken_over {
            true => world.take_over("orders", "billing").await,
            false => {
                let state = world.group("orders", "billing").await;
                Lease {
                    group: Group {
                        partition: Partition {
                            stream: Name::new("orders").unwrap(),
                            index: 0,
                        },
                        name: Name::new("billing").unwrap(),
                    },
                    owner: state.owner.unwrap(),
                    epoch: state.epoch,
                }
            }
        };
        let done = Verdicts::from(0..1);
        world.faulty.inner().commit(&lease, &done).await.unwrap();
        world.pass(AFTER * 3).await;
        assert_eq!(take_all(&mut consumer, drop).await, 0);
        let status = match is_taken_over {
            true => Status::Standby,
            false => Status::Active { epoch: 1 },
        };
        assert_eq!(consumer.control().status(), status);
    }
}
