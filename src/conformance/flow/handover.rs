//! One consumer of a group has the lease; when it stops, another goes on at once.

use std::sync::Arc;

use super::gate::Gate;
use super::rig::{FOR_EVER, LEASE, Rig, made, patient};
use super::sink::polls;
use crate::conformance::Harness;
use crate::conformance::support::{assert_fenced, pause, poll_once};
use crate::consumer::Status;
use crate::error::ErrorKind;
use crate::storage::Progress;

pub(crate) async fn one_consumer_of_a_group_gets_all(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..50).await;
    let mut first = rig.takes("orders", "billing").await;
    let mut kept = rig.expect(&mut first, 0..1).await;
    let another = rig.another();
    let mut others = Vec::new();
    for rig in [&rig, &another, &another] {
        let mut consumer = rig.takes("orders", "billing").await;
        assert!(poll_once(consumer.next()).is_none());
        let standby = consumer.control();
        let standby = standby.wait_for(|status| status == Status::Standby);
        rig.subject.within("the others stand by", standby).await;
        others.push(consumer);
    }
    kept.extend(rig.expect(&mut first, 1..50).await);
    let epoch = kept[0].epoch();
    for delivery in kept {
        assert_eq!(delivery.epoch(), epoch);
        delivery.commit().await.expect("a commit");
        let mut others = others.iter_mut();
        assert!(others.all(|other| poll_once(other.next()).is_none()));
    }
    assert_eq!(first.control().status(), Status::Active { epoch });
    let mut others = others.iter();
    assert!(others.all(|other| other.control().status() == Status::Standby));
    assert_eq!(rig.state("orders", "billing").await.epoch, epoch);
}

pub(crate) async fn a_shutdown_hands_over_at_once(harness: Arc<dyn Harness>) {
    hands_over(harness, |consumer| drop(consumer.control().shutdown())).await;
}

pub(crate) async fn a_drop_hands_over_at_once(harness: Arc<dyn Harness>) {
    hands_over(harness, drop).await;
}

async fn hands_over(harness: Arc<dyn Harness>, leave: impl Fn(crate::Consumer)) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..60).await;
    let mut epoch = 0;
    // Consumers of two processes take turns: each commits ten, and lets go of the next three.
    let rigs = [rig.clone(), rig.another()];
    let mut waiting = rig.takes("orders", "billing").await;
    for round in 0..6 {
        let mut consumer = waiting;
        let rig = &rigs[(round as usize + 1) % 2];
        waiting = rig.takes("orders", "billing").await;
        for delivery in rig.expect(&mut consumer, round * 10..round * 10 + 10).await {
            assert!(delivery.epoch() > epoch, "a new owner has a new epoch");
            assert_eq!(delivery.attempt(), 1, "nobody died of it");
            delivery.commit().await.expect("a commit");
        }
        if round < 5 {
            let last = round * 10 + 10..round * 10 + 13;
            epoch = rig.expect(&mut consumer, last).await[0].epoch();
        }
        assert!(poll_once(waiting.next()).is_none());
        leave(consumer);
    }
    assert_eq!(
        rig.state("orders", "billing").await.progress,
        Progress::at(60)
    );
}

pub(crate) async fn a_standby_that_leaves_disturbs_nobody(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..20).await;
    let mut consumer = rig.takes("orders", "billing").await;
    for offset in 0..20 {
        let delivery = rig
            .expect(&mut consumer, offset..offset + 1)
            .await
            .remove(0);
        let mut standby = rig.takes("orders", "billing").await;
        polls(offset as usize % 3, standby.next()).await;
        match offset % 2 {
            0 => drop(standby),
            _ => rig.shut_down(&standby.control()).await,
        }
        assert_eq!(delivery.epoch(), 1);
        delivery.commit().await.expect("the owner is not disturbed");
    }
}

pub(crate) async fn a_consumer_that_leaves_early_blocks_nobody(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..40).await;
    for round in 0..40 {
        // It may be claiming, reading, or about to hand out.
        let mut early = rig.takes("orders", "billing").await;
        if round % 4 > 0 {
            drop(poll_once(early.next()));
        }
        for _ in 0..round % 8 {
            tokio::task::yield_now().await;
        }
        if round % 10 == 9 {
            pause().await;
        }
        drop(early);
        let mut consumer = rig.takes("orders", "billing").await;
        let delivery = rig.expect(&mut consumer, round..round + 1).await.remove(0);
        assert_eq!(delivery.attempt(), 1);
        delivery.commit().await.expect("a commit");
        rig.shut_down(&consumer.control()).await;
    }
}

pub(crate) async fn a_shutdown_waits_for_what_is_held(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..4).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let mut held = rig.expect(&mut consumer, 0..3).await;
    let control = consumer.control();
    drop(consumer);
    pause().await;
    assert!(poll_once(control.shutdown()).is_none(), "three are held");
    held.remove(2).ack();
    drop(held.remove(1));
    pause().await;
    assert!(poll_once(control.shutdown()).is_none(), "one is held");
    held.remove(0)
        .commit()
        .await
        .expect("the lease is kept for it");
    rig.shut_down(&control).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.owner, None);
    let done = [0, 1, 2, 3].map(|offset| state.progress.is_done(offset));
    assert_eq!(done, [true, false, true, false]);
}

pub(crate) async fn a_shutdown_waits_no_longer_than_it_may(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..1).await;
    let builder = rig.consumer("orders", "billing").lease(FOR_EVER);
    let mut consumer = made(builder.drain(LEASE)).await;
    let held = rig.expect(&mut consumer, 0..1).await.remove(0);
    let what = "a shutdown gives up waiting";
    let shutdown = consumer.control().shutdown();
    rig.passing(LEASE, what, shutdown).await;
    let mut consumer = rig.takes("orders", "billing").await;
    rig.expect(&mut consumer, 0..1).await;
    let what = "a commit after the lease was given back";
    assert_fenced(&held.commit().await, what);
}

/// A program ends with `close`: whatever of it consumes hands over, with all that it has said.
pub(crate) async fn closing_hands_all_consumers_over(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..10).await;
    // Another process of the same storage, which stays open.
    let flow = rig.on(Arc::new(Gate::new(rig.subject.harness.storage())));
    let mut unpolled = Vec::new();
    for group in ["billing", "shipping"] {
        let builder = patient(flow.consumer("orders", group));
        let mut consumer = made(builder.drain(LEASE)).await;
        for delivery in rig.expect(&mut consumer, 0..6).await {
            delivery.ack();
        }
        unpolled.push(consumer);
    }
    let what = "closing ends";
    let closed = rig.passing(LEASE / 20, what, flow.close()).await;
    closed.expect("closed");
    for group in ["billing", "shipping"] {
        let state = rig.state("orders", group).await;
        assert_eq!((state.position(), state.owner), (6, None), "{group}");
        let late = flow.consumer("orders", group).await;
        let error = late.expect_err("it was closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
}

pub(crate) async fn partitions_are_handed_over(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.create_stream("orders", 3).await.expect("a stream");
    let mut producer = rig.makes("orders").await;
    let keyed = (0..60u64).map(|number| {
        let message = crate::Message::new(number.to_string());
        message.with_key(number.to_string())
    });
    let batch: crate::Batch = keyed.collect();
    producer.append(batch).await.expect("an append");
    let another = rig.another();
    let mut waiting = made(patient(another.consumer("orders", "billing"))).await;
    let mut done = std::collections::BTreeSet::new();
    for round in 0..6 {
        let mut consumer = waiting;
        waiting = rig.takes("orders", "billing").await;
        for _ in 0..10 {
            let delivery = rig.next(&mut consumer).await;
            let place = (delivery.partition(), delivery.offset());
            assert!(done.insert(place), "{place:?} comes again, done before");
            delivery.commit().await.expect("a commit");
        }
        let control = consumer.control();
        let all = || async { control.partitions().iter().all(|status| status.is_active()) };
        rig.subject.eventually("all leases are claimed", all).await;
        if round % 2 == 0 {
            assert!(poll_once(waiting.next()).is_none());
        }
        drop(consumer);
    }
    assert_eq!(done.len(), 60, "all of them");
}
