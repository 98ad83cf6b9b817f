//! A consumer of many partitions: what it needs for each is a few calls at a time, so that nothing else
//! waits long behind them.

mod support;

use flowstream::storage::{Group, Name, Partition, Start};
use flowstream::{Message, Status};
use support::*;

const PARTITIONS: u32 = 100;
/// As many as the library has under way at once.
const AT_ONCE: usize = 64;
const READS: usize = 4;

async fn wide() -> World {
    let world = world().await;
    world.flow.create_stream("wide", PARTITIONS).await.unwrap();
    world
}

fn group(index: u32) -> Group {
    Group {
        partition: Partition {
            stream: Name::new("wide").unwrap(),
            index,
        },
        name: Name::new("billing").unwrap(),
    }
}

/// Waits until so many calls are held, and no more come.
async fn holds(world: &World, count: usize) {
    eventually("some are held", || world.faulty.held() >= count).await;
    quiet().await;
    assert_eq!(world.faulty.held(), count);
}

/// One after the other, each waited for the one before.
#[tokio::test]
async fn groups_are_made_some_at_once() {
    let world = wide().await;
    world.faulty.set(Call::CreateGroup, Fault::Hold);
    let flow = world.flow.clone();
    let building = tokio::spawn(async move { flow.consumer("wide", "billing").await });
    holds(&world, AT_ONCE).await;
    world.faulty.heal();
    let consumer = building.await.unwrap().expect("a consumer");
    assert_eq!(world.faulty.count(Call::CreateGroup), PARTITIONS as usize);
    assert_eq!(consumer.control().partitions().len(), PARTITIONS as usize);
}

#[tokio::test]
async fn the_first_group_that_cannot_be_made_ends_it() {
    let world = wide().await;
    world.faulty.after(
        Call::CreateGroup,
        20,
        Fault::Break(flowstream::ErrorKind::Data),
        1,
    );
    let error = world.flow.consumer("wide", "billing").await.unwrap_err();
    assert_eq!(error.kind(), flowstream::ErrorKind::Data);
    let most = 20 + AT_ONCE;
    assert!(world.faulty.count(Call::CreateGroup) <= most);
}

/// With 4,000 at once there was no connection for most of them, nor for the commits of others.
#[tokio::test]
async fn leases_are_claimed_some_at_once() {
    let world = wide().await;
    let mut consumer = world.flow.consumer("wide", "billing").await.unwrap();
    world.faulty.set(Call::Claim, Fault::Hold);
    assert!(stays_pending(&mut Box::pin(consumer.next())).await);
    holds(&world, AT_ONCE).await;
    world.faulty.heal();
    let control = consumer.control();
    eventually("all are active", || {
        control.partitions().into_iter().all(Status::is_active)
    })
    .await;
    assert_eq!(world.faulty.count(Call::Claim), PARTITIONS as usize);
}

/// Who waits for a turn to claim has begun nothing.
#[tokio::test]
async fn a_shutdown_claims_no_more() {
    let world = wide().await;
    let mut consumer = world.flow.consumer("wide", "billing").await.unwrap();
    world.faulty.set(Call::Claim, Fault::Hold);
    assert!(stays_pending(&mut Box::pin(consumer.next())).await);
    holds(&world, AT_ONCE).await;
    let shutdown = consumer.control().shutdown();
    quiet().await;
    world.faulty.heal();
    soon("it is shut down", shutdown).await;
    assert_eq!(world.faulty.count(Call::Claim), AT_ONCE);
    assert_eq!(world.faulty.count(Call::Release), AT_ONCE);
    let groups: Vec<Group> = (0..PARTITIONS).map(group).collect();
    let states = world.faulty.inner().observe(&groups).await.unwrap();
    let owned = states.into_iter().flatten().filter(|it| it.owner.is_some());
    assert_eq!(owned.count(), 0);
}

/// Each group that has something to do was read for by itself.
#[tokio::test]
async fn groups_are_listed_with_some_reads_at_once() {
    let world = wide().await;
    let storage = world.faulty.inner().clone();
    let mut producer = world.flow.producer("wide").await.unwrap();
    let batch: Vec<Message> = (0..1_000)
        .map(|n| Message::new("x").with_key(n.to_string()))
        .collect();
    producer.append(batch).await.unwrap();
    for index in 0..PARTITIONS {
        let created = storage.create_group(&group(index), Start::Earliest).await;
        created.unwrap();
    }
    world.faulty.set(Call::Read, Fault::Hold);
    let flow = world.flow.clone();
    let listing = tokio::spawn(async move { flow.groups("wide").await });
    holds(&world, READS).await;
    world.faulty.heal();
    let infos = listing.await.unwrap().expect("the groups");
    assert_eq!(infos.len(), PARTITIONS as usize);
    for (index, info) in (0..).zip(infos) {
        assert_eq!(info.group, group(index));
        assert_eq!(info.pending_since.is_some(), info.state.lag() > 0);
    }
}
