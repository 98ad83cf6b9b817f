//! Makes one stream from another, each message exactly once.
//!
//! ```text
//! cargo run --release --example forward -- [URL]
//! ```
//!
//! A message made by `Delivery::into_message` carries the commit of its delivery, and the producer
//! writes both in one transaction: either the output is there and the input is done, or neither.
//! So the pipeline may be dropped, killed or cut off wherever it is: the next one goes on with the
//! first message whose output is missing. That holds within one storage. Into another one, the
//! output is written first and the commit after it, which is at least once.
//!
//! With a URL like `redb:forward.redb` the streams stay: run it again, and nothing is doubled.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowstream::{Delivery, Flowstream, Message};
use futures::future::{self, FutureExt};
use futures::{SinkExt, StreamExt, TryStreamExt};

const FROM: &str = "said";
const TO: &str = "shouted";
const GROUP: &str = "shouters";
const MESSAGES: u64 = 100_000;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1);
    let flow = flowstream::open(url.as_deref().unwrap_or("memory:")).await?;
    let ctrl_c = tokio::signal::ctrl_c().map(drop).shared();

    fill(&flow).await?;
    println!("at the start            {}", counts(&flow).await?);

    // The first pipeline is dropped in the middle of its work, with all that is under way in it.
    tokio::select! {
        ended = shout(&flow, ctrl_c.clone()) => ended?,
        half = reached(flow.clone(), MESSAGES / 2) => half?,
    }
    println!("the first, dropped      {}", counts(&flow).await?);

    for run in ["the second, to the end", "the third"] {
        let all = reached(flow.clone(), MESSAGES).map(drop).boxed();
        shout(&flow, future::select(all, ctrl_c.clone()).map(drop)).await?;
        println!("{run:23} {}", counts(&flow).await?);
    }
    if ctrl_c.peek().is_some() {
        println!("stopped; with a storage that stays, the same command goes on from here");
    } else {
        compare(&flow).await?;
        println!("each message is in {TO} once, in the order of {FROM}");
    }
    flow.close().await?;
    Ok(())
}

/// The pipeline. It ends when it is told to stop.
async fn shout(flow: &Flowstream, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let consumer = flow.consumer(FROM, GROUP).shutdown_on(stop).await?;
    let control = consumer.control();
    let producer = flow.producer(TO).await?;
    consumer
        .map_ok(Delivery::into_message)
        .map_ok(louder)
        .forward(producer)
        .await?;
    control.shutdown().await;
    Ok(())
}

fn louder(message: Message) -> Message {
    let body = message.body().to_ascii_uppercase();
    message.with_body(body)
}

/// Sends the messages, as many as are missing.
async fn fill(flow: &Flowstream) -> Result<()> {
    let mut producer = flow.producer(FROM).await?;
    let sent = flow.bounds(FROM).await?[0].end;
    for number in sent..MESSAGES {
        producer.feed(format!("hello {number}").into()).await?;
    }
    producer.close().await?;
    // Both are made by asking for them, so that they can be counted.
    flow.producer(TO).await?;
    flow.consumer(FROM, GROUP).await?;
    Ok(())
}

/// Waits until the group has done all before this offset.
async fn reached(flow: Flowstream, offset: u64) -> Result<()> {
    while flow.group(FROM, GROUP).await?[0].progress.position() < offset {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn counts(flow: &Flowstream) -> Result<String> {
    let group = &flow.group(FROM, GROUP).await?[0];
    Ok(format!(
        "{} in {FROM}, {} of them done; {} in {TO}",
        group.bounds.end,
        group.progress.position(),
        flow.bounds(TO).await?[0].end
    ))
}

/// Reads both streams side by side, without a group.
async fn compare(flow: &Flowstream) -> Result<()> {
    for (from, to) in all(flow, FROM).await?.iter().zip(all(flow, TO).await?) {
        ensure!(
            to.body() == &from.body().to_ascii_uppercase(),
            "{:?} became {:?}",
            from.body(),
            to.body()
        );
    }
    Ok(())
}

async fn all(flow: &Flowstream, stream: &str) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    loop {
        let page = flow.read(stream, 0, messages.len() as u64).await?;
        if page.is_empty() {
            return Ok(messages);
        }
        messages.extend(page.into_iter().map(|(_, message)| message));
    }
}
