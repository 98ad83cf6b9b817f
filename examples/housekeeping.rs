//! What goes on around a pipeline: chunks, timeouts, lag, trimming, stopping.
//!
//! ```text
//! cargo run --example housekeeping -- [URL]
//! ```
//!
//! Measurements trickle in. A group archives them in chunks; then one by one, until none came for
//! a while. What it is done with is trimmed away. Ctrl-C stops it at any time: what was begun is
//! finished first.

use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use flowstream::{Consumer, Delivery, Flowstream, GroupState};
use futures::SinkExt;
use futures::future::{BoxFuture, FutureExt, Shared, try_join_all};
use tokio_stream::StreamExt;

const STREAM: &str = "measurements";
const GROUP: &str = "archive";
const MEASUREMENTS: u64 = 1_000;
/// So long without a measurement is quiet.
const QUIET: Duration = Duration::from_millis(300);

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1);
    let flow = flowstream::open(url.as_deref().unwrap_or("memory:")).await?;
    let ctrl_c: Stop = tokio::signal::ctrl_c().map(drop).boxed().shared();

    println!("In chunks:");
    tokio::try_join!(trickle(&flow, &ctrl_c), in_chunks(&flow, &ctrl_c))?;
    trim(&flow).await?;
    if ctrl_c.peek().is_none() {
        println!("One by one, until it is quiet:");
        tokio::try_join!(trickle(&flow, &ctrl_c), until_quiet(&flow, &ctrl_c))?;
        trim(&flow).await?;
    }
    flow.close().await?;
    Ok(())
}

type Stop = Shared<BoxFuture<'static, ()>>;

async fn consumer(flow: &Flowstream, stop: &Stop) -> flowstream::Result<Consumer> {
    flow.consumer(STREAM, GROUP).shutdown_on(stop.clone()).await
}

/// Sends a few measurements every few milliseconds.
async fn trickle(flow: &Flowstream, stop: &Stop) -> Result<()> {
    let mut producer = flow.producer(STREAM).await?;
    for number in 0..MEASUREMENTS {
        producer.feed(format!("{} °C", number % 40).into()).await?;
        if number % 20 == 19 {
            producer.flush().await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if stop.peek().is_some() {
            break;
        }
    }
    producer.close().await?;
    Ok(())
}

/// At most 150 together, and none waits for more than 100 ms until its chunk is full.
async fn in_chunks(flow: &Flowstream, stop: &Stop) -> Result<()> {
    let consumer = consumer(flow, stop).await?;
    let control = consumer.control();
    let mut chunks = pin!(consumer.chunks_timeout(150, Duration::from_millis(100)));
    let mut archived = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk: Vec<Delivery> = chunk.into_iter().collect::<flowstream::Result<_>>()?;
        archive(&chunk);
        archived += chunk.len() as u64;
        // They become one write, or one a partition. To commit through the last would be enough only
        // where all are of one partition.
        try_join_all(chunk.into_iter().map(Delivery::commit)).await?;
        println!("  archived {archived}, {} behind", lag(flow).await?);
        if archived >= MEASUREMENTS {
            // The stream ends with this.
            drop(control.shutdown());
        }
    }
    control.shutdown().await;
    Ok(())
}

/// A timeout drops the future of `next`, and nothing is lost by that.
async fn until_quiet(flow: &Flowstream, stop: &Stop) -> Result<()> {
    let mut consumer = consumer(flow, stop).await?;
    let mut archived = 0;
    loop {
        match tokio::time::timeout(QUIET, consumer.next()).await {
            Ok(Some(delivery)) => {
                let delivery = delivery?;
                archive(std::slice::from_ref(&delivery));
                archived += 1;
                // Written soon, together with others.
                delivery.ack();
            }
            Ok(None) => break,
            Err(_) => {
                println!("  quiet for {QUIET:?}");
                break;
            }
        }
    }
    // Writes what was acked.
    consumer.control().shutdown().await;
    println!("  archived {archived}, {} behind", lag(flow).await?);
    Ok(())
}

/// Stands for the real thing.
fn archive(measurements: &[Delivery]) -> usize {
    measurements
        .iter()
        .map(|delivery| delivery.body().len())
        .sum()
}

/// How many messages the group has not done.
async fn lag(flow: &Flowstream) -> Result<u64> {
    let partitions = flow.group(STREAM, GROUP).await?;
    Ok(partitions.iter().map(GroupState::lag).sum())
}

/// Deletes what the group has done. With more groups, it would be the smallest of their positions.
async fn trim(flow: &Flowstream) -> Result<()> {
    for (partition, group) in (0..).zip(flow.group(STREAM, GROUP).await?) {
        let position = group.position();
        let start = flow.trim(STREAM, partition, position).await?;
        println!(
            "  trimmed to {position}: the log is {start}..{} now",
            group.bounds.end
        );
    }
    Ok(())
}
