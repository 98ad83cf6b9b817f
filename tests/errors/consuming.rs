//! Consumers that cannot be made, commits that are not accepted, and what streams say.

use std::time::Duration;

use flowstream::{Consumer, Message};
use futures::FutureExt;

use crate::listing::Listing;
use crate::refused;
use crate::support::*;

const LEASE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn consumers_that_cannot_be_made() {
    let mut listing = Listing::new("Consumers that cannot be made");
    let flow = flowstream::open("memory:").await.unwrap();
    let builder = || flow.consumer("orders", "billing");
    listing.refused("a lease of no time", builder().lease(Duration::ZERO).await);
    listing.refused("max_attempts(0)", builder().max_attempts(0).await);
    let circle = builder().dead_letters("orders").await;
    listing.refused("dead letters back to the stream", circle);
    let long = "x".repeat(200);
    listing.name(long.clone(), "LONG");
    let limited = flow.consumer(&long, &long).max_attempts(1).await;
    listing.refused("long names, and a limit of attempts", limited);
    fill(&flow, &long, 1).await;
    let mut consumer = flow.consumer(&long, &long).await.unwrap();
    let moved = next(&mut consumer).await.dead_letter("secret-value").await;
    listing.refused("long names, and a dead letter", moved);
    listing.compare();
}

async fn billing(world: &World) -> Consumer {
    let builder = world.flow.consumer("orders", "billing");
    builder
        .lease(LEASE)
        .max_processing(LEASE * 3)
        .await
        .unwrap()
}

#[tokio::test]
async fn commits_after_a_takeover() {
    let mut listing = Listing::new("Commits after a takeover");
    let world = world().await;
    world.fill("orders", 5).await;

    let mut consumer = billing(&world).await;
    let (held, relayed) = (next(&mut consumer).await, next(&mut consumer).await);
    let buried = next(&mut consumer).await;
    world.take_over("orders", "billing").await;
    let mut producer = world.flow.producer("out").await.unwrap();
    let append = producer.append(relayed.into_message()).await;
    listing.refused("an append of what is relayed, after a takeover", append);
    listing.refused("a commit after a takeover", soon("it", held.commit()).await);
    let buried = soon("it", buried.dead_letter("secret-value")).await;
    listing.refused("a dead letter after a takeover", buried);
    drop(consumer);

    let old = world.take_over("orders", "billing").await;
    world.take_over("orders", "billing").await;
    let commit = world.faulty.inner().commit(&old, &Default::default()).await;
    listing.refused("Storage::commit of a lease that was taken over", commit);
    listing.compare();
}

/// It ended without another owner.
#[tokio::test]
async fn commits_under_a_lease_that_is_over() {
    let mut listing = Listing::new("Commits under a lease that is over");
    let world = world_of_one().await;
    let mut stuck = billing(&world).await;
    let held = next(&mut stuck).await;
    world.pass_in(LEASE * 10, 200).await;
    listing.refused(
        "a commit after max_processing",
        soon("it", held.commit()).await,
    );

    let world = world_of_one().await;
    let mut lapsed = billing(&world).await;
    let held = next(&mut lapsed).await;
    world.faulty.set(Call::Commit, Fault::Fail);
    let failed = soon("it", next(&mut second(&world).await).await.commit()).await;
    listing.refused("a commit while the storage fails", failed);
    world.pass_in(LEASE * 2, 100).await;
    listing.refused(
        "a commit after a lease that lapsed",
        soon("it", held.commit()).await,
    );

    let world = world_of_one().await;
    let drain = world.flow.consumer("orders", "billing").drain(LEASE);
    let mut consumer = drain.await.unwrap();
    let held = next(&mut consumer).await;
    let mut stopped = Box::pin(consumer.control().shutdown());
    assert!(stays_pending(&mut stopped).await);
    world.pass(LEASE * 3).await;
    soon("the shutdown", stopped).await;
    listing.refused("a commit after a shutdown", soon("it", held.commit()).await);

    let world = world_of_one().await;
    let mut consumer = billing(&world).await;
    let (held, other) = (next(&mut consumer).await, next(&mut consumer).await);
    world.faulty.set(Call::Append, Fault::Doubt);
    let mut producer = world.flow.producer("out").await.unwrap();
    let error = refused(producer.append(other.into_message()).await);
    assert!(error.in_doubt());
    drop(error);
    quiet().await;
    let commit = soon("it", held.commit()).await;
    listing.refused(
        "a commit, and a relayed message in doubt was dropped",
        commit,
    );

    let world = world_of_one().await;
    let mut consumer = billing(&world).await;
    let held = next(&mut consumer).await;
    world
        .faulty
        .set(Call::Commit, Fault::Break(flowstream::ErrorKind::Closed));
    let commit = soon("it", held.commit()).await;
    listing.refused("a commit into a storage that is closed", commit);
    listing.compare();
}

async fn world_of_one() -> World {
    let world = world().await;
    world.fill("orders", 2).await;
    world
}

/// A consumer of another group.
async fn second(world: &World) -> Consumer {
    world.flow.consumer("orders", "other").await.unwrap()
}

/// What the stream itself gives.
#[tokio::test]
async fn streams() {
    let mut listing = Listing::new("Errors of a consumer's stream");
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    for body in ["0", "1", "2"] {
        producer.append(Message::new(body)).await.unwrap();
    }
    let mut consumer = billing(&world).await;
    world.flow.trim("orders", 0, 2).await.unwrap();
    let trimmed = soon("it", consumer.try_next()).await;
    listing.refused("what was trimmed away", trimmed);
    next(&mut consumer).await.commit().await.unwrap();

    // Another storage is in its place, which has less.
    let world = world_of_one().await;
    let mut consumer = billing(&world).await;
    let held = next(&mut consumer).await;
    let clock = world.clock.clone();
    let successor = memory(clock.clone());
    let elsewhere = flowstream::Options::new()
        .clock(clock)
        .open_storage(successor.clone());
    drop(elsewhere.consumer("orders", "billing").await.unwrap());
    world.faulty.fail_over(successor);
    refused(soon("it", held.commit()).await);
    let lost = soon("it", consumer.try_next()).await;
    listing.refused("a storage that lost what was read", lost);
    listing.compare();

    let mut listing = Listing::new("A consumer whose driver or runtime is gone");
    let world = world_of_one().await;
    let mut consumer = billing(&world).await;
    world.faulty.set(Call::Read, Fault::Panic);
    let gone = soon("it", consumer.try_next()).await;
    listing.refused("a driver that panics", gone);
    assert!(soon("the end", consumer.next()).await.is_none());
    let world = world_of_one().await;
    let mut consumer = billing(&world).await;
    world.flow.close().await.unwrap();
    assert!(consumer.next().now_or_never().is_some(), "it ends");
    listing.compare();
}

/// A runtime that ends takes along what ran on it.
#[test]
fn runtimes_that_end() {
    let mut listing = Listing::new("Runtimes that end");
    let new = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let (one, other) = (new(), new());
    let world = other.block_on(world());
    other.block_on(world.fill("orders", 1));
    let mut consumer = one.block_on(async { billing(&world).await });
    let mut producer = one.block_on(async { world.flow.producer("orders").await.unwrap() });
    drop(one);
    let gone = other.block_on(async { soon("it", consumer.try_next()).await });
    listing.refused("a consumer whose runtime has ended", gone);
    // Its producer goes on with the other runtime, and stops with that.
    drop(other);
    let append = futures::executor::block_on(producer.append(Message::new("secret-body")));
    listing.refused("a producer whose runtime has ended, outside of any", append);
    listing.compare();
}
