//! A message comes again when its transaction is over and has not done it; not before.

use std::task::Poll;
use std::time::Duration;

use flowstream::postgres::{self, DeliveryExt};
use flowstream::{Consumer, Delivery};

use crate::rig::{LEVELS, Rig, effect, eventually, next};

/// Waits for a message that is delivered again for want of a verdict: then another one that were due
/// would have come as well.
async fn a_hole_comes_again(consumer: &mut Consumer, hole: Delivery) {
    let offset = hole.offset();
    drop(hole);
    let again = next(consumer).await;
    assert_eq!(again.offset(), offset, "and no other");
    again.commit().await.expect("committed");
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        deliveries.push(next(consumer).await);
    }
    deliveries.reverse();
    deliveries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_while_the_transaction_is_open() {
    for level in LEVELS {
        let rig = Rig::new(level, 6).await;
        let mut consumer = rig.consumer().await;
        let mut deliveries = take(&mut consumer, 6).await;
        let mut next_one = || deliveries.pop().unwrap();
        let (entrusted, other) = (next_one(), next_one());
        let (hole, last_hole) = (next_one(), next_one());
        let mut tx = rig.begin().await;
        effect(&mut tx, 0).await.unwrap();
        entrusted
            .commit_in(&mut tx)
            .await
            .expect("it has the lease");
        let mut committed = rig.begin().await;
        effect(&mut committed, 1).await.unwrap();
        other
            .commit_in(&mut committed)
            .await
            .expect("it has the lease");
        drop((entrusted, other));
        next_one().commit().await.expect("committed");
        next_one().commit().await.expect("committed");

        a_hole_comes_again(&mut consumer, hole).await;
        tx.rollback().await.unwrap();
        let again = next(&mut consumer).await;
        assert_eq!((again.offset(), again.attempt()), (0, 2), "{level}");
        again.commit().await.expect("committed");
        // The other stays with its transaction.
        a_hole_comes_again(&mut consumer, last_hole).await;
        postgres::commit(committed).await.expect("committed");
        eventually(async || rig.state().await.position() == 6).await;
        assert_eq!(rig.effects(), [1], "{level}");
    }
}

/// A verdict that brings it again does not do so before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_waits_for_the_transaction() {
    for level in LEVELS {
        let rig = Rig::new(level, 3).await;
        let mut consumer = rig.consumer().await;
        let mut deliveries = take(&mut consumer, 3).await;
        let entrusted = deliveries.pop().unwrap();
        let mut tx = rig.begin().await;
        effect(&mut tx, 0).await.unwrap();
        entrusted
            .commit_in(&mut tx)
            .await
            .expect("it has the lease");
        entrusted.retry_after(Duration::ZERO);
        let hole = deliveries.pop().unwrap();
        deliveries.pop().unwrap().commit().await.expect("committed");
        a_hole_comes_again(&mut consumer, hole).await;
        drop(tx);
        let again = next(&mut consumer).await;
        assert_eq!((again.offset(), again.attempt()), (0, 2), "{level}");
        let mut tx = rig.begin().await;
        effect(&mut tx, 0).await.unwrap();
        again.commit_in(&mut tx).await.expect("it has the lease");
        postgres::commit(tx).await.expect("committed");
        assert_eq!(rig.state().await.position(), 3);
        assert_eq!(rig.effects(), [0], "{level}");
    }
}

/// Also if it is the last of all: nothing beyond it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rollback_whatever_comes_behind() {
    for level in LEVELS {
        let rig = Rig::new(level, 1).await;
        let mut consumer = rig.consumer().await;
        for attempt in 1..4 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.attempt(), attempt);
            let mut tx = rig.begin().await;
            effect(&mut tx, 0).await.unwrap();
            delivery.commit_in(&mut tx).await.expect("it has the lease");
            // In either order.
            if attempt == 2 {
                drop(delivery);
                tx.rollback().await.unwrap();
            } else {
                drop(tx);
                drop(delivery);
            }
        }
        let delivery = next(&mut consumer).await;
        let mut tx = rig.begin().await;
        effect(&mut tx, 0).await.unwrap();
        delivery.commit_in(&mut tx).await.expect("it has the lease");
        drop(delivery);
        // Nobody says that it is over.
        tx.commit().await.unwrap();
        eventually(async || rig.state().await.position() == 1).await;
        assert_eq!(rig.effects(), [0]);
    }
}

/// The ledger learns of it, and lets the acks go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_follows() {
    let rig = Rig::new(LEVELS[0], 3).await;
    let mut consumer = rig.consumer().await;
    for offset in 0..3 {
        // As if so many had gone before.
        if offset == 2 {
            rig.psql("UPDATE flowstream.leases SET acks_from = -20000");
        }
        let delivery = next(&mut consumer).await;
        let mut tx = rig.begin().await;
        effect(&mut tx, offset).await.unwrap();
        delivery.commit_in(&mut tx).await.expect("it has the lease");
        postgres::commit(tx).await.expect("committed");
        eventually(async || {
            let last = "SELECT position FROM flowstream.positions ORDER BY generation DESC LIMIT 1";
            rig.psql(last).trim() == (offset + 1).to_string()
        })
        .await;
        let left = rig.psql("SELECT count(*) FROM flowstream.acks");
        assert_eq!(left.trim(), ["1", "2", "0"][offset as usize]);
    }
    assert_eq!(rig.state().await.position(), 3);
}

/// Nobody waited for the answer, so nobody knows whether the commit stands in the transaction: the
/// lease is given up, and the next epoch fences it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_dropped_gives_the_lease_up() {
    for level in LEVELS {
        let rig = Rig::new(level, 1).await;
        let mut consumer = rig.consumer().await;
        let delivery = next(&mut consumer).await;
        // The storage knows where it is, so that the first poll sends.
        let mut tx = rig.begin().await;
        delivery.commit_in(&mut tx).await.expect("it has the lease");
        tx.rollback().await.unwrap();
        // The server may answer before the poll is over: then once more.
        let tx = loop {
            let mut tx = rig.begin().await;
            effect(&mut tx, 0).await.unwrap();
            let polled = futures::poll!(std::pin::pin!(delivery.commit_in(&mut tx)));
            match polled {
                Poll::Pending => break tx,
                Poll::Ready(answer) => answer.expect("it has the lease"),
            }
            tx.rollback().await.unwrap();
        };
        drop(delivery);
        let again = next(&mut consumer).await;
        assert_eq!((again.offset(), again.epoch()), (0, 2));
        let late = postgres::commit(tx).await;
        let mut tx = rig.begin().await;
        effect(&mut tx, 0).await.unwrap();
        again.commit_in(&mut tx).await.expect("it has the lease");
        postgres::commit(tx).await.expect("committed");
        // If it was sent, it stood there and was refused; if not, the effect stands without it.
        let effects = rig.effects();
        assert_eq!(effects.len(), if late.is_err() { 1 } else { 2 }, "{level}");
    }
}
