//! What outlives a process: restarts, clean ones and others.

use std::sync::Arc;

use super::rig::{LEASE, Rig, made, of};
use super::sink::{Forward, feed, flush};
use crate::conformance::Harness;
use crate::storage::{Liveness, Progress};

pub(crate) async fn what_was_sent_outlives_a_restart(harness: Arc<dyn Harness>) {
    let mut rig = Rig::new(harness);
    for round in 0..3 {
        let mut producer = rig.makes("orders").await;
        for number in round * 10..round * 10 + 10u64 {
            let fed = feed(&mut producer, number.to_string()).await;
            fed.expect("taken");
        }
        flush(&mut producer).await.expect("a flush");
        if !rig.reopen().await {
            return;
        }
        let all: Vec<u64> = (0..round * 10 + 10).collect();
        assert_eq!(rig.numbers("orders").await, all);
    }
    let read = rig.read("orders", 0, 28).await.expect("a page");
    let offsets: Vec<u64> = read.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [28, 29]);
}

pub(crate) async fn a_group_goes_on_after_a_restart(harness: Arc<dyn Harness>) {
    let mut rig = Rig::new(harness);
    rig.fill("orders", 0..20).await;
    for round in 0..4 {
        let mut consumer = rig.takes("orders", "billing").await;
        for delivery in rig.expect(&mut consumer, round * 5..round * 5 + 5).await {
            delivery.commit().await.expect("a commit");
        }
        rig.shut_down(&consumer.control()).await;
        let closed = rig.close().await;
        closed.expect("a flow closes what it was opened with");
        if !rig.reopen().await {
            return;
        }
        let state = rig.state("orders", "billing").await;
        assert_eq!(state.progress, Progress::at(round * 5 + 5));
    }
}

pub(crate) async fn a_group_goes_on_after_a_death(harness: Arc<dyn Harness>) {
    let mut rig = Rig::new(harness);
    rig.fill("orders", 0..10).await;
    let mut expected = 0;
    for round in 0..3 {
        // A runtime that ends stops its tasks wherever they are.
        let (done, died) = tokio::sync::oneshot::channel();
        let there = rig.clone();
        let next = expected;
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime");
            let held = runtime.block_on(async {
                let mut consumer = there.leases("orders", "billing").await;
                let what = "a consumer gets what its predecessor left";
                let first = there.passing(LEASE / 20, what, consumer.next()).await;
                let first = super::rig::delivered(first);
                assert_eq!(first.offset(), next);
                let attempt = first.attempt();
                first.commit().await.expect("a commit");
                let held = there.expect(&mut consumer, next + 1..next + 3).await;
                (attempt, held, consumer)
            });
            drop(runtime);
            let _ = done.send(held);
        });
        let what = "a process dies";
        let death = rig.subject.within(what, died).await;
        let (attempt, _held, _consumer) = death.expect("what it held");
        expected += 1;
        assert_eq!(attempt > 1, round > 0, "begun before, by the one that died");
        // In some rounds a new process opens the storage, with handles of the old one about.
        if round == 1 && rig.reopen().await {
            let state = rig.state("orders", "billing").await;
            assert_eq!(state.progress, Progress::at(expected));
        }
    }
    let billing = [of("orders", "billing")];
    let what = "a group is observed";
    let observed = rig.subject.within(what, async {
        loop {
            match rig.subject.observe(&billing).await {
                Ok(mut states) => return states.remove(0).expect("it is known"),
                // What the runtime that died had open may be met once more.
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    });
    let state = observed.await;
    let mut consumer = rig.leases("orders", "billing").await;
    let what = "a consumer replaces one whose process has died";
    let next = match state.liveness == Liveness::Dead {
        // No time needs to pass where the death is seen.
        true => rig.subject.within(what, consumer.next()).await,
        false => rig.passing(LEASE / 20, what, consumer.next()).await,
    };
    let delivery = super::rig::delivered(next);
    assert!(delivery.offset() == expected && delivery.attempt() > 1);
    assert!(delivery.epoch() > state.epoch);
    delivery.commit_through().await.expect("a commit");
    let next = rig.next(&mut consumer).await;
    assert_eq!((next.offset(), next.attempt()), (expected + 1, 1));
}

pub(crate) async fn a_relay_goes_on_after_a_restart(harness: Arc<dyn Harness>) {
    let mut rig = Rig::new(harness);
    rig.fill("in", 0..60).await;
    for round in 0..6u64 {
        let builder = rig.consumer("in", "relay").lease(LEASE);
        let consumer = made(builder.prefetch(1)).await;
        let control = consumer.control();
        let producer = rig.producer("out").batch_messages(3).await;
        let forward = Forward::new(consumer, producer.expect("a producer"));
        let relay = tokio::spawn(forward);
        let out = super::rig::partition("out");
        let what = "a relay writes";
        let written = rig.subject.eventually(what, || async {
            rig.subject.range(&out).await.end >= (round + 1) * 10
        });
        rig.passing(LEASE / 20, what, written).await;
        if round % 2 == 0 {
            // A clean end; otherwise as it comes.
            rig.shut_down(&control).await;
        } else {
            relay.abort();
        }
        let _ = relay.await;
        if !rig.reopen().await {
            break;
        }
    }
    let out = rig.numbers("out").await;
    assert!(
        out.iter().copied().eq(0..out.len() as u64),
        "once, in order"
    );
    let state = rig.state("in", "relay").await;
    assert_eq!(state.progress, Progress::at(out.len() as u64));
}
