//! Orders that cannot be charged: tried again, given up, repaired and sent back.
//!
//! ```text
//! cargo run --example dead_letters -- [--storage URL]
//! ```
//!
//! A group charges orders, eight at a time. Where the card terminal is busy, the order comes again a
//! moment later and the others go on meanwhile; after four attempts it is moved to the dead letters.
//! Those that make no sense go there at once. Each move writes the message and the position of the
//! group in one transaction, so it may be killed at any time: no order is lost, and none is there
//! twice. At the end somebody looks at the dead letters: what can be repaired goes back, exactly once,
//! and is charged.
//!
//! Without a URL it works in a file that is gone afterwards. Ctrl-C stops it; with a URL like
//! `redb:orders.redb` the next run goes on.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use flowstream::{Delivery, Flowstream, Message};
use futures::future::{self, BoxFuture, FutureExt, Shared};
use futures::{SinkExt, TryStreamExt};

const ORDERS: &str = "orders";
const GROUP: &str = "billing";
const DEAD: &str = "orders.billing.dead";
const AT_A_TIME: usize = 8;
const MAX_ATTEMPTS: u32 = 4;

#[tokio::main]
async fn main() -> Result<()> {
    // It is gone when the program ends.
    let scratch = tempfile::tempdir()?;
    let url = match url(std::env::args().skip(1))? {
        Some(url) => url,
        None => format!("redb:{}", scratch.path().join("orders.redb").display()),
    };
    let flow = flowstream::open(&url).await?;
    let ctrl_c: Stop = tokio::signal::ctrl_c().map(drop).boxed().shared();

    order(&flow).await?;
    println!("Charging:");
    charge_all(&flow, &ctrl_c).await?;
    if ctrl_c.peek().is_none() {
        println!("What is dead:");
        repair(&flow, &ctrl_c).await?;
        println!("Charging what was repaired:");
        charge_all(&flow, &ctrl_c).await?;
    }
    if ctrl_c.peek().is_some() {
        println!("stopped; with a storage that stays, the same command goes on from here");
    }
    flow.close().await?;
    Ok(())
}

type Stop = Shared<BoxFuture<'static, ()>>;

fn url(mut args: impl Iterator<Item = String>) -> Result<Option<String>> {
    match args.next().as_deref() {
        None => Ok(None),
        Some("--storage") => args.next().context("--storage needs a URL").map(Some),
        Some(other) => bail!("{other} is not known: dead_letters [--storage URL]"),
    }
}

async fn order(flow: &Flowstream) -> Result<()> {
    let mut producer = flow.producer(ORDERS).await?;
    for table in 1..=20 {
        let order = match table {
            7 => "minus 3 beers".to_owned(),
            12 => "2 beers by cheque".to_owned(),
            _ => format!("{} beers", 1 + table % 4),
        };
        let message = Message::new(order).with_key(format!("table {table}"));
        producer.feed(message).await?;
    }
    producer.close().await?;
    Ok(())
}

enum Failure {
    /// It may work later.
    Busy,
    /// It never will.
    Nonsense(&'static str),
}

/// Charges until nothing is left, or until it is stopped.
async fn charge_all(flow: &Flowstream, stop: &Stop) -> Result<()> {
    let consumer = flow
        .consumer(ORDERS, GROUP)
        .max_attempts(MAX_ATTEMPTS)
        .shutdown_on(future::select(all_done(flow.clone()).boxed(), stop.clone()))
        .await?;
    let control = consumer.control();
    consumer
        .try_for_each_concurrent(AT_A_TIME, async |delivery| {
            let (order, attempt) = (text(delivery.message()), delivery.attempt());
            match charge(&delivery).await {
                Ok(()) => {
                    println!("  {order}: charged");
                    delivery.commit().await
                }
                Err(Failure::Busy) => {
                    println!("  {order}: busy, attempt {attempt}");
                    delivery.retry_after(Duration::from_millis(50) * attempt);
                    Ok(())
                }
                Err(Failure::Nonsense(why)) => {
                    println!("  {order}: given up, {why}");
                    Ok(delivery.dead_letter(why).await?)
                }
            }
        })
        .await?;
    control.shutdown().await;
    Ok(())
}

/// The card terminal.
async fn charge(delivery: &Delivery) -> Result<(), Failure> {
    tokio::time::sleep(Duration::from_millis(10)).await;
    let order = delivery.body();
    if order.starts_with(b"minus") {
        return Err(Failure::Nonsense("nobody drinks less than nothing"));
    }
    // Some need a moment, and nobody takes cheques.
    let needs_a_moment = matches!(delivery.offset() % 5, 1 | 3) && delivery.attempt() < 3;
    if needs_a_moment || order.ends_with(b"cheque") {
        return Err(Failure::Busy);
    }
    Ok(())
}

async fn all_done(flow: Flowstream) {
    let is_left = async || match flow.group(ORDERS, GROUP).await {
        Ok(states) => states.iter().any(flowstream::GroupState::is_pending),
        // The consumer says what is wrong.
        Err(_) => true,
    };
    while is_left().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Looks at each dead letter once: sends it back, or leaves it at that.
async fn repair(flow: &Flowstream, stop: &Stop) -> Result<()> {
    let mut orders = flow.producer(ORDERS).await?;
    let seen = seen(flow).await?;
    // All of them are there: the group is done.
    let mut left = flow.bounds(DEAD).await?[0].end - seen;
    let mut letters = flow
        .consumer(DEAD, "undertaker")
        .shutdown_on(stop.clone())
        .await?;
    while left > 0
        && let Some(letter) = letters.try_next().await?
    {
        left -= 1;
        let header = |name| String::from_utf8_lossy(letter.headers().get(name).unwrap_or_default());
        println!(
            "  {}, offset {} of {}: {}",
            text(letter.message()),
            header("dead-letter-offset"),
            header("dead-letter-stream"),
            header("dead-letter-reason"),
        );
        if letter.body().ends_with(b"cheque") {
            // Written in one transaction with the undertaker's position.
            let again = letter.into_message().with_body("2 beers, in cash");
            orders.send(again).await?;
        } else {
            letter.commit().await?;
        }
    }
    let control = letters.control();
    drop(letters);
    control.shutdown().await;
    Ok(())
}

/// What the undertaker has seen in an earlier run.
async fn seen(flow: &Flowstream) -> Result<u64> {
    drop(flow.consumer(DEAD, "undertaker").await?);
    Ok(flow.group(DEAD, "undertaker").await?[0].position())
}

fn text(message: &Message) -> String {
    let key = message.key().map(|key| String::from_utf8_lossy(key));
    let body = String::from_utf8_lossy(message.body());
    format!("{}, {body}", key.unwrap_or_default())
}
