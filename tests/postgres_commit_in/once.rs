//! One message has its effects once.

use std::sync::Arc;

use flowstream::postgres::sqlx::{self};
use flowstream::postgres::{self, DeliveryExt};
use flowstream::storage::{Reset, Storage};
use flowstream::{Delivery, ErrorKind, GroupState, Start};
use futures::TryStreamExt;

use crate::rig::{LEVELS, Rig, cluster, effect, eventually, group, next};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_and_rows_are_written_together() {
    for level in LEVELS {
        let rig = Rig::new(level, 10).await;
        let mut consumer = rig.consumer().await;
        for offset in 0..10 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.offset(), offset);
            let mut tx = rig.begin().await;
            effect(&mut tx, offset).await.unwrap();
            delivery.commit_in(&mut tx).await.expect("it has the lease");
            tx.rollback().await.unwrap();
            assert_eq!(rig.state().await.position(), offset);
            // Whoever still has it takes another one.
            let mut tx = rig.begin().await;
            effect(&mut tx, offset).await.unwrap();
            delivery.commit_in(&mut tx).await.expect("it has the lease");
            delivery
                .commit_in(&mut tx)
                .await
                .expect("it stands there already");
            postgres::commit(tx).await.expect("committed");
            assert_eq!(rig.state().await.position(), offset + 1);
        }
        assert_eq!(rig.effects(), Vec::from_iter(0..10));
        // Nothing is left to do, and nothing is taken over.
        consumer.control().shutdown().await;
        let state = rig.state().await;
        assert_eq!((state.position(), state.epoch, state.owner), (10, 1, None));
    }
}

async fn race(rig: &Rig, level: &str) -> Vec<u64> {
    let mut consumer = rig.consumer().await;
    let delivery = Arc::new(next(&mut consumer).await);
    let (mut first, mut second) = (rig.begin().await, rig.begin().await);
    for tx in [&mut first, &mut second] {
        effect(tx, 0).await.unwrap();
    }
    delivery
        .commit_in(&mut first)
        .await
        .expect("it has the lease");
    let second = tokio::spawn({
        let delivery = delivery.clone();
        async move {
            let said = delivery.commit_in(&mut second).await;
            (second, said)
        }
    });
    // It waits for the first.
    eventually(async || {
        let waits =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
        rig.psql(waits).trim() != "0"
    })
    .await;
    postgres::commit(first).await.expect("committed");
    let (second, said) = second.await.unwrap();
    let kind = said.expect_err("another has done it").kind();
    if level == LEVELS[0] {
        assert_eq!(kind, ErrorKind::Invalid);
    } else {
        assert_eq!(kind, ErrorKind::Unavailable);
    }
    // Heedless.
    let error = postgres::commit(second).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    rig.effects()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_transactions_with_one_message_one_fails() {
    for level in LEVELS {
        let rig = Rig::new(level, 1).await;
        assert_eq!(race(&rig, level).await, [0], "{level}");
        assert_eq!(rig.state().await.position(), 1);
    }
}

/// A second transaction whose snapshot is older than the first one's commit, with the first one's ack
/// in the ledger and, if so, gone from the table.
async fn late(rig: &Rig, is_gone: bool) -> flowstream::Result<()> {
    let mut consumer = rig.consumer().await;
    let (delivery, other) = (next(&mut consumer).await, next(&mut consumer).await);
    let mut second = rig.begin().await;
    effect(&mut second, 0).await.unwrap();
    if is_gone {
        // The next write of the ledger that finds an ack deletes it.
        rig.psql("UPDATE flowstream.leases SET acks_from = -20000");
    }
    let mut first = rig.begin().await;
    effect(&mut first, 0).await.unwrap();
    delivery
        .commit_in(&mut first)
        .await
        .expect("it has the lease");
    postgres::commit(first).await.expect("committed");
    other.commit().await.expect("committed");
    assert_eq!(rig.state().await.position(), 2);
    let left = rig.psql("SELECT count(*) FROM flowstream.acks");
    assert_eq!(left.trim(), if is_gone { "0" } else { "1" });
    let said = delivery.commit_in(&mut second).await;
    let committed = postgres::commit(second).await;
    said.and(committed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_after_the_first_was_folded() {
    for level in LEVELS {
        for is_gone in [false, true] {
            let rig = Rig::new(level, 2).await;
            let error = late(&rig, is_gone).await.expect_err("refused");
            let is_seen = level == LEVELS[0] && error.kind() == ErrorKind::Invalid;
            assert!(is_seen || error.is_transient(), "{level}: {error:?}");
            assert_eq!(rig.effects(), [0], "{level}, {is_gone}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_fence_there_are_two() {
    for level in LEVELS {
        let rig = Rig::new(level, 2).await;
        rig.tear_down();
        late(&rig, true).await.expect("nothing refuses it");
        assert_eq!(rig.effects(), [0, 0], "{level}");
    }
}

/// A handler that awaits another commit within its transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_commits_go_on_while_a_transaction_is_open() {
    for level in LEVELS {
        let rig = Rig::new(level, 4).await;
        let mut consumer = rig.consumer().await;
        let mut deliveries = Vec::new();
        for _ in 0..4 {
            deliveries.push(next(&mut consumer).await);
        }
        let mut tx = rig.begin().await;
        for delivery in [&deliveries[2], &deliveries[0]] {
            effect(&mut tx, delivery.offset()).await.unwrap();
            delivery.commit_in(&mut tx).await.expect("it has the lease");
        }
        let mut other = rig.begin().await;
        effect(&mut other, 1).await.unwrap();
        deliveries[1]
            .commit_in(&mut other)
            .await
            .expect("it has the lease");
        let last = deliveries.pop().unwrap();
        last.commit().await.expect("committed");
        assert_eq!(rig.state().await.position(), 0);
        postgres::commit(tx).await.expect("committed");
        assert_eq!(rig.state().await.position(), 1);
        postgres::commit(other).await.expect("committed");
        assert_eq!(rig.state().await.position(), 4);
        assert_eq!(rig.effects(), [0, 1, 2]);
    }
}

/// Rolled back, failed and forgotten, in any order, by many at once, with plain commits between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients() {
    const MESSAGES: usize = 400;
    for level in LEVELS {
        let rig = Arc::new(Rig::new(level, MESSAGES).await);
        let consumer = rig.consumer().await;
        let control = consumer.control();
        let working = {
            let rig = rig.clone();
            tokio::spawn(async move {
                let deliveries = consumer.map_err(|error| panic!("{error}"));
                let work = deliveries.try_for_each_concurrent(16, |delivery| {
                    let rig = rig.clone();
                    async move { handle(&rig, delivery).await }
                });
                work.await
            })
        };
        eventually(async || rig.state().await.position() == MESSAGES as u64).await;
        control.shutdown().await;
        working.await.unwrap().expect("no error");
        let expected: Vec<u64> = (0..MESSAGES as u64)
            .filter(|of: &u64| !of.is_multiple_of(7))
            .collect();
        assert_eq!(rig.effects(), expected, "{level}");
        let state = rig.state().await;
        assert_eq!(
            (state.epoch, state.progress.acked().len()),
            (1, 0),
            "{level}"
        );
    }
}

async fn handle(rig: &Rig, delivery: Delivery) -> Result<(), ()> {
    let offset = delivery.offset();
    if offset.is_multiple_of(7) {
        delivery.commit().await.expect("committed");
        return Ok(());
    }
    let mut tx = rig.begin().await;
    // What collides comes again.
    if effect(&mut tx, offset).await.is_err() || delivery.commit_in(&mut tx).await.is_err() {
        return Ok(());
    }
    if delivery.attempt() == 1 {
        match offset % 5 {
            0 => drop(tx),
            1 => {
                let failed = sqlx::query("SELECT 1 / 0").execute(&mut *tx).await;
                failed.expect_err("a swallowed error");
                let error = postgres::commit(tx).await.expect_err("rolled back");
                assert_eq!(error.kind(), ErrorKind::Invalid);
            }
            2 => {
                drop(delivery);
                // Fails, or not: in the stricter levels.
                let _ = tx.commit().await;
            }
            _ => drop(postgres::commit(tx).await),
        }
    } else {
        let _ = postgres::commit(tx).await;
    }
    Ok(())
}

/// What was done before a group was sent back is to be done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_sent_back_does_it_again() {
    for level in LEVELS {
        let rig = Rig::new(level, 3).await;
        for round in 1..3 {
            let mut consumer = rig.consumer().await;
            for offset in 0..3 {
                let delivery = next(&mut consumer).await;
                let mut tx = rig.begin().await;
                effect(&mut tx, offset).await.unwrap();
                delivery.commit_in(&mut tx).await.expect("it has the lease");
                postgres::commit(tx).await.expect("committed");
            }
            consumer.control().shutdown().await;
            assert_eq!(rig.effects().len(), 3 * round);
            let reset = Reset {
                group: group(),
                to: Some(Start::Earliest),
                is_forced: false,
            };
            let state = rig.other.reset(reset).await.expect("sent back");
            assert_eq!(state.position(), 0);
        }
    }
}

/// Takes the lease away while a transaction is in the middle of its commit, which does the message at 1
/// of 3; by a session of this level, whose snapshot is older than that.
async fn reset_during_a_commit(rig: &Rig, theirs: &str, to: Option<Start>) -> GroupState {
    let storage = rig.open_at(theirs).await;
    let mut consumer = rig.consumer().await;
    drop(next(&mut consumer).await);
    let delivery = next(&mut consumer).await;
    let mut tx = rig.begin().await;
    effect(&mut tx, 1).await.unwrap();
    delivery.commit_in(&mut tx).await.expect("it has the lease");
    // The locks are held.
    let check = sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *tx);
    check.await.expect("it has the lease");
    let (group, is_forced) = (group(), true);
    let reset = Reset {
        group,
        to,
        is_forced,
    };
    let resetting = tokio::spawn(async move { storage.reset(reset).await });
    rig.until_one_waits().await;
    postgres::commit(tx).await.expect("committed");
    resetting.await.unwrap().expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_sent_back_during_a_commit_does_it_again() {
    for level in LEVELS {
        for theirs in LEVELS {
            let rig = Rig::new(level, 3).await;
            let sent_back = reset_during_a_commit(&rig, theirs, Some(Start::Earliest)).await;
            for state in [sent_back, rig.state().await] {
                let (position, acked) = (state.position(), state.progress.acked().len());
                assert_eq!((position, acked), (0, 0), "{level} before {theirs}");
            }
            let mut consumer = rig.consumer().await;
            for offset in 0..3 {
                let delivery = next(&mut consumer).await;
                assert_eq!(delivery.offset(), offset, "{level} before {theirs}");
                let mut tx = rig.begin().await;
                effect(&mut tx, offset).await.unwrap();
                delivery.commit_in(&mut tx).await.expect("it has the lease");
                postgres::commit(tx).await.expect("committed");
            }
            assert_eq!(rig.effects(), [0, 1, 1, 2], "{level} before {theirs}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eviction_says_what_committed_before_it() {
    for level in LEVELS {
        for theirs in LEVELS {
            let rig = Rig::new(level, 3).await;
            let evicted = reset_during_a_commit(&rig, theirs, None).await;
            for state in [evicted, rig.state().await] {
                assert!(
                    state.progress.acked().contains(1),
                    "{level} before {theirs}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_transactions_of_the_same_database() {
    let rig = Rig::new(LEVELS[0], 1).await;
    let elsewhere = Rig::new(LEVELS[0], 1).await;
    let mut consumer = rig.consumer().await;
    let delivery = next(&mut consumer).await;
    let mut tx = elsewhere.begin().await;
    let error = delivery
        .commit_in(&mut tx)
        .await
        .expect_err("another database");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    postgres::commit(tx).await.expect_err("failed");

    let memory = flowstream::open("memory:").await.expect("it opens");
    let mut orders = memory.producer("orders").await.expect("a producer");
    orders
        .append(flowstream::Message::new("a"))
        .await
        .expect("appended");
    let mut consumer = memory
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    let theirs = next(&mut consumer).await;
    let mut tx = rig.begin().await;
    let error = theirs
        .commit_in(&mut tx)
        .await
        .expect_err("another storage");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    delivery.commit_in(&mut tx).await.expect("it goes on");
    postgres::commit(tx).await.expect("committed");
    assert_eq!(
        cluster()
            .psql(&rig.database, "SELECT count(*) FROM flowstream.acks")
            .trim(),
        "1"
    );
}
