//! Handles that are used where and when they should not be.

use std::time::Duration;

use flowstream::storage::Progress;
use flowstream::{Delivery, ErrorKind, Message};
use futures::SinkExt;

use crate::support::*;
use crate::values::{duration, text};
use crate::{assert_no_panics, watch_panics};

async fn deliveries(world: &World, count: u64) -> (flowstream::Consumer, Vec<Delivery>) {
    world.fill("orders", count).await;
    let consumer = world
        .flow
        .consumer("orders", "billing")
        .drain(Duration::ZERO);
    let mut consumer = consumer.await.unwrap();
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(next(&mut consumer).await);
    }
    (consumer, all)
}

/// Any verdict, with any text and time.
async fn judge(delivery: Delivery, random: &mut Random) -> flowstream::Result<()> {
    let reason = text(random);
    match random.below(7) {
        0 => delivery.commit().await,
        1 => delivery.commit_through().await,
        2 => delivery.dead_letter(reason).await.map_err(Into::into),
        3 => {
            delivery.ack();
            Ok(())
        }
        4 => {
            delivery.retry_after(duration(random));
            Ok(())
        }
        5 => {
            drop(delivery.commit());
            Ok(())
        }
        _ => {
            let mut message = delivery.into_message();
            drop(message.take_commits());
            Ok(())
        }
    }
}

#[tokio::test]
async fn handles_outlive_the_storage_and_say_so() {
    watch_panics();
    for url in STORAGES {
        let world = world_on(url, |options| options).await;
        let (consumer, deliveries) = deliveries(&world, 40).await;
        soon("the close", world.flow.close()).await.unwrap();
        let mut random = Random::new(1);
        let mut refused = 0;
        for delivery in deliveries {
            if let Err(error) = soon("a verdict", judge(delivery, &mut random)).await {
                // The lease was given back, and the storage closed.
                let kinds = [ErrorKind::Fenced, ErrorKind::Closed];
                assert!(kinds.contains(&error.kind()), "{error:?}");
                refused += 1;
            }
        }
        assert!(refused > 5, "{url}: {refused}");
        drop(consumer);
    }
    assert_no_panics();
}

#[tokio::test]
async fn handles_of_a_lease_that_was_lost_change_nothing() {
    watch_panics();
    for url in STORAGES {
        let world = world_on(url, |options| options).await;
        let (consumer, deliveries) = deliveries(&world, 40).await;
        world.take_over("orders", "billing").await;
        let mut random = Random::new(2);
        let mut refused = 0;
        for delivery in deliveries {
            if let Err(error) = soon("a verdict", judge(delivery, &mut random)).await {
                assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
                refused += 1;
            }
        }
        assert!(refused > 5, "{url}: {refused}");
        let state = world.group("orders", "billing").await;
        assert_eq!(state.progress, Progress::at(0));
        drop(consumer);
    }
    assert_no_panics();
}

#[tokio::test]
async fn handles_of_another_storage_commit_there() {
    watch_panics();
    for url in STORAGES {
        let (here, there) = (
            world_on(url, |options| options).await,
            world_on(url, |options| options).await,
        );
        let (consumer, deliveries) = deliveries(&here, 8).await;
        let mut producer = there.flow.producer("copies").await.unwrap();
        for (number, delivery) in (0..).zip(deliveries) {
            // One message takes several, another takes one that is not its own.
            let mut message = delivery.into_message();
            if number % 2 == 1 {
                let commits = message.take_commits();
                let mut other = Message::new("other");
                commits.into_iter().for_each(|commit| other.attach(commit));
                message = other;
            }
            producer.send(message).await.unwrap();
        }
        assert_eq!(there.flow.bounds("copies").await.unwrap(), [0..8]);
        soon("the shutdown", consumer.control().shutdown()).await;
        assert_eq!(here.position("orders", "billing").await, 8);
        assert!(there.flow.groups(None).await.unwrap().is_empty());
    }
    assert_no_panics();
}

#[tokio::test]
async fn one_message_has_many_handles_and_is_done_once() {
    watch_panics();
    for url in STORAGES {
        let world = world_on(url, |options| options).await;
        world.fill("orders", 3).await;
        // Two consumers after each other hold a handle of the same message.
        let mut handles = Vec::new();
        for _ in 0..3 {
            let consumer = world
                .flow
                .consumer("orders", "billing")
                .drain(Duration::ZERO);
            let mut consumer = consumer.await.unwrap();
            handles.push(next(&mut consumer).await);
            soon("the shutdown", consumer.control().shutdown()).await;
        }
        let last = handles.pop().unwrap();
        for old in handles {
            let error = soon("a verdict", old.commit()).await.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Closed),
                "{error:?}"
            );
        }
        // Its consumer is gone as well.
        assert!(soon("a verdict", last.commit()).await.is_err());
        assert_eq!(world.position("orders", "billing").await, 0);
    }
    assert_no_panics();
}
