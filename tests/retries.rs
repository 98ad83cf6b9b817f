//! Deliveries that are to come again: when they are due, in which order, and what is written of it.

mod support;

use std::time::Duration;

use flowstream::storage::{GroupState, Ranges};
use flowstream::{Consumer, Error, Status};
use support::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

async fn consumer(world: &World) -> Consumer {
    let builder = world.flow.consumer("orders", "billing");
    builder.lease(SECOND * 1000).await.unwrap()
}

async fn counts(world: &World) -> Vec<(u64, u32)> {
    let GroupState { attempts, .. } = world.group("orders", "billing").await;
    attempts
}

#[tokio::test]
async fn a_retry_comes_when_it_is_due_and_not_earlier() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut consumer = consumer(&world).await;
    for attempt in 1..5 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.attempt(), attempt);
        delivery.retry_after(SECOND);
        quiet().await;
        world.pass(SECOND - MS).await;
        assert_eq!(take_all(&mut consumer, drop).await, 0);
        world.pass(MS * 2).await;
    }
    next(&mut consumer).await.commit().await.unwrap();
    world.pass(SECOND * 10).await;
    assert_eq!(take_all(&mut consumer, drop).await, 0);
}

#[tokio::test]
async fn retries_come_in_the_order_in_which_they_are_due() {
    let world = world().await;
    world.fill("orders", 4).await;
    let mut consumer = consumer(&world).await;
    for after in [4, 1, 3, 2] {
        next(&mut consumer).await.retry_after(SECOND * after);
    }
    let mut offsets = Vec::new();
    for _ in 0..4 {
        world.pass(SECOND).await;
        take_all(&mut consumer, |delivery| {
            offsets.push(delivery.offset());
            delivery.ack();
        })
        .await;
    }
    assert_eq!(offsets, [1, 3, 2, 0]);
}

#[tokio::test]
async fn what_comes_again_goes_before_what_is_new() {
    let world = world().await;
    world.fill("orders", 9).await;
    let mut consumer = consumer(&world).await;
    next(&mut consumer).await.retry_after(Duration::ZERO);
    quiet().await;
    let mut seen = Vec::new();
    take_all(&mut consumer, |delivery| {
        seen.push((delivery.offset(), delivery.attempt()));
        delivery.ack();
    })
    .await;
    let new = (1..9).map(|offset| (offset, 1));
    let expected: Vec<_> = [(0, 2)].into_iter().chain(new).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn counts_share_a_write_and_are_written_by_the_way() {
    let world = world().await;
    world.fill("orders", 20).await;
    let mut consumer = consumer(&world).await;
    for _ in 0..20 {
        next(&mut consumer).await.retry_after(SECOND * 60);
    }
    quiet().await;
    assert_eq!(world.faulty.count(Call::Commit), 0, "not at once");
    world.pass(SECOND).await;
    assert_eq!(world.faulty.count(Call::Commit), 1, "one for all");
    let expected: Vec<(u64, u32)> = (0..20).map(|offset| (offset, 1)).collect();
    assert_eq!(counts(&world).await, expected);
    world.pass(SECOND).await;
    assert_eq!(world.faulty.count(Call::Commit), 1, "once");
}

#[tokio::test]
async fn counts_that_could_not_be_written_go_with_the_next_write() {
    for fault in [Fault::Fail, Fault::Lose] {
        let world = world().await;
        world.fill("orders", 3).await;
        let mut consumer = consumer(&world).await;
        world.faulty.times(Call::Commit, fault, 1);
        next(&mut consumer).await.retry_after(SECOND * 60);
        let other = next(&mut consumer).await;
        world.pass(SECOND).await;
        other.commit().await.unwrap();
        assert_eq!(counts(&world).await, [(0, 1)], "{fault:?}");
        // At the latest with the end.
        world.faulty.times(Call::Commit, fault, 1);
        next(&mut consumer).await.retry_after(SECOND * 60);
        let stopped = consumer.control().shutdown();
        world.pass(SECOND).await;
        soon("the shutdown", stopped).await;
    }
}

#[tokio::test]
async fn retries_survive_an_outage() {
    let world = world().await;
    world.fill("orders", 2).await;
    let mut consumer = consumer(&world).await;
    next(&mut consumer).await.retry_after(SECOND);
    next(&mut consumer).await.retry_after(SECOND);
    quiet().await;
    world.faulty.set_all(Fault::Fail);
    world.pass(SECOND * 5).await;
    world.faulty.heal();
    world.pass(SECOND * 5).await;
    let mut seen = Vec::new();
    take_all(&mut consumer, |delivery| {
        seen.push((delivery.offset(), delivery.attempt()));
        delivery.ack();
    })
    .await;
    assert_eq!(seen, [(0, 2), (1, 2)]);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_retries() {
    let world = world().await;
    world.fill("orders", 2).await;
    let mut consumer = consumer(&world).await;
    next(&mut consumer).await.retry_after(SECOND * 1000);
    let held = next(&mut consumer).await;
    let control = consumer.control();
    let stopped = control.shutdown();
    quiet().await;
    assert!(control.status().is_active(), "one is held");
    // A verdict after the shutdown is written, too.
    held.retry_after(SECOND * 1000);
    soon("the shutdown", stopped).await;
    let state = world.group("orders", "billing").await;
    assert_eq!((state.owner, state.attempts), (None, vec![(0, 1), (1, 1)]));
}

#[tokio::test]
async fn what_was_trimmed_does_not_come_again() {
    let world = world().await;
    for _ in 0..3 {
        world.fill("orders", 1).await;
    }
    let mut consumer = consumer(&world).await;
    for _ in 0..3 {
        next(&mut consumer).await.retry_after(SECOND);
    }
    world.flow.trim("orders", 0, 2).await.unwrap();
    world.pass(SECOND * 2).await;
    let mut seen = Vec::new();
    take_all(&mut consumer, |delivery| {
        seen.push(delivery.offset());
        delivery.ack();
    })
    .await;
    assert_eq!(seen, [2]);
    world.pass(SECOND).await;
    assert_eq!(world.position("orders", "billing").await, 3);
}

#[tokio::test]
async fn a_limit_of_no_attempt_and_a_circle_of_the_dead_are_refused() {
    let world = world().await;
    let refused = |refused: Result<Consumer, Error>| refused.unwrap_err().to_string();
    let builder = || world.flow.consumer("orders", "billing");
    let text = refused(builder().max_attempts(0).await);
    assert!(text.contains("max_attempts(0)"), "{text}");
    let text = refused(builder().dead_letters("orders").await);
    assert!(text.contains("same stream"), "{text}");
    refused(builder().dead_letters("").await);
    let long = "x".repeat(200);
    let builder = || world.flow.consumer(&long, &long);
    let text = refused(builder().max_attempts(1).await);
    assert!(text.contains("dead_letters"), "{text}");
    let builder = builder().max_attempts(1).dead_letters("graves");
    builder.await.unwrap();
    // Without a limit, it is said when it is needed.
    world.fill(&long, 1).await;
    let mut consumer = world.flow.consumer(&long, &long).await.unwrap();
    let refused = next(&mut consumer).await.dead_letter("no").await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("dead_letters"), "{text}");
}

#[tokio::test]
async fn one_that_reads_for_a_retry_sees_that_its_lease_is_lost() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut consumer = consumer(&world).await;
    next(&mut consumer).await.retry_after(SECOND);
    world.pass(SECOND / 2).await;
    let lease = world.take_over("orders", "billing").await;
    let done = Ranges::from(0..1).into();
    world.faulty.inner().commit(&lease, &done).await.unwrap();
    world.pass(SECOND).await;
    let again = take_all(&mut consumer, drop).await;
    assert_eq!(again, 0, "the new owner has done it");
    assert_eq!(consumer.control().status(), Status::Standby);
}

/// What waits to be retried is no excuse for one that has a message and does not take it.
#[tokio::test]
async fn a_pipeline_that_is_not_polled_is_stuck_whatever_waits_to_be_retried() {
    let world = world().await;
    world.fill("orders", 2).await;
    let builder = world.flow.consumer("orders", "billing").lease(SECOND * 10);
    let mut consumer = builder.max_processing(SECOND * 30).await.unwrap();
    next(&mut consumer).await.retry_after(SECOND * 1000);
    world.pass_in(SECOND * 60, 120).await;
    assert_eq!(consumer.control().status(), Status::Idle);
}
