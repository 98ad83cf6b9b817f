//! Messages that are dropped without a verdict come again, and stop nobody.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use super::rig::{LEASE, Rig, delivered, made, number_of, patient};
use super::sink::polls;
use crate::conformance::Harness;
use crate::conformance::support::pause;
use crate::consumer::Consumer;
use crate::consumer::Delivery;
use crate::storage::Progress;

const AGAIN: Duration = Duration::from_millis(250);

async fn consumer(rig: &Rig) -> Consumer {
    made(patient(rig.consumer("orders", "billing")).redeliver_after(AGAIN)).await
}

async fn next(rig: &Rig, consumer: &mut Consumer) -> Delivery {
    let what = "a dropped message comes again";
    delivered(rig.passing(AGAIN / 4, what, consumer.next()).await)
}

/// Drops what comes until each of `offsets` came with each of `attempts`. Which of them is due first depends on how long
/// the machine stands still; how often each came before does not.
async fn drop_again(
    rig: &Rig,
    consumer: &mut Consumer,
    offsets: Range<u64>,
    attempts: RangeInclusive<u32>,
) {
    let mut counts = BTreeMap::from_iter(offsets.map(|offset| (offset, *attempts.start())));
    while counts.values().any(|next| attempts.contains(next)) {
        let again = next(rig, consumer).await;
        let count = counts
            .get_mut(&again.offset())
            .expect("one that is not done");
        assert_eq!(again.attempt(), *count, "at offset {}", again.offset());
        *count += 1;
    }
}

pub(crate) async fn a_dropped_message_comes_again(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..5).await;
    let mut consumer = consumer(&rig).await;
    for delivery in rig.expect(&mut consumer, 0..5).await {
        match delivery.offset() {
            1 | 2 => drop(delivery),
            _ => delivery.commit().await.expect("a commit"),
        }
    }
    drop_again(&rig, &mut consumer, 1..3, 2..=3).await;
    for _ in [1, 2] {
        let (message, commit) = next(&rig, &mut consumer).await.into_parts();
        assert_eq!(number_of(message.body()), commit.offset());
        commit.commit().await.expect("a commit");
    }
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.epoch, 1, "the lease is the same");
    assert_eq!(state.progress, Progress::at(5));
    rig.fill("orders", 5..6).await;
    rig.expect(&mut consumer, 5..6).await;
}

pub(crate) async fn the_last_messages_come_again_when_they_are_dropped(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..3).await;
    let mut consumer = consumer(&rig).await;
    drop_again(&rig, &mut consumer, 0..3, 1..=3).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!((state.epoch, state.position()), (1, 0));
    // Who commits through the last one has done them all.
    let last = loop {
        let again = next(&rig, &mut consumer).await;
        if again.offset() == 2 {
            break again;
        }
    };
    last.commit_through().await.expect("a commit");
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(3));
}

pub(crate) async fn a_message_that_comes_again_says_so(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..3).await;
    let mut consumer = consumer(&rig).await;
    for delivery in rig.expect(&mut consumer, 0..3).await {
        assert_eq!(delivery.attempt(), 1);
        if delivery.offset() == 2 {
            delivery.commit().await.expect("a commit");
        }
    }
    drop_again(&rig, &mut consumer, 0..2, 2..=3).await;
}

pub(crate) async fn holes_stop_no_group(harness: Arc<dyn Harness>) {
    // More than a group keeps beyond its position.
    const MESSAGES: u64 = 2_600;
    let rig = Rig::new(harness);
    rig.fill("orders", 0..MESSAGES).await;
    let mut consumer = consumer(&rig).await;
    let mut done = 0;
    let all = async {
        while done < MESSAGES {
            let delivery = delivered(consumer.next().await);
            if delivery.offset().is_multiple_of(2) && delivery.attempt() == 1 {
                continue;
            }
            done += 1;
            delivery.ack();
        }
    };
    rig.passing(AGAIN, "each message comes until it is done", all)
        .await;
    rig.shut_down(&consumer.control()).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(MESSAGES));
}

pub(crate) async fn a_pause_ends_with_its_lease(harness: Arc<dyn Harness>) {
    const MESSAGES: u64 = 2_600;
    let rig = Rig::new(harness);
    rig.fill("orders", 0..MESSAGES).await;
    let mut consumer = made(patient(rig.consumer("orders", "billing")).lease(LEASE)).await;
    // Every other one is done, and the rest held, until nothing more comes.
    let (mut held, mut acked, mut waited) = (Vec::new(), 0, 0);
    while waited < 20 {
        if let Some(next) = polls(1, consumer.next()).await {
            let delivery = delivered(next);
            waited = 0;
            match delivery.offset() % 2 {
                0 => held.push(delivery),
                _ => {
                    acked += 1;
                    delivery.ack();
                }
            }
        } else {
            rig.subject.harness.pass(LEASE / 40).await;
            pause().await;
            let state = rig.state("orders", "billing").await;
            waited += u32::from(state.progress.acked().count() == acked);
        }
    }
    // Another process takes over, and leaves.
    let lease = rig.takes_over("orders", "billing").await;
    rig.subject.released(&lease).await;
    let what = "a consumer goes on after its lease was lost";
    let next = delivered(rig.passing(LEASE / 20, what, consumer.next()).await);
    assert_eq!(next.offset(), 0, "what nobody has done comes first");
    assert!(next.epoch() > lease.epoch);
    drop(held);
    next.commit().await.expect("a commit");
}
