//! A pipeline that forgets verdicts is told so, before anything stops, and not too often.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt, StreamExt, TryStreamExt};
use support::*;

/// What is traced on this thread, from a level on, as lines.
#[derive(Clone, Default)]
struct Traces(Arc<Mutex<Vec<u8>>>);

impl Traces {
    fn here() -> (Self, tracing::subscriber::DefaultGuard) {
        Self::at(tracing::Level::WARN)
    }

    fn at(level: tracing::Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let traces = Self::default();
        let writer = traces.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (traces, tracing::subscriber::set_default(subscriber))
    }

    /// The lines that have all of this in them.
    fn with(&self, parts: &[&str]) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(str::to_owned);
        lines
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .collect()
    }
}

impl Write for Traces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const FORGOTTEN: &str = "without a verdict";
const CROWDED: &str = "pauses at the limit";

#[tokio::test]
async fn a_forgotten_verdict_is_told_at_once_with_its_place() {
    let (traces, _guard) = Traces::here();
    let world = world().await;
    world.fill("orders", 3).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    next(&mut consumer).await.commit().await.unwrap();
    drop(next(&mut consumer).await);
    assert!(
        traces.with(&[FORGOTTEN]).is_empty(),
        "nothing is done beyond"
    );
    next(&mut consumer).await.ack();
    let place = [
        "WARN",
        FORGOTTEN,
        "stream=orders",
        "group=billing",
        "offset=1",
    ];
    assert_eq!(traces.with(&place).len(), 1, "{:?}", traces.with(&[]));
}

#[tokio::test]
async fn what_is_forgotten_often_is_told_sparingly_and_counted() {
    let (traces, _guard) = Traces::here();
    let world = world().await;
    world.fill("orders", 400).await;
    let consumer = world.flow.consumer("orders", "billing").await.unwrap();
    // Who filters so forgets what is left out.
    let pipeline = consumer
        .try_filter(|delivery| futures::future::ready(delivery.offset() % 2 == 1))
        .take(200)
        .try_for_each(|delivery| {
            delivery.ack();
            futures::future::ready(Ok(()))
        });
    soon("the pipeline", pipeline).await.unwrap();
    let told = traces.with(&[FORGOTTEN]);
    assert_eq!(told.len(), 3, "{told:?}");
    for (line, dropped) in told
        .iter()
        .zip(["dropped=1 ", "dropped=10 ", "dropped=100 "])
    {
        assert!(format!("{line} ").contains(dropped), "{line}");
        assert!(line.contains("offset=0"), "{line}");
    }
}

#[tokio::test]
async fn acked_ranges_are_told_of_at_half_of_what_makes_it_pause() {
    let (traces, _guard) = Traces::here();
    let world = world().await;
    world.fill("orders", 5000).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..998 {
        let delivery = next(&mut consumer).await;
        match delivery.offset() % 2 {
            0 => held.push(delivery),
            _ => delivery.ack(),
        }
    }
    assert!(traces.with(&[CROWDED]).is_empty(), "499 ranges");
    let mut count = 998
        + take_all(&mut consumer, |delivery| {
            let told = traces.with(&[CROWDED, "stream=orders", "acked_ranges=500", "limit=1000"]);
            assert_eq!(told.len(), usize::from(delivery.offset() >= 1000));
            match delivery.offset() % 2 {
                0 => held.push(delivery),
                _ => delivery.ack(),
            }
        })
        .await;
    assert!((1999..2010).contains(&count), "it pauses: {count}");
    assert!(traces.with(&[FORGOTTEN]).is_empty(), "they are held");
    held.drain(..).for_each(flowstream::Delivery::ack);
    count += take_all(&mut consumer, flowstream::Delivery::ack).await;
    assert_eq!(count, 5000);
    assert_eq!(traces.with(&[CROWDED]).len(), 1);
}

#[tokio::test]
async fn many_that_wait_to_be_retried_are_told_of() {
    let (traces, _guard) = Traces::here();
    let world = world().await;
    world.fill("orders", 600).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    for _ in 0..600 {
        next(&mut consumer)
            .await
            .retry_after(Duration::from_secs(60));
    }
    assert_eq!(traces.with(&[CROWDED, "retries=500"]).len(), 1);
    assert!(traces.with(&[FORGOTTEN]).is_empty());
}

#[tokio::test]
async fn a_pipeline_that_ends_forgets_nothing() {
    let (traces, _guard) = Traces::here();
    let world = world().await;
    world.fill("orders", 100).await;
    let consumer = world.flow.consumer("orders", "billing").await.unwrap();
    // Some are done beyond those that it holds when it is dropped.
    let mut pipeline = consumer
        .map_ok(|delivery| async move {
            if delivery.offset() % 3 == 0 {
                futures::future::pending::<()>().await;
            }
            delivery.commit().await
        })
        .try_buffer_unordered(32)
        .boxed();
    for _ in 0..20 {
        let done = soon("a commit", pipeline.next()).await;
        done.unwrap().unwrap();
    }
    drop(pipeline);
    quiet().await;
    // So does one that is shut down while it holds some.
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(next(&mut consumer).await);
    }
    held.pop().unwrap().commit().await.unwrap();
    let stopped = consumer.control().shutdown();
    drop(held);
    soon("the shutdown", stopped).await;
    assert!(
        traces.with(&[FORGOTTEN]).is_empty(),
        "{:?}",
        traces.with(&[])
    );
}

#[tokio::test]
async fn a_move_to_the_dead_letters_is_told() {
    let (traces, _guard) = Traces::here();
    let world = world().await;
    world.fill("orders", 2).await;
    let builder = world.flow.consumer("orders", "billing").max_attempts(1);
    let mut consumer = builder.await.unwrap();
    next(&mut consumer).await.commit().await.unwrap();
    next(&mut consumer).await.retry_after(Duration::ZERO);
    quiet().await;
    let place = [
        "moved to the dead letters",
        "stream=orders",
        "group=billing",
        "offset=1",
        "to=orders.billing.dead",
    ];
    assert_eq!(traces.with(&place).len(), 1, "{:?}", traces.with(&[]));
}

const LEASE: Duration = Duration::from_secs(10);
const UNFLUSHED: &str = "dropped with messages";
const STUCK: &str = "the lease is given up";
const SILENT: &str = "none was ever committed";

/// They were lost without a word.
#[tokio::test]
async fn a_producer_that_is_dropped_with_messages_is_told_of_with_their_number() {
    let (traces, _guard) = Traces::here();
    let world = world().await;
    let producer = async || world.flow.producer("orders").await.unwrap();
    let fed = async |count: usize| {
        let mut producer = producer().await;
        for _ in 0..count {
            producer.feed("a".into()).await.unwrap();
        }
        producer
    };
    drop(producer().await);
    let mut flushed = fed(3).await;
    flushed.flush().await.unwrap();
    drop(flushed);
    let mut emptied = fed(3).await;
    assert_eq!(emptied.take_unsent().await.len(), 1);
    drop(emptied);
    assert_eq!(traces.with(&[UNFLUSHED]).len(), 0, "{:?}", traces.with(&[]));

    let held = fed(3).await;
    drop((held.clone(), held));
    let told = traces.with(&["WARN", UNFLUSHED, "stream=orders", "messages=3"]);
    assert_eq!(told.len(), 1, "{:?}", traces.with(&[]));
    // What came back, because it could not be written, is there as well.
    world.faulty.set(Call::Append, Fault::Fail);
    let mut failed = fed(5).await;
    failed.flush().await.unwrap_err();
    failed.feed("b".into()).await.unwrap();
    drop(failed);
    assert_eq!(traces.with(&[UNFLUSHED, "messages=6"]).len(), 1);
    assert_eq!(traces.with(&[UNFLUSHED]).len(), 2);
}

/// Only an event at the level of information said that it was no longer active.
#[tokio::test]
async fn a_lease_that_is_given_up_is_told_of_with_what_is_in_hand() {
    let (traces, _guard) = Traces::here();
    let world = world().await;
    world.fill("orders", 5).await;
    let builder = world.flow.consumer("orders", "billing").lease(LEASE);
    let mut consumer = builder.max_processing(LEASE * 3).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(next(&mut consumer).await);
    }
    held.remove(0).commit().await.unwrap();
    world.pass_in(LEASE * 2, 40).await;
    assert_eq!(traces.with(&[STUCK]).len(), 0, "not before");
    world.pass_in(LEASE * 8, 160).await;
    let place = [
        "WARN",
        STUCK,
        "stream=orders",
        "group=billing",
        "held=3",
        "first=1",
    ];
    assert_eq!(traces.with(&place).len(), 1, "{:?}", traces.with(&[]));
    assert_eq!(traces.with(&[STUCK]).len(), 1);
}

/// Who forgets to commit heard nothing, and began anew with each start.
#[tokio::test]
async fn thousands_of_which_nothing_is_said_are_told_of_once() {
    let (traces, _guard) = Traces::here();
    let world = world().await;
    world.fill("orders", 3000).await;
    let build = || world.flow.consumer("orders", "billing").lease(LEASE);
    let silent = |delivered: &str| {
        traces.with(&["WARN", SILENT, "stream=orders", "group=billing", delivered])
    };

    let mut consumer = build().await.unwrap();
    let mut held = Vec::new();
    assert_eq!(
        take_all(&mut consumer, |delivery| held.push(delivery)).await,
        3000
    );
    world.pass_in(LEASE * 3, 60).await;
    assert_eq!(silent("delivered=3000").len(), 1, "{:?}", traces.with(&[]));
    held.clear();
    soon("the shutdown", consumer.control().shutdown()).await;
    assert_eq!(silent("").len(), 1, "once");

    // A program that ends before that hears it at its end.
    let mut consumer = build().await.unwrap();
    assert_eq!(take_all(&mut consumer, drop).await, 3000);
    soon("the shutdown", consumer.control().shutdown()).await;
    assert_eq!(silent("delivered=3000").len(), 2);

    // One word of one message is enough, and less than a thousand are no reason.
    let mut consumer = build().await.unwrap();
    for offset in 0..3000 {
        let delivery = next(&mut consumer).await;
        if offset == 7 {
            delivery.retry_after(LEASE * 100);
        }
    }
    soon("the shutdown", consumer.control().shutdown()).await;
    let mut consumer = build().await.unwrap();
    for _ in 0..999 {
        drop(next(&mut consumer).await);
    }
    soon("the shutdown", consumer.control().shutdown()).await;
    assert_eq!(silent("").len(), 2, "{:?}", silent(""));
}

/// There was silence: the stream is pending, and nobody knows what it waits for.
#[tokio::test]
async fn a_loop_whose_delivery_is_held_can_see_which() {
    let (traces, _guard) = Traces::at(tracing::Level::DEBUG);
    let world = world().await;
    world.fill("orders", 3).await;
    let builder = world.flow.consumer("orders", "billing").lease(LEASE);
    let mut consumer = builder.await.unwrap();
    next(&mut consumer).await.commit().await.unwrap();
    let held = next(&mut consumer).await;
    let mut coming = Box::pin(async {
        next(&mut consumer).await.commit().await.unwrap();
        consumer.next().await
    });
    assert!(stays_pending(&mut coming).await);
    for _ in 0..40 {
        world.clock.advance(LEASE / 20);
        assert!(stays_pending(&mut coming).await);
    }
    let told = traces.with(&["DEBUG", "a delivery that is held", "offset=1", "held=1"]);
    assert!(!told.is_empty(), "{:?}", traces.with(&[]));
    held.commit().await.unwrap();
}

/// What was dropped does not come again while a later one is in hand.
#[tokio::test]
async fn a_delivery_that_keeps_what_was_dropped_waiting_is_named() {
    let (traces, _guard) = Traces::at(tracing::Level::DEBUG);
    let world = world().await;
    world.fill("orders", 3).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    drop(next(&mut consumer).await);
    let held = next(&mut consumer).await;
    world.pass(Duration::from_secs(20)).await;
    let told = traces.with(&[
        "DEBUG",
        "what was dropped comes again once",
        "offset=1",
        "dropped=0",
    ]);
    assert_eq!(told.len(), 1, "{:?}", traces.with(&[]));
    held.commit().await.unwrap();
}
