//! What a verdict does, and when it is durable.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use flowstream::storage::Ranges;
use futures::FutureExt;
use futures::future::join_all;
use support::*;

#[tokio::test]
async fn in_whatever_order_they_come() {
    let world = world().await;
    world.fill("orders", 6).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let mut deliveries = Vec::new();
    take_all(&mut consumer, |delivery| deliveries.push(Some(delivery))).await;
    for (offset, position, acked) in [
        (4, 0, Ranges::from(4..5)),
        (1, 0, [1..2, 4..5].into_iter().collect()),
        (0, 2, Ranges::from(4..5)),
        (3, 2, Ranges::from(3..5)),
        (2, 5, Ranges::new()),
        (5, 6, Ranges::new()),
    ] {
        let delivery = deliveries[offset].take().unwrap();
        soon("the commit", delivery.commit()).await.unwrap();
        let progress = world.group("orders", "billing").await.progress;
        assert_eq!((progress.position(), progress.acked()), (position, &acked));
    }
}

#[tokio::test]
async fn a_thousand_at_once_are_few_writes() {
    let world = world().await;
    world.fill("orders", 1000).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let mut deliveries = Vec::new();
    take_all(&mut consumer, |delivery| deliveries.push(delivery)).await;
    world.faulty.hesitate(3);
    let commits = deliveries
        .into_iter()
        .rev()
        .map(|delivery| delivery.commit());
    for committed in soon("the commits", join_all(commits)).await {
        committed.unwrap();
    }
    let writes = world.faulty.count(Call::Commit);
    assert!(writes <= 3, "1,000 commits were {writes} writes");
    assert_eq!(world.position("orders", "billing").await, 1000);
}

/// The first that commits wakes the keeper, which a worker of the runtime runs next: the others, who
/// were woken together with that one, would have to wait for another write.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn those_who_go_on_together_share_a_write() {
    const TASKS: u64 = 64;
    let world = world().await;
    world.fill("orders", TASKS).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let mut deliveries = Vec::new();
    take_all(&mut consumer, |delivery| deliveries.push(delivery)).await;
    let (go, gone) = tokio::sync::watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    for delivery in deliveries {
        let mut gone = gone.clone();
        tasks.spawn(async move {
            gone.wait_for(|gone| *gone).await.unwrap();
            delivery.commit().await.unwrap();
        });
    }
    // On the worker, when all of them wait.
    tokio::spawn(async move {
        while (go.receiver_count() as u64) <= TASKS {
            tokio::task::yield_now().await;
        }
        go.send(true).unwrap();
    });
    soon("the commits", tasks.join_all()).await;
    let writes = world.faulty.count(Call::Commit);
    assert!(writes <= 2, "{TASKS} commits were {writes} writes");
}

#[tokio::test]
async fn ok_means_durable() {
    let world = world().await;
    world.fill("orders", 2).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    world.faulty.set(Call::Commit, Fault::Hold);
    let mut first = first.commit();
    assert!(stays_pending(&mut first).await);
    // It came while a write was under way, so it waits for the next.
    let mut second = second.commit();
    assert!(stays_pending(&mut second).await);
    world.faulty.let_go();
    soon("the first", first).await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 1);
    assert!(stays_pending(&mut second).await);
    world.faulty.heal();
    soon("the second", second).await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 2);
}

#[tokio::test]
async fn what_is_committed_never_reaches_the_group_again_and_all_else_does() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let world = world().await;
        world.fill("orders", 50).await;
        let mut left: BTreeSet<u64> = (0..50).collect();
        for round in 0.. {
            let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
            let mut all = Vec::new();
            take_all(&mut consumer, |delivery| all.push(delivery)).await;
            let offsets: BTreeSet<u64> = all.iter().map(|delivery| delivery.offset()).collect();
            assert_eq!(offsets, left, "seed {seed}, round {round}");
            if left.is_empty() {
                break;
            }
            random.shuffle(&mut all);
            for delivery in all.split_off(all.len() / 2) {
                left.remove(&delivery.offset());
                match random.below(3) {
                    0 => delivery.ack(),
                    1 => drop(delivery.commit().now_or_never()),
                    _ => delivery.commit().await.unwrap(),
                }
            }
            drop(all);
            soon("the shutdown", consumer.control().shutdown()).await;
        }
    }
}

#[tokio::test]
async fn commit_through_is_all_before_too() {
    let world = world().await;
    world.fill("orders", 10).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let mut deliveries = Vec::new();
    take_all(&mut consumer, |delivery| deliveries.push(delivery)).await;
    let late = deliveries.remove(2);
    let seventh = deliveries.remove(6);
    assert_eq!(seventh.offset(), 7);
    seventh.commit_through().await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 8);
    late.commit().await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 8);
}

#[tokio::test]
async fn an_ack_is_written_soon_in_company_and_at_the_shutdown() {
    let world = world().await;
    world.fill("orders", 4).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    for _ in 0..3 {
        next(&mut consumer).await.ack();
    }
    quiet().await;
    assert_eq!(world.faulty.count(Call::Commit), 0);
    world.pass(Duration::from_millis(60)).await;
    assert_eq!(world.faulty.count(Call::Commit), 1);
    assert_eq!(world.position("orders", "billing").await, 3);
    next(&mut consumer).await.ack();
    soon("the shutdown", consumer.control().shutdown()).await;
    assert_eq!(world.position("orders", "billing").await, 4);
}

#[tokio::test]
async fn the_handle_outlives_the_consumer() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let (message, commit) = next(&mut consumer).await.into_parts();
    drop(consumer);
    quiet().await;
    assert_eq!((message.body(), commit.offset()), (&"0".into(), 0));
    soon("the commit", commit.commit()).await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 1);
}

#[tokio::test]
async fn a_commit_that_was_polled_once_is_written() {
    let world = world().await;
    world.fill("orders", 2).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    assert!(first.commit().now_or_never().is_none());
    drop(second.commit());
    quiet().await;
    assert_eq!(world.position("orders", "billing").await, 1);
    drop(consumer);
    quiet().await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    assert_eq!(next(&mut consumer).await.offset(), 1);
}

#[tokio::test]
async fn a_commit_that_fails_goes_with_the_next_write() {
    for fault in [Fault::Fail, Fault::Lose, Fault::Doubt] {
        let world = world().await;
        world.fill("orders", 3).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
        world.faulty.times(Call::Commit, fault, 1);
        let error = soon("the error", first.commit()).await.unwrap_err();
        assert!(error.is_transient());
        soon("the second", second.commit()).await.unwrap();
        assert_eq!(world.position("orders", "billing").await, 2, "{fault:?}");
    }
}

#[tokio::test]
async fn a_commit_that_failed_is_written_without_another_one() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    world.faulty.times(Call::Commit, Fault::Fail, 1);
    let commit = next(&mut consumer).await.commit();
    assert!(soon("the error", commit).await.unwrap_err().is_transient());
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(world.position("orders", "billing").await, 1);
}

#[tokio::test]
async fn all_who_wait_for_a_write_hear_of_its_failure() {
    let world = world().await;
    world.fill("orders", 100).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let mut commits = Vec::new();
    take_all(&mut consumer, |delivery| commits.push(delivery.commit())).await;
    world.faulty.times(Call::Commit, Fault::Fail, 1);
    let errors = soon("the answers", join_all(commits)).await;
    assert!(
        errors
            .iter()
            .all(|result| result.as_ref().is_err_and(|it| it.is_transient()))
    );
    assert_eq!(world.faulty.count(Call::Commit), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_commit_at_once_each_get_an_answer() {
    for _ in 0..20 {
        let world = world().await;
        world.fill("orders", 500).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let mut tasks = Vec::new();
        for _ in 0..500 {
            let delivery = next(&mut consumer).await;
            tasks.push(tokio::spawn(
                async move { delivery.commit().await.unwrap() },
            ));
        }
        for task in tasks {
            soon("the commit", task).await.unwrap();
        }
        assert_eq!(world.position("orders", "billing").await, 500);
        soon("the shutdown", consumer.control().shutdown()).await;
    }
}

#[tokio::test]
async fn every_commit_is_answered_when_the_lease_lapses_between_two_budgets() {
    let world = world_with(|options| options.retry_for(Duration::from_secs(1))).await;
    let lease = Duration::from_secs(30);
    world.fill("orders", 3).await;
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .lease(lease)
        .await
        .unwrap();
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    world.faulty.set_all(Fault::Fail);
    let first = tokio::spawn(first.commit());
    world.pass_in(Duration::from_secs(2), 40).await;
    assert!(soon("the first", first).await.unwrap().is_err());
    let second = tokio::spawn(second.commit());
    world.pass_in(lease * 2, 400).await;
    assert!(soon("the second", second).await.unwrap().is_err());
}
