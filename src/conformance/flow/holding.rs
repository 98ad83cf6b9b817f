//! Leases, while time passes.

use std::sync::Arc;
use std::time::Duration;

use super::rig::{FOR_EVER, LEASE, Rig, delivered, made, patient, unhurried};
use crate::conformance::Harness;
use crate::conformance::support::{assert_fenced, pause, poll_once};
use crate::consumer::{Consumer, Status};
use crate::error::{Error, ErrorKind, Result};

/// A consumer that stands by.
async fn standby(rig: &Rig, lease: Duration, stream: &str) -> Consumer {
    let mut standby = rig.leases_for(lease, stream, "billing").await;
    assert!(poll_once(standby.next()).is_none());
    let control = standby.control();
    let stands_by = control.wait_for(|status| status == Status::Standby);
    rig.subject
        .within("a second one stands by", stands_by)
        .await;
    standby
}

pub(crate) async fn an_idle_group_writes_nothing(harness: Arc<dyn Harness>) {
    unhurried(harness, idle).await;
}

async fn idle(rig: Rig, lease: Duration, stream: &'static str) -> Result<()> {
    rig.fill(stream, 0..3).await;
    let mut consumer = rig.leases_for(lease, stream, "billing").await;
    for delivery in rig.expect(&mut consumer, 0..3).await {
        delivery.commit().await?;
    }
    assert!(poll_once(consumer.next()).is_none());
    let mut standby = standby(&rig.another(), lease, stream).await;
    let before = rig.state(stream, "billing").await;
    for _ in 0..4 {
        rig.subject.harness.pass(lease + lease / 10).await;
        for _ in 0..5 {
            pause().await;
        }
        assert!(poll_once(consumer.next()).is_none());
        assert!(poll_once(standby.next()).is_none());
    }
    let state = rig.state(stream, "billing").await;
    assert_eq!(state, before, "neither the owner nor a standby writes");
    rig.fill(stream, 3..4).await;
    // It goes on under its lease; or the standby has it meanwhile, and that shows below.
    let delivery = tokio::select! {
        next = rig.next(&mut consumer) => next,
        next = standby.next() => delivered(next),
    };
    assert_eq!(delivery.offset(), 3);
    match delivery.epoch() == before.epoch {
        true => delivery.commit().await,
        false => Err(Error::new(
            ErrorKind::Fenced,
            "a standby took over".to_owned(),
        )),
    }
}

pub(crate) async fn a_lease_is_renewed_for_what_is_held(harness: Arc<dyn Harness>) {
    unhurried(harness, held).await;
}

async fn held(rig: Rig, lease: Duration, stream: &'static str) -> Result<()> {
    rig.fill(stream, 0..5).await;
    let mut consumer = rig.leases_for(lease, stream, "billing").await;
    let held = rig.expect(&mut consumer, 0..5).await;
    let mut standby = standby(&rig.another(), lease, stream).await;
    for delivery in held {
        let before = rig.state(stream, "billing").await.generation;
        rig.subject.harness.pass(lease * 6 / 10).await;
        let what = "a lease is renewed while a message is held";
        rig.subject
            .eventually(what, || async {
                rig.state(stream, "billing").await.generation > before
            })
            .await;
        let next = poll_once(standby.next());
        delivery.commit().await?;
        assert!(next.is_none(), "nobody takes over");
    }
    assert_eq!(rig.state(stream, "billing").await.epoch, 1);
    Ok(())
}

pub(crate) async fn steady_commits_need_no_renewals(harness: Arc<dyn Harness>) {
    unhurried(harness, steady).await;
}

async fn steady(rig: Rig, lease: Duration, stream: &'static str) -> Result<()> {
    rig.fill(stream, 0..10).await;
    let clock = rig.subject.harness.clock();
    // The claim is the first write.
    let mut wrote = clock.now();
    let mut consumer = rig.leases_for(lease, stream, "billing").await;
    let deliveries = rig.expect(&mut consumer, 0..9).await;
    let before = rig.state(stream, "billing").await.generation;
    let mut needed = 0;
    for delivery in deliveries {
        rig.subject.harness.pass(lease / 4).await;
        pause().await;
        let began = clock.now();
        delivery.commit().await?;
        // On a busy machine a commit may take long, and then a renewal is right: a lease counts from
        // the beginning of its last write.
        needed += (clock.now() - wrote).as_millis() / (lease / 2).as_millis();
        wrote = began;
    }
    let state = rig.state(stream, "billing").await;
    let renewals = u128::from(state.generation - before - 9);
    assert!(
        renewals <= needed,
        "{renewals} beside the commits, {needed} needed"
    );
    Ok(())
}

pub(crate) async fn a_stuck_pipeline_gives_its_lease_up(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..2).await;
    let builder = patient(rig.consumer("orders", "billing")).lease(LEASE);
    let mut stuck = made(builder.max_processing(LEASE)).await;
    let held = rig.expect(&mut stuck, 0..1).await.remove(0);
    let mut standby = standby(&rig.another(), LEASE, "orders").await;
    let what = "a pipeline that stands still is replaced";
    let next = rig.passing(LEASE / 20, what, standby.next()).await;
    let next = delivered(next);
    assert!(next.offset() == 0 && next.attempt() > 1, "begun before");
    assert!(next.epoch() > held.epoch());
    let what = "a commit of the former owner";
    assert_fenced(&held.commit().await, what);
    next.commit_through().await.expect("the new owner's commit");
    rig.shut_down(&standby.control()).await;
    rig.expect(&mut stuck, 1..2).await;
}

pub(crate) async fn one_that_waits_is_not_stuck(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..2).await;
    let builder = patient(rig.consumer("orders", "billing"));
    let builder = builder.lease(LEASE).max_processing(LEASE);
    let mut consumer = made(builder.redeliver_after(FOR_EVER)).await;
    // The last message is let go of, so one is pending while the consumer waits.
    drop(rig.expect(&mut consumer, 0..2).await);
    let what = "a consumer that waits gets what nobody has done";
    let control = consumer.control();
    // On a task, that it is polled only when it is woken.
    let next = tokio::spawn(async move { delivered(consumer.next().await).offset() });
    let next = rig.passing(LEASE / 20, what, next).await;
    assert_eq!(next.expect("the consumer"), 0);
    rig.shut_down(&control).await;
}

pub(crate) async fn a_fenced_consumer_stands_by_again(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..10).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let control = consumer.control();
    let mut done = 0;
    for _ in 0..3 {
        let mut held = rig.expect(&mut consumer, done..done + 3).await;
        let epoch = held[0].epoch();
        held.remove(0).commit().await.expect("a commit");
        done += 1;
        let lease = rig.takes_over("orders", "billing").await;
        assert!(lease.epoch > epoch);
        let what = "a commit of the former owner";
        assert_fenced(&held.remove(0).commit().await, what);
        assert_fenced(&held.remove(0).commit_through().await, what);
        let what = "a fenced consumer stands by";
        let mut next = Box::pin(consumer.next());
        let standing = control.wait_for(|status| status == Status::Standby);
        rig.subject
            .within(what, async {
                tokio::select! {
                    _ = standing => {}
                    next = &mut next => panic!("its stream gives {next:?}"),
                }
            })
            .await;
        drop(next);
        // The other one has done a message when it leaves.
        rig.subject.done(&lease, done..done + 1).await;
        done += 1;
        rig.subject.released(&lease).await;
        let delivery = rig.expect(&mut consumer, done..done + 1).await.remove(0);
        assert!(delivery.epoch() > lease.epoch);
        delivery.commit().await.expect("it has a lease again");
        done += 1;
        rig.subject.harness.pass(Duration::from_millis(1)).await;
    }
}
