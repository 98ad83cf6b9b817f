//! An owner that cannot reach the storage for longer than its lease.

use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::rig::{LEASE, Rig, delivered, made, patient, unhurried};
use super::sink::feed;
use crate::conformance::Harness;
use crate::conformance::support::{assert_fenced, poll_once};
use crate::consumer::Status;
use crate::error::Result;
use crate::message::Message;
use crate::storage::Progress;

pub(crate) async fn an_owner_that_is_cut_off_is_replaced(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..30).await;
    let gate = Arc::new(Gate::new(rig.subject.harness.storage()));
    let cut_off = rig.on(gate.clone());
    let builder = patient(cut_off.consumer("orders", "billing"));
    let mut owner = made(builder.lease(LEASE)).await;
    let mut held = rig.expect(&mut owner, 0..4).await;
    held.remove(0).commit().await.expect("a commit");
    let mut standby = rig.leases("orders", "billing").await;
    assert!(poll_once(standby.next()).is_none());

    gate.shut();
    let late = tokio::spawn(held.remove(0).commit());
    let what = "an owner that is cut off is replaced";
    let next = delivered(rig.passing(LEASE / 20, what, standby.next()).await);
    assert!(next.offset() == 1 && next.attempt() > 1, "begun before");
    assert!(next.epoch() > held[0].epoch());
    // By its own clock the former owner knows without the storage.
    let what = "a former owner hands out nothing, and is told of its commits";
    let late = rig.subject.within(what, late).await;
    assert_fenced(&late.expect("a task"), "a commit that was cut off");
    assert!(poll_once(owner.next()).is_none(), "nothing is handed out");
    next.commit().await.expect("the new owner's commit");

    gate.open();
    let what = "a commit of the former owner";
    assert_fenced(&held.remove(0).commit().await, what);
    let standing = owner.control();
    let standing = standing.wait_for(|status| status == Status::Standby);
    rig.subject.within("it stands by again", standing).await;
    for delivery in rig.expect(&mut standby, 2..10).await {
        delivery.commit().await.expect("the new owner goes on");
    }
    drop(standby);
    let what = "the former owner goes on when the new one leaves";
    let next = delivered(rig.subject.within(what, owner.next()).await);
    assert_eq!((next.offset(), next.attempt()), (10, 1));
}

pub(crate) async fn a_cut_that_ends_in_time_changes_nothing(harness: Arc<dyn Harness>) {
    unhurried(harness, cut_in_time).await;
}

async fn cut_in_time(rig: Rig, lease: Duration, stream: &'static str) -> Result<()> {
    rig.fill(stream, 0..4).await;
    let gate = Arc::new(Gate::new(rig.subject.harness.storage()));
    let flow = rig.on(gate.clone());
    let mut owner = made(patient(flow.consumer(stream, "billing")).lease(lease)).await;
    let mut standby = rig.leases_for(lease, stream, "billing").await;
    for offset in 0..4 {
        let held = rig.expect(&mut owner, offset..offset + 1).await.remove(0);
        assert!(poll_once(standby.next()).is_none());
        gate.shut();
        let mut commit = Box::pin(held.commit());
        assert!(poll_once(commit.as_mut()).is_none());
        rig.subject.harness.pass(lease / 4).await;
        assert!(poll_once(commit.as_mut()).is_none(), "it waits");
        gate.open();
        rig.subject.within("a commit", commit).await?;
    }
    let state = rig.state(stream, "billing").await;
    assert_eq!((state.epoch, state.progress), (1, Progress::at(4)));
    Ok(())
}

pub(crate) async fn a_cut_off_relay_writes_nothing_late(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("in", 0..6).await;
    rig.fill("out", 0..0).await;
    let gate = Arc::new(Gate::new(rig.subject.harness.storage()));
    let flow = rig.on(gate.clone());
    let mut owner = made(patient(flow.consumer("in", "relay")).lease(LEASE)).await;
    let mut late = flow.producer("out").await.expect("a producer");
    for delivery in rig.expect(&mut owner, 0..3).await {
        feed(&mut late, delivery.into_message())
            .await
            .expect("taken");
    }
    gate.shut();
    let own = Message::new("99");
    let late = tokio::spawn(async move {
        feed(&mut late, own).await.expect("taken");
        super::sink::flush(&mut late).await
    });
    let mut relay = rig.leases("in", "relay").await;
    let mut out = rig.makes("out").await;
    for offset in 0..6 {
        let what = "another relay goes on";
        let next = delivered(rig.passing(LEASE / 20, what, relay.next()).await);
        assert_eq!(next.offset(), offset);
        let written = out.append(next.into_message()).await;
        written.expect("an append of the new owner");
    }
    gate.open();
    let flushed = rig.subject.within("a flush ends", late).await;
    flushed.expect("a task").expect("what is lost fails nobody");
    let expected = [0, 1, 2, 3, 4, 5, 99];
    assert_eq!(rig.numbers("out").await, expected, "each once");
    let state = rig.state("in", "relay").await;
    assert_eq!(state.progress, Progress::at(6));
}
