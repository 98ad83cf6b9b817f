//! Messages that are to be retried come again, counted, and stop nobody.

use std::sync::Arc;
use std::time::Duration;

use super::rig::{LEASE, Rig, delivered, made, number_of, patient};
use crate::conformance::Harness;
use crate::conformance::support::attempts;
use crate::consumer::Consumer;
use crate::storage::{Progress, Ranges};

const LATER: Duration = Duration::from_millis(300);

/// The next delivery, while time passes.
async fn later(rig: &Rig, consumer: &mut Consumer) -> crate::Delivery {
    let what = "a message comes again";
    delivered(rig.passing(LATER, what, consumer.next()).await)
}

/// Waits until the storage counts so many attempts of a message.
async fn counted(rig: &Rig, offset: u64, count: u32) {
    let what = "attempts are written soon";
    let written = async {
        while attempts(&rig.state("orders", "billing").await, offset) < count {
            crate::conformance::support::pause().await;
        }
    };
    rig.passing(Duration::from_millis(20), what, written).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!(attempts(&state, offset), count);
}

pub(crate) async fn a_retried_message_comes_again_and_says_so(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..2).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let mut both = rig.expect(&mut consumer, 0..2).await;
    both.remove(0).retry_after(LATER);
    // What is done beyond is kept.
    both.remove(0).commit().await.expect("a commit");
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress.acked(), &Ranges::from(1..2));
    for attempt in 2..5 {
        let again = later(&rig, &mut consumer).await;
        assert_eq!((again.offset(), again.attempt()), (0, attempt));
        assert_eq!(number_of(again.body()), 0);
        match attempt {
            4 => again.commit().await.expect("a commit"),
            // The handle alone can do it, too.
            3 => again.into_parts().1.retry_after(Duration::ZERO),
            _ => again.retry_after(LATER),
        }
    }
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(2));
    assert!(state.attempts.is_empty(), "it is done: {state:?}");
    assert_eq!(state.epoch, 1, "the lease is the same");
}

pub(crate) async fn what_is_retried_stops_no_other(harness: Arc<dyn Harness>) {
    const MESSAGES: u64 = 100;
    let rig = Rig::new(harness);
    rig.fill("orders", 0..MESSAGES).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let (mut first, mut again) = (Vec::new(), Vec::new());
    while again.len() < 10 || first.len() < MESSAGES as usize {
        let delivery = later(&rig, &mut consumer).await;
        let offset = delivery.offset();
        match delivery.attempt() {
            1 => first.push(offset),
            _ => again.push(offset),
        }
        match (offset % 10, delivery.attempt()) {
            (3, 1) => delivery.retry_after(Duration::ZERO),
            _ => delivery.commit().await.expect("a commit"),
        }
    }
    assert!(first.iter().copied().eq(0..MESSAGES), "in order: {first:?}");
    again.sort_unstable();
    assert!(again.into_iter().eq((3..MESSAGES).step_by(10)));
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(MESSAGES));
}

pub(crate) async fn a_commit_through_spares_what_is_retried(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..5).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let mut held = rig.expect(&mut consumer, 0..5).await;
    let last = held.remove(3);
    held.remove(1).retry_after(LATER);
    last.commit_through().await.expect("a commit");
    let state = rig.state("orders", "billing").await;
    let mut expected = Progress::at(1);
    expected.merge(&Ranges::from(2..4));
    assert_eq!(state.progress, expected, "all to 3 but 1");
    let again = later(&rig, &mut consumer).await;
    assert_eq!((again.offset(), again.attempt()), (1, 2));
    again.commit().await.expect("a commit");
    // One that is done is done, whatever is said of it after that.
    for delivery in held {
        delivery.retry_after(Duration::ZERO);
    }
    let last = later(&rig, &mut consumer).await;
    assert_eq!((last.offset(), last.attempt()), (4, 2));
    last.commit().await.expect("a commit");
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(5));
}

pub(crate) async fn what_is_retried_comes_to_the_next_owner(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..3).await;
    let mut consumer = rig.takes("orders", "billing").await;
    rig.next(&mut consumer).await.retry_after(Duration::ZERO);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = later(&rig, &mut consumer).await;
        seen.push((delivery.offset(), delivery.attempt()));
        match delivery.offset() {
            2 => delivery.commit().await.expect("a commit"),
            // Longer than anybody waits.
            _ => delivery.retry_after(super::rig::FOR_EVER),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [(0, 2), (1, 1), (2, 1)]);
    // It stops: the counts are written with the lease's end.
    rig.shut_down(&consumer.control()).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!((state.owner, state.attempts), (None, vec![(0, 2), (1, 1)]));
    let mut next = rig.takes("orders", "billing").await;
    for expected in [(0, 3), (1, 2)] {
        let delivery = rig.next(&mut next).await;
        assert_eq!((delivery.offset(), delivery.attempt()), expected);
        delivery.commit().await.expect("a commit");
    }
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(3));
}

pub(crate) async fn attempts_survive_a_takeover(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..3).await;
    let builder = patient(rig.consumer("orders", "billing"));
    let mut consumer = made(builder.redeliver_after(LATER)).await;
    for delivery in rig.expect(&mut consumer, 0..3).await {
        match delivery.offset() {
            // One is forgotten, and one is to be retried.
            0 => drop(delivery),
            1 => delivery.retry_after(super::rig::FOR_EVER),
            _ => delivery.commit().await.expect("a commit"),
        }
    }
    let again = later(&rig, &mut consumer).await;
    assert_eq!((again.offset(), again.attempt()), (0, 2));
    counted(&rig, 0, 1).await;
    counted(&rig, 1, 1).await;
    let lease = rig.takes_over("orders", "billing").await;
    let state = rig.state("orders", "billing").await;
    // The first that was left may be what the owner died of.
    assert_eq!(state.attempts, [(0, 2), (1, 1)]);
    // What the former owner says now counts for nothing, and it learns so.
    again.retry_after(Duration::ZERO);
    rig.subject.released(&lease).await;
    for expected in [(0, 3), (1, 2)] {
        let what = "the next owner gets it";
        let next = async {
            loop {
                let next = delivered(consumer.next().await);
                // It may not know yet that it was replaced.
                if next.epoch() > lease.epoch {
                    return next;
                }
            }
        };
        let next = rig.passing(LATER, what, next).await;
        assert_eq!((next.offset(), next.attempt()), expected);
        next.commit().await.expect("a commit");
    }
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(3));
}

pub(crate) async fn one_that_waits_for_a_retry_keeps_its_lease(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..1).await;
    let builder = rig.consumer("orders", "billing").lease(LEASE * 2);
    let mut consumer = made(builder.max_processing(LEASE / 2)).await;
    rig.next(&mut consumer).await.retry_after(LEASE * 4);
    let what = "a message comes again";
    // In a task, so that it is polled only when it is woken.
    let next = tokio::spawn(async move { consumer.next().await });
    let next = rig.passing(LEASE / 20, what, next).await;
    let again = delivered(next.expect("a task"));
    assert_eq!((again.epoch(), again.attempt()), (1, 2));
    again.commit().await.expect("a commit");
}

pub(crate) async fn many_retries_pause_the_consumer(harness: Arc<dyn Harness>) {
    const MESSAGES: u64 = 2_500;
    let rig = Rig::new(harness);
    rig.fill("orders", 0..MESSAGES).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let mut ahead = 0;
    let mut most = 0;
    let mut done = 0;
    let all = async {
        while done < MESSAGES {
            let delivery = delivered(consumer.next().await);
            if delivery.attempt() == 1 {
                ahead += 1;
                most = most.max(ahead);
                delivery.retry_after(LATER);
            } else {
                assert_eq!(delivery.attempt(), 2);
                ahead -= 1;
                done += 1;
                delivery.ack();
            }
        }
    };
    rig.passing(LATER, "each message comes twice", all).await;
    assert!(most <= 1_001, "{most} wait at once");
    rig.shut_down(&consumer.control()).await;
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(MESSAGES));
}
