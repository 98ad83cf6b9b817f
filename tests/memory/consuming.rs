//! Consumers that are slow.

use std::time::Duration;

use flowstream::{Consumer, Delivery, Flowstream, Message};
use futures::future::join_all;

use crate::bound::{self, PREFETCH};
use crate::place::Place;
use crate::support::next;
use crate::{Measured, Sizes, rest};

async fn consumer(flow: &Flowstream, group: usize) -> Consumer {
    let consumer = flow.consumer("orders", format!("group {group}"));
    consumer.prefetch(PREFETCH).await.expect("a consumer")
}

/// Takes some, and waits a moment.
async fn consume(consumer: &mut Consumer, messages: usize) {
    for number in 0..messages {
        next(consumer).await.ack();
        if number % 4 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(crate) async fn by_slow_groups(place: Place, sizes: Sizes) {
    const GROUPS: usize = 3;
    place.fill(sizes, 1).await;
    let measured = Measured::begin();
    let flow = place.open().await;
    let groups = (0..GROUPS).map(|group| {
        let flow = &flow;
        async move {
            let mut consumer = consumer(flow, group).await;
            consume(&mut consumer, sizes.messages()).await;
        }
    });
    join_all(groups).await;
    let kind = place.kind();
    let bound =
        bound::storage(kind) + GROUPS * bound::consumer(kind, 1, sizes) + bound::tails(sizes);
    measured.assert_below(bound, &place, sizes, "three slow groups");
}

pub(crate) async fn by_one_that_polls_no_more(place: Place, sizes: Sizes) {
    place.fill(sizes, 1).await;
    let measured = Measured::begin();
    let flow = place.open().await;
    let mut consumer = consumer(&flow, 0).await;
    drop(next(&mut consumer).await);
    rest().await;
    let kind = place.kind();
    let bound = bound::storage(kind) + bound::consumer(kind, 1, sizes) + bound::tails(sizes);
    measured.assert_below(bound, &place, sizes, "a consumer that polls no more");
}

pub(crate) async fn of_several_partitions(place: Place, sizes: Sizes) {
    const PARTITIONS: usize = 16;
    place.fill(sizes, PARTITIONS as u32).await;
    let measured = Measured::begin();
    let flow = place.open().await;
    let mut consumer = consumer(&flow, 0).await;
    consume(&mut consumer, sizes.messages()).await;
    let kind = place.kind();
    let bound =
        bound::storage(kind) + bound::consumer(kind, PARTITIONS, sizes) + bound::tails(sizes);
    measured.assert_below(bound, &place, sizes, "sixteen partitions");
}

/// A message that is held holds its batch, unless it is copied out of it.
pub(crate) async fn with_deliveries_held(place: Place, sizes: Sizes) {
    const HELD: usize = 8;
    place.fill(sizes, 1).await;
    let kind = place.kind();
    let other = bound::storage(kind) + bound::consumer(kind, 1, sizes) + bound::tails(sizes);
    for (group, is_compact, each) in [(0, false, sizes.batch), (1, true, sizes.message)] {
        let measured = Measured::begin();
        let flow = place.open().await;
        let mut consumer = consumer(&flow, group).await;
        let mut held: Vec<Message> = Vec::new();
        for number in 0..sizes.messages() {
            let delivery = next(&mut consumer).await;
            let is_first_of_batch = number % (sizes.batch / sizes.message) == 0;
            if is_first_of_batch && held.len() < HELD {
                held.push(keep(delivery, is_compact));
            } else {
                delivery.ack();
            }
        }
        let closed = consumer.control().shutdown();
        let what = if is_compact { "compacted" } else { "held" };
        let scenario = format!("{HELD} deliveries {what}");
        measured.assert_below(other + HELD * each, &place, sizes, &scenario);
        drop(held);
        closed.await;
        flow.close().await.expect("it closes");
    }
}

fn keep(delivery: Delivery, is_compact: bool) -> Message {
    let message = delivery.into_message();
    if is_compact {
        message.compact()
    } else {
        message
    }
}

/// One group gets everything from memory, another stays at the start.
pub(crate) async fn at_the_end_of_the_log(place: Place, sizes: Sizes) {
    let measured = Measured::begin();
    let flow = place.open().await;
    let mut consumers = [consumer(&flow, 0).await, consumer(&flow, 1).await];
    let mut producer = flow.producer("orders").await.expect("a producer");
    for number in 0..sizes.log / sizes.batch {
        let batch = sizes.batch(number);
        producer.append(batch).await.expect("an append");
        consume(&mut consumers[0], sizes.batch / sizes.message).await;
        if number == 0 {
            drop(next(&mut consumers[1]).await);
        }
    }
    let kind = place.kind();
    let bound = bound::storage(kind)
        + sizes.batch
        + bound::statements(kind, sizes.batch, sizes.batch)
        + 2 * bound::consumer(kind, 1, sizes)
        + bound::tails(sizes);
    measured.assert_below(bound, &place, sizes, "at the end of the log");
}
