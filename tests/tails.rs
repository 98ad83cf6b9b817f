//! Consumers at the end of the log: what the process has in memory is not read again.

mod support;

use std::time::Duration;

use flowstream::{Consumer, Flowstream, Status};
use futures::SinkExt;
use support::*;

const LEASE: Duration = Duration::from_secs(30);

/// Consumers of so many groups, all of them at the end of an empty log.
async fn waiting(world: &World, groups: usize) -> Vec<Consumer> {
    let mut consumers = Vec::new();
    for group in 0..groups {
        let group = format!("group {group}");
        let consumer = world.flow.consumer("orders", group).lease(LEASE);
        let mut consumer = consumer.await.unwrap();
        assert_eq!(take_all(&mut consumer, drop).await, 0);
        consumers.push(consumer);
    }
    consumers
}

fn reads(world: &World) -> usize {
    world.faulty.count(Call::Read)
}

/// What another process has.
fn another(world: &World) -> Flowstream {
    open(&world.faulty, &world.clock, |options| options)
}

#[tokio::test]
async fn what_the_process_writes_is_not_read() {
    let world = world().await;
    let mut consumers = waiting(&world, 100).await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    let before = reads(&world);
    for number in 0..10 {
        producer.send(number.to_string().into()).await.unwrap();
        for consumer in &mut consumers {
            let delivery = next(consumer).await;
            assert_eq!(delivery.offset(), number);
            delivery.commit().await.unwrap();
        }
    }
    assert_eq!(reads(&world), before);
}

#[tokio::test]
async fn what_another_process_writes_is_read_once() {
    const APPENDS: usize = 10;
    for yields in [0, 3] {
        let world = world().await;
        let mut consumers = waiting(&world, 100).await;
        let mut producer = another(&world).producer("orders").await.unwrap();
        world.faulty.hesitate(yields);
        let before = reads(&world);
        for number in 0..APPENDS as u64 {
            producer.send(number.to_string().into()).await.unwrap();
            for consumer in &mut consumers {
                let delivery = next(consumer).await;
                assert_eq!(delivery.offset(), number);
                delivery.ack();
            }
        }
        let made = reads(&world) - before;
        assert!(made <= 2 * APPENDS, "{made} reads of {APPENDS} appends");
    }
}

#[tokio::test]
async fn where_two_processes_write_nothing_is_skipped() {
    let world = world().await;
    let mut consumers = waiting(&world, 3).await;
    let mut here = world.flow.producer("orders").await.unwrap();
    let mut there = another(&world).producer("orders").await.unwrap();
    let mut got = vec![Vec::new(); 3];
    for round in 0..20u64 {
        for (producer, body) in [(&mut here, 2 * round), (&mut there, 2 * round + 1)] {
            producer.send(body.to_string().into()).await.unwrap();
        }
        // Some come later than others, and at the end all do.
        let ready = if round == 19 { 3 } else { round as usize % 4 };
        for (consumer, got) in consumers.iter_mut().zip(&mut got).take(ready) {
            take_all(consumer, |delivery| got.push(text(delivery.message()))).await;
        }
    }
    for got in got {
        assert_eq!(got, numbers(40));
    }
}

#[tokio::test]
async fn where_one_that_reads_fails_another_goes_on() {
    let world = world().await;
    let mut consumers = waiting(&world, 3).await;
    world.faulty.times(Call::Read, Fault::Fail, 1);
    fill(&another(&world), "orders", 1).await;
    let mut failed = 0;
    for consumer in &mut consumers {
        match soon("a delivery or an error", consumer.next())
            .await
            .unwrap()
        {
            Ok(delivery) => assert_eq!(delivery.offset(), 0),
            Err(_) => failed += 1,
        }
    }
    assert_eq!(failed, 1);
}

#[tokio::test]
async fn nobody_waits_for_a_read_for_longer_than_the_lease_is_sure() {
    let world = world().await;
    let consumers = waiting(&world, 3).await;
    let before = reads(&world);
    world.faulty.times(Call::Read, Fault::Hold, 1);
    fill(&another(&world), "orders", 1).await;
    eventually("a read", || world.faulty.held() == 1).await;
    quiet().await;
    assert_eq!(reads(&world) - before, 1, "the others wait for it");
    world.pass(LEASE / 2).await;
    assert_eq!(reads(&world) - before, 3, "each for itself");
    world.faulty.let_go();
    for mut consumer in consumers {
        assert_eq!(next(&mut consumer).await.offset(), 0);
    }
}

#[tokio::test]
async fn a_lease_that_may_be_lost_is_looked_at() {
    let world = world().await;
    let mut consumer = waiting(&world, 1).await.remove(0);
    let mut producer = world.flow.producer("orders").await.unwrap();
    world.pass(LEASE / 2).await;
    let before = reads(&world);
    producer.send("0".into()).await.unwrap();
    next(&mut consumer).await.commit().await.unwrap();
    assert!(reads(&world) > before, "it is idle for half a lease");

    quiet().await;
    let before = reads(&world);
    producer.send("1".into()).await.unwrap();
    next(&mut consumer).await.commit().await.unwrap();
    assert_eq!(reads(&world), before, "it has just written");

    world.pass(LEASE / 2).await;
    world.take_over("orders", "group 0").await;
    producer.send("2".into()).await.unwrap();
    assert_eq!(take_all(&mut consumer, drop).await, 0);
    assert_eq!(consumer.control().status(), Status::Standby);
}

#[tokio::test]
async fn a_zombie_commits_nothing_of_what_it_has_from_memory() {
    let world = world().await;
    let mut consumer = waiting(&world, 1).await.remove(0);
    world.take_over("orders", "group 0").await;
    fill(&world.flow, "orders", 1).await;
    let delivery = next(&mut consumer).await;
    assert!(delivery.commit().await.unwrap_err().is_fenced());
    assert_eq!(world.position("orders", "group 0").await, 0);
    assert_eq!(take_all(&mut consumer, drop).await, 0);
}

#[tokio::test]
async fn an_eviction_is_seen_at_once() {
    let world = world().await;
    let mut consumer = waiting(&world, 1).await.remove(0);
    fill(&world.flow, "orders", 2).await;
    let first = next(&mut consumer).await;
    let epoch = first.epoch();
    another(&world).evict("orders", "group 0").await.unwrap();
    quiet().await;
    fill(&world.flow, "orders", 1).await;
    let mut epochs = Vec::new();
    take_all(&mut consumer, |delivery| epochs.push(delivery.epoch())).await;
    assert!(epochs.iter().all(|now| *now > epoch), "{epochs:?}");
    assert_eq!(epochs.len(), 3, "all of it again");
}
