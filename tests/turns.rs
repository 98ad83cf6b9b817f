//! Partitions of one consumer: none waits for another that is paused, slow or stuck, and what is read
//! ahead of all of them is bounded together.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use flowstream::{Batch, Delivery, Message, Status};
use support::*;

/// A stream in which each partition has so many messages, in batches of ten.
async fn partitions(counts: &[u64]) -> World {
    let world = world().await;
    fill_partitions(&world, counts).await;
    world
}

async fn fill_partitions(world: &World, counts: &[u64]) {
    let wide = counts.len() as u32;
    world.flow.create_stream("wide", wide).await.unwrap();
    let keys = keys(world, wide).await;
    let mut producer = world.flow.producer("wide").await.unwrap();
    for (partition, count) in counts.iter().enumerate() {
        for at in (0..*count).step_by(10) {
            let batch = (at..(at + 10).min(*count))
                .map(|at| Message::new(at.to_string()).with_key(keys[partition].clone()));
            producer.append(batch.collect::<Batch>()).await.unwrap();
        }
    }
}

/// A key for each partition.
async fn keys(world: &World, partitions: u32) -> Vec<String> {
    let name = format!("keys of {partitions}");
    world.flow.create_stream(&name, partitions).await.unwrap();
    let mut producer = world.flow.producer(&name).await.unwrap();
    let mut keys = BTreeMap::new();
    for number in 0.. {
        let message = Message::new("").with_key(number.to_string());
        let appended = producer.append(message).await.unwrap();
        keys.insert(appended.offsets()[0].partition, number.to_string());
        if keys.len() == partitions as usize {
            break;
        }
    }
    keys.into_values().collect()
}

#[tokio::test]
async fn each_partition_that_has_messages_gets_its_turn() {
    let world = partitions(&[1_000; 8]).await;
    let mut consumer = world.flow.consumer("wide", "billing").await.unwrap();
    let mut order = Vec::new();
    while order.len() < 8_000 {
        let delivery = next(&mut consumer).await;
        order.push(delivery.partition() as usize);
        delivery.ack();
        // All that can be read ahead is there.
        quiet().await;
    }
    // From when all are there on, as long as all have some: nobody waits for more than 64 of each.
    let mut waited = [[0; 8]; 8];
    for at in &order[64..4_000] {
        for (who, waited) in waited.iter_mut().enumerate() {
            waited[*at] += 1;
            assert!(who == *at || waited[*at] <= 64, "{who} waits for {at}");
        }
        waited[*at] = [0; 8];
    }
}

#[tokio::test]
async fn a_paused_partition_keeps_no_other_waiting() {
    // Too many that wait to be retried, or too many held between those that are done.
    for is_retried in [true, false] {
        let world = partitions(&[4_000, 500]).await;
        let consumer = world.flow.consumer("wide", "billing");
        let mut consumer = consumer.lease(Duration::from_secs(7200)).await.unwrap();
        let (mut held, mut others) = (Vec::new(), 0);
        take_all(&mut consumer, |delivery| match delivery.partition() {
            0 if is_retried => delivery.retry_after(Duration::from_secs(3600)),
            0 if delivery.offset() % 2 == 0 => held.push(delivery),
            0 => delivery.ack(),
            _ => {
                others += 1;
                delivery.ack();
            }
        })
        .await;
        assert_eq!(others, 500, "all of the other one");
        // And what comes later.
        fill_partitions(&world, &[0, 10]).await;
        assert_eq!(take_all(&mut consumer, Delivery::ack).await, 10);
        // It goes on.
        held.into_iter().for_each(Delivery::ack);
        if is_retried {
            world.pass(Duration::from_secs(3600)).await;
        }
        let mut offsets = Vec::new();
        take_all(&mut consumer, |delivery| {
            offsets.push(delivery.offset());
            delivery.ack();
        })
        .await;
        assert!(offsets.len() >= 1_900, "{}", offsets.len());
        assert!(offsets.contains(&3_999));
    }
}

/// What is read ahead of a paused partition takes no room from the others, and comes all the same.
#[tokio::test]
async fn a_paused_partition_gives_its_room_to_the_others() {
    let world = partitions(&[3_000, 3_000, 3_000]).await;
    let consumer = world.flow.consumer("wide", "billing").prefetch(4_096);
    let mut consumer = consumer.lease(Duration::from_secs(7200)).await.unwrap();
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    let (mut held, mut total) = (Vec::new(), 0);
    while total < 9_000 {
        let count = take_all(&mut consumer, |delivery| {
            let partition = delivery.partition() as usize;
            seen[partition].push(delivery.offset());
            match partition {
                0 if delivery.offset() % 2 == 0 => held.push(delivery),
                _ => delivery.ack(),
            }
        })
        .await;
        assert!(count > 0, "it stands still at {total}");
        total += count;
        held.drain(..).for_each(Delivery::ack);
    }
    for offsets in seen {
        assert!(offsets.iter().copied().eq(0..3_000), "each once, in order");
    }
}

/// The pipeline stood still for so long that a partition gave its lease up: the next poll brings it
/// back, whatever that poll finds.
#[tokio::test]
async fn a_stuck_partition_comes_back_with_the_next_poll() {
    let processing = Duration::from_secs(300);
    let world = partitions(&[10, 0]).await;
    let builder = world.flow.consumer("wide", "billing");
    let mut consumer = builder.max_processing(processing).await.unwrap();
    let held = next(&mut consumer).await;
    world.pass_in(processing * 3, 200).await;
    let control = consumer.control();
    let actives = || control.partitions().into_iter().map(Status::is_active);
    assert!(actives().eq([false, true]), "{control:?}");
    // The other one has so much that each poll finds something.
    fill_partitions(&world, &[0, 20_000]).await;
    quiet().await;
    let mut taken = 0;
    while !actives().all(|is_active| is_active) {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.partition(), 1);
        delivery.ack();
        taken += 1;
        assert!(taken < 1_000, "it waits for all of the other one");
        quiet().await;
    }
    drop(held);
}

/// A chunk over four partitions, of which the last is committed with all before it.
#[tokio::test]
async fn a_commit_through_the_last_of_a_chunk_stops_no_other_partition() {
    let world = partitions(&[100; 4]).await;
    let builder = world.flow.consumer("wide", "billing");
    let mut consumer = builder.lease(Duration::from_secs(7200)).await.unwrap();
    for _ in 0..200 {
        let mut chunk = Vec::new();
        take_all(&mut consumer, |delivery| chunk.push(delivery)).await;
        if let Some(last) = chunk.pop() {
            drop(chunk);
            last.commit_through().await.unwrap();
        }
        world.pass_in(Duration::from_secs(6), 12).await;
        let states = world.flow.group("wide", "billing").await.unwrap();
        if states.iter().all(|state| state.lag() == 0) {
            return;
        }
    }
    panic!("some partitions never advance");
}
