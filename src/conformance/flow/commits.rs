//! Commits: Ok means that it is durable.

use std::sync::Arc;
use std::time::Duration;

use super::rig::{Rig, of};
use crate::conformance::Harness;
use crate::conformance::generator::Random;
use crate::conformance::support::{pause, poll_once};
use crate::storage::Progress;

const MESSAGES: u64 = 50;

pub(crate) async fn commits_in_any_order_are_kept(harness: Arc<dyn Harness>) {
    let mut rig = Rig::new(harness);
    rig.fill("orders", 0..MESSAGES).await;
    let mut random = Random(7);
    let mut left: Vec<u64> = (0..MESSAGES).collect();
    while !left.is_empty() {
        let mut consumer = rig.takes("orders", "billing").await;
        let mut deliveries = Vec::new();
        for offset in &left {
            let delivery = rig.next(&mut consumer).await;
            assert_eq!(
                delivery.offset(),
                *offset,
                "exactly those that are not done"
            );
            deliveries.push(delivery);
        }
        for _ in 0..left.len().min(15) {
            let index = random.below(left.len() as u64) as usize;
            let delivery = deliveries.remove(index);
            delivery.commit().await.expect("a commit");
            let state = rig.state("orders", "billing").await;
            assert!(state.progress.is_done(left.remove(index)), "Ok is durable");
        }
        drop(deliveries);
        if random.below(2) == 0 {
            rig.shut_down(&consumer.control()).await;
        } else {
            drop(consumer);
            let given_back = || async { rig.state("orders", "billing").await.owner.is_none() };
            let what = "a drop gives the lease back";
            rig.subject.eventually(what, given_back).await;
        }
        rig.reopen().await;
    }
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(MESSAGES));
}

pub(crate) async fn a_commit_through_takes_all_before(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..20).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let mut deliveries = rig.expect(&mut consumer, 0..12).await;
    let through = |offset| Progress::at(offset);
    deliveries
        .remove(4)
        .commit_through()
        .await
        .expect("a commit");
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, through(5));
    // Those before it are done whatever becomes of their handles.
    drop(deliveries.remove(0));
    deliveries.remove(0).commit().await.expect("done already");
    let last = deliveries.pop().expect("the last one");
    last.commit_through().await.expect("a commit");
    let earlier = deliveries.pop().expect("an earlier one");
    earlier.commit_through().await.expect("done already");
    drop(deliveries);
    rig.shut_down(&consumer.control()).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, through(12));
    let mut consumer = rig.takes("orders", "billing").await;
    rig.expect(&mut consumer, 12..20).await;
}

pub(crate) async fn an_ack_is_written_soon(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..10).await;
    let mut consumer = rig.takes("orders", "billing").await;
    for delivery in rig.expect(&mut consumer, 0..5).await {
        delivery.ack();
    }
    let written = rig.subject.eventually("acks are written", || async {
        rig.state("orders", "billing").await.progress == Progress::at(5)
    });
    let what = "acks are written in the background";
    rig.passing(Duration::from_millis(50), what, written).await;
    for delivery in rig.expect(&mut consumer, 5..8).await {
        delivery.ack();
    }
    rig.shut_down(&consumer.control()).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(8), "a shutdown writes them");
}

pub(crate) async fn concurrent_commits_are_all_kept(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..200).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let mut tasks = tokio::task::JoinSet::new();
    for delivery in rig.expect(&mut consumer, 0..200).await {
        tasks.spawn(delivery.commit());
    }
    while let Some(committed) = {
        let what = "a commit is answered";
        rig.subject.within(what, tasks.join_next()).await
    } {
        committed.expect("a task").expect("a commit");
    }
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(200));
}

pub(crate) async fn a_commit_outlives_its_consumer(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..3).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let mut held = rig.expect(&mut consumer, 0..3).await;
    drop(consumer);
    let (message, commit) = held.remove(1).into_parts();
    assert_eq!(message.body(), "1");
    assert_eq!(
        (commit.stream(), commit.partition(), commit.offset()),
        ("orders", 0, 1)
    );
    // On another task, after all the rest is gone.
    let commit = tokio::spawn(async move {
        pause().await;
        commit.commit().await
    });
    drop(held.remove(0));
    held.remove(0).ack();
    let committed = rig.subject.within("a commit", commit).await;
    committed.expect("a task").expect("a commit");
    let mut consumer = rig.takes("orders", "billing").await;
    rig.expect(&mut consumer, 0..1).await.remove(0).ack();
    rig.shut_down(&consumer.control()).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(3));
}

pub(crate) async fn a_commit_that_was_polled_once_is_written(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..40).await;
    let mut consumer = rig.takes("orders", "billing").await;
    for delivery in rig.expect(&mut consumer, 0..40).await {
        match delivery.offset() {
            // Not polled: a handle that was dropped.
            offset if offset % 4 == 3 => drop(delivery.commit()),
            offset if offset % 4 == 2 => drop(poll_once(delivery.commit_through())),
            _ => drop(poll_once(delivery.commit())),
        }
    }
    let group = of("orders", "billing");
    let what = "a commit is written even if nobody waits for it";
    rig.subject
        .eventually(what, || async {
            let progress = rig.subject.state(&group).await.progress;
            progress == Progress::at(39)
        })
        .await;
    drop(consumer);
    let mut consumer = rig.takes("orders", "billing").await;
    rig.expect(&mut consumer, 39..40).await;
}
