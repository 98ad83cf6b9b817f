//! How things end: closing shuts everything down, and no end waits for ever.

mod support;

use std::sync::Arc;
use std::time::Duration;

use flowstream::{Control, Delivery, ErrorKind, Options, Status};
use futures::SinkExt;
use support::*;

const DRAIN: Duration = Duration::from_secs(10);

/// Lets the time pass that an end may take at most.
async fn ends<F: Future>(world: &World, what: &str, end: F) -> F::Output {
    let passing = async {
        loop {
            world.clock.advance(DRAIN / 50);
            quiet().await;
        }
    };
    soon(what, async {
        tokio::select! {
            biased;
            output = end => output,
            () = passing => unreachable!(),
        }
    })
    .await
}

/// The loop ended with a signal, and the program with `close`: what was acked was lost, and the lease
/// was not given back.
#[tokio::test]
async fn closing_is_all_that_ends_a_program() {
    for url in STORAGES {
        let world = world_on(url, |options| options).await;
        world.fill("orders", 30).await;
        let (signal, signalled) = tokio::sync::oneshot::channel::<()>();
        let builder = world.flow.consumer("orders", "billing");
        let mut consumer = builder.shutdown_on(signalled).await.unwrap();
        let mut signal = Some(signal);
        let mut acked = 0;
        while let Some(delivery) = soon("the end", consumer.try_next()).await.unwrap() {
            delivery.ack();
            acked += 1;
            if acked == 26 {
                drop(signal.take());
                quiet().await;
            }
        }
        assert_eq!(acked, 26);
        let inner = world.faulty.inner().clone();
        // Closing the storage itself would end the test.
        world.faulty.times(Call::Close, Fault::Fail, 1);
        assert!(ends(&world, "closing", world.flow.close()).await.is_err());
        let calm = Options::new()
            .clock(world.clock.clone())
            .open_storage(inner);
        let state = calm.group("orders", "billing").await.unwrap().remove(0);
        assert_eq!((state.position(), state.owner), (26, None));
    }
}

#[tokio::test]
async fn closing_waits_for_all_consumers_and_refuses_what_comes_later() {
    let world = world().await;
    world.fill("orders", 9).await;
    let mut consumers = Vec::new();
    let mut held = Vec::new();
    for group in ["a", "b", "c"] {
        let mut consumer = world.flow.clone().consumer("orders", group).await.unwrap();
        held.push(next(&mut consumer).await);
        consumers.push(consumer);
    }
    let mut producer = world.flow.producer("orders").await.unwrap();
    let closing = tokio::spawn({
        let flow = world.flow.clone();
        async move { flow.close().await }
    });
    quiet().await;
    for consumer in &mut consumers {
        assert!(soon("the end", consumer.next()).await.is_none());
    }
    quiet().await;
    assert!(!closing.is_finished(), "three deliveries are held");
    let late = world.flow.consumer("orders", "late").await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Closed);
    held.drain(..2).for_each(Delivery::ack);
    world.pass(DRAIN / 2).await;
    assert!(!closing.is_finished(), "one is held");
    ends(&world, "closing", closing).await.unwrap().unwrap();
    let error = producer.send("late".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    // Once more does no harm.
    ends(&world, "closing again", world.flow.close()).await.ok();
}

#[tokio::test]
async fn a_shutdown_ends_also_where_the_storage_hangs() {
    for call in [
        Call::Release,
        Call::Commit,
        Call::Claim,
        Call::Observe,
        Call::Read,
    ] {
        let world = world_with(|options| options).await;
        world.fill("orders", 3).await;
        let builder = world.flow.consumer("orders", "billing").drain(DRAIN);
        let mut consumer = builder.await.unwrap();
        if !matches!(call, Call::Claim) {
            next(&mut consumer).await.ack();
            quiet().await;
        }
        world.faulty.set(call, Fault::Hold);
        if let Some(next) = futures::FutureExt::now_or_never(consumer.next()) {
            next.unwrap().unwrap().ack();
        }
        quiet().await;
        let began = flowstream::Clock::now(&world.clock);
        ends(&world, "the shutdown", consumer.control().shutdown()).await;
        let took = flowstream::Clock::now(&world.clock) - began;
        assert!(took <= DRAIN + DRAIN / 10, "{call:?}: {took:?}");
        assert_eq!(consumer.control().status(), Status::Closed);
    }
}

/// The time for handles that are held was the time for the last writes, too: a busy machine lost the
/// commits of a consumer that waits for nobody, and its lease stayed behind.
#[tokio::test]
async fn a_shutdown_that_waits_for_nobody_writes_what_was_acked() {
    let world = world().await;
    world.fill("orders", 3).await;
    let builder = world.flow.consumer("orders", "billing");
    let mut consumer = builder.drain(Duration::ZERO).await.unwrap();
    let held = next(&mut consumer).await;
    for _ in 0..2 {
        next(&mut consumer).await.ack();
    }
    held.ack();
    world.faulty.set(Call::Commit, Fault::Hold);
    let stopped = consumer.control().shutdown();
    world.pass_in(Duration::from_secs(2), 20).await;
    world.faulty.set(Call::Release, Fault::Hold);
    world.faulty.clear(Call::Commit);
    world.faulty.let_go();
    world.pass_in(Duration::from_secs(2), 20).await;
    world.faulty.heal();
    soon("the end", stopped).await;
    let state = world.group("orders", "billing").await;
    assert_eq!((state.position(), state.owner), (3, None));
}

/// The lease could not be renewed while handles were waited for: it was not given back.
#[tokio::test]
async fn a_lease_that_lapses_while_it_is_drained_is_given_back() {
    let world = world().await;
    world.fill("orders", 3).await;
    let lease = Duration::from_secs(2);
    let builder = world.flow.consumer("orders", "billing").lease(lease);
    let mut consumer = builder.drain(Duration::from_secs(600)).await.unwrap();
    let held = next(&mut consumer).await;
    let stopped = consumer.control().shutdown();
    world.faulty.set(Call::Commit, Fault::Fail);
    world.pass_in(lease * 3, 60).await;
    world.faulty.heal();
    soon("the end", stopped).await;
    assert_eq!(world.group("orders", "billing").await.owner, None);
    assert!(held.commit().await.unwrap_err().is_fenced());
}

/// What a standby waited for kept the storage open for a twentieth of a lease.
#[tokio::test]
async fn a_standby_that_is_gone_keeps_no_storage_open() {
    let world = world().await;
    world.fill("orders", 3).await;
    let lease = Duration::from_secs(600);
    let consumer = || world.flow.consumer("orders", "billing").lease(lease);
    let (mut active, mut standby) = (consumer().await.unwrap(), consumer().await.unwrap());
    let held = next(&mut active).await;
    assert!(futures::FutureExt::now_or_never(standby.next()).is_none());
    quiet().await;
    let controls: Vec<Control> = vec![active.control(), standby.control()];
    drop((held, active, standby));
    for control in controls {
        soon("the end", control.shutdown()).await;
    }
    let World { faulty, flow, .. } = world;
    let storage = Arc::downgrade(faulty.inner());
    drop((flow, faulty));
    eventually("nobody has the storage", || storage.strong_count() == 0).await;
}
