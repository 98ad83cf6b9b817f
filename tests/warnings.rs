//! A pipeline that forgets verdicts is told so, before anything stops, and not too often.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use support::*;

/// What is traced on this thread, at the level of warnings, as lines.
#[derive(Clone, Default)]
struct Traces(Arc<Mutex<Vec<u8>>>);

impl Traces {
    fn here() -> (Self, tracing::subscriber::DefaultGuard) {
        let traces = Self::default();
        let writer = traces.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
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
