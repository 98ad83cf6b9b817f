//! What is done under each setting.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flowstream::postgres::{self, DeliveryExt, ProducerExt};
use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{Batch, Consumer, Delivery, Flowstream, Message, Options, Start};
use futures::{StreamExt, TryStreamExt};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{bouncer, cluster};

/// How connections are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The storage's own.
    Direct,
    /// The same through a pooler in transaction mode; without one, as if there were one.
    Pooled,
    /// By a pool of the application.
    OfAPool,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Pooled, Self::OfAPool];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Pooled => "pooled",
            Self::OfAPool => "of a pool",
        }
    }

    fn schema(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Pooled => "pooled",
            Self::OfAPool => "of_a_pool",
        }
    }

    fn url(self, database: &str) -> String {
        match (self, bouncer()) {
            (Self::Pooled, Some(bouncer)) => bouncer.url(database),
            _ => cluster().url(database),
        }
    }
}

/// Longer than a busy machine takes for anything.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often something is tried that the server gave up.
const TRIES: u32 = 200;
/// How many messages a stream gets, and one more.
const MESSAGES: usize = 20;

pub(crate) async fn work(way: Way, database: &str, stream: &str) -> Result<()> {
    let server: PgConnectOptions = way.url(database).parse()?;
    let pool =
        PgPoolOptions::new()
            .max_connections(4)
            .connect_lazy_with(server.statement_cache_capacity(match way {
                Way::Pooled => 0,
                _ => 100,
            }));
    let flow = open_patiently(way, database, &pool).await?;
    produce(&flow, stream).await.context("producing")?;
    consume(&flow, stream).await.context("consuming")?;
    relay(&flow, stream).await.context("relaying")?;
    outbox(&flow, &pool, stream).await.context("the outbox")?;
    trim(&flow, stream).await.context("trimming")?;
    reset(&flow, stream).await.context("resetting")?;
    flow.close().await.context("closing")?;
    pool.close().await;
    Ok(())
}

/// What the server gave up is tried again, as the error says.
async fn open_patiently(way: Way, database: &str, pool: &PgPool) -> Result<Flowstream> {
    for _ in 0..TRIES {
        match open(way, database, pool).await {
            Err(error) if error.is_transient() => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            opened => return opened.context("opening"),
        }
    }
    open(way, database, pool).await.context("opening, at last")
}

async fn open(way: Way, database: &str, pool: &PgPool) -> flowstream::Result<Flowstream> {
    let postgres = PostgresOptions::new().schema(way.schema());
    let postgres = postgres.pooled(way == Way::Pooled);
    let options = Options::new().retry_for(PATIENCE);
    match way {
        Way::OfAPool => {
            let storage = PostgresStorage::from_pool(pool.clone(), postgres).await?;
            Ok(options.open_storage(Arc::new(storage)))
        }
        _ => options.postgres(postgres).open(&way.url(database)).await,
    }
}

/// Bytes that some text would have to escape, a key, and headers.
fn message(number: usize) -> Result<Message> {
    let body = [b"\\000'\0\xff".as_slice(), number.to_string().as_bytes()].concat();
    let message = Message::new(body).with_key(format!("key {}", number % 5));
    Ok(message.with_header("of", [0, b'\\', b'\'', b'"', 0xfe])?)
}

fn bodies(numbers: std::ops::Range<usize>) -> Result<BTreeSet<Vec<u8>>> {
    let bodies = numbers.map(|number| Ok(message(number)?.body().to_vec()));
    bodies.collect()
}

async fn produce(flow: &Flowstream, stream: &str) -> Result<()> {
    flow.create_stream(stream, 2).await?;
    let mut producer = flow.producer(stream).await?;
    let batch = (0..MESSAGES).map(message).collect::<Result<Vec<_>>>()?;
    producer
        .append(batch.into_iter().collect::<Batch>())
        .await?;
    producer.append(message(MESSAGES)?).await?;
    let bounds = flow.bounds(stream).await?;
    let count: u64 = bounds.iter().map(|bounds| bounds.end).sum();
    ensure!(count == MESSAGES as u64 + 1, "{count} are there");
    Ok(())
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.try_next());
    let next = next.await.context("nothing comes")??;
    next.context("the stream ended")
}

async fn consume(flow: &Flowstream, stream: &str) -> Result<()> {
    let mut consumer = flow.consumer(stream, stream).await?;
    let mut seen = BTreeSet::new();
    let mut held = Vec::new();
    while seen.len() <= MESSAGES {
        let delivery = next(&mut consumer).await?;
        ensure!(seen.insert(delivery.body().to_vec()), "one comes twice");
        ensure!(delivery.attempt() == 1, "it was tried before");
        let header = delivery.headers().iter().next().context("a header")?;
        ensure!(
            header.1 == &[0, b'\\', b'\'', b'"', 0xfe][..],
            "the header is another"
        );
        ensure!(
            delivery.key().is_some_and(|key| key.starts_with(b"key ")),
            "no key"
        );
        // Not in order.
        match held.len() {
            0 => held.push(delivery),
            _ => {
                delivery.commit().await?;
                if let Some(held) = held.pop() {
                    held.commit().await?;
                }
            }
        }
    }
    for delivery in held {
        delivery.commit().await?;
    }
    ensure!(seen == bodies(0..MESSAGES + 1)?, "other messages came");
    consumer.control().shutdown().await;
    let groups = flow.groups(stream).await?;
    ensure!(groups.len() == 2, "{} groups", groups.len());
    for info in groups {
        ensure!(
            info.state.lag() == 0,
            "{} is left in {}",
            info.state.lag(),
            info.group
        );
    }
    Ok(())
}

/// Exactly once, into another stream.
async fn relay(flow: &Flowstream, stream: &str) -> Result<()> {
    let consumer = flow.consumer(stream, "relay").await?;
    let (control, producer) = (consumer.control(), flow.producer("copies").await?);
    let relaying = consumer.map_ok(Delivery::into_message).forward(producer);
    let relaying = tokio::spawn(relaying);
    let all = async {
        loop {
            let groups = flow.group(stream, "relay").await?;
            if groups.iter().all(|group| group.lag() == 0) {
                return Ok::<(), flowstream::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .context("it does not end")??;
    control.shutdown().await;
    relaying.await??;
    let copies = flow.bounds("copies").await?;
    ensure!(
        copies.len() == 1 && copies[0] == (0..MESSAGES as u64 + 1),
        "copies at {copies:?}"
    );
    Ok(())
}

/// An event, and that a message is done, in a transaction of the application.
async fn outbox(flow: &Flowstream, pool: &PgPool, stream: &str) -> Result<()> {
    let mut events = flow.producer("events").await?;
    let mut consumer = flow.consumer(stream, "shipping").await?;
    let delivery = next(&mut consumer).await?;
    let place = (delivery.partition(), delivery.offset());
    let mut done = transaction(pool, &mut events, &delivery).await;
    for _ in 0..TRIES {
        match &done {
            Err(error) if is_transient(error) => {
                done = transaction(pool, &mut events, &delivery).await
            }
            _ => break,
        }
    }
    done?;
    drop(delivery);
    let mut consumed = flow.consumer("events", "audit").await?;
    for number in [0, 1] {
        let event = next(&mut consumed).await?;
        ensure!(
            event.body() == &message(number)?.body()[..],
            "another event"
        );
        event.commit().await?;
    }
    consumed.control().shutdown().await;
    consumer.control().shutdown().await;
    let positions = flow.group(stream, "shipping").await?;
    let position = positions[place.0 as usize].position();
    ensure!(position == place.1 + 1, "the position is {position}");
    let events = flow.bounds("events").await?;
    ensure!(events[0] == (0..2), "an event came twice");
    Ok(())
}

async fn transaction(
    pool: &PgPool,
    events: &mut flowstream::Producer,
    delivery: &Delivery,
) -> Result<()> {
    let mut transaction = pool.begin().await?;
    events.append_in(&mut transaction, message(0)?).await?;
    events.append_in(&mut transaction, message(1)?).await?;
    delivery.commit_in(&mut transaction).await?;
    postgres::commit(transaction).await?;
    Ok(())
}

/// Nothing was written.
fn is_transient(error: &anyhow::Error) -> bool {
    match (
        error.downcast_ref::<flowstream::Error>(),
        error.downcast_ref::<sqlx::Error>(),
    ) {
        (Some(error), _) => error.is_transient() && !error.in_doubt(),
        (_, Some(sqlx::Error::Database(_) | sqlx::Error::Io(_))) => true,
        _ => false,
    }
}

async fn trim(flow: &Flowstream, stream: &str) -> Result<()> {
    let end = flow.bounds(stream).await?[0].end;
    let start = flow.trim(stream, 0, end).await?;
    let bounds = flow.bounds(stream).await?;
    ensure!(
        start == end && bounds[0] == (end..end),
        "trimmed to {start}: {bounds:?}"
    );
    Ok(())
}

/// What is left comes again.
async fn reset(flow: &Flowstream, stream: &str) -> Result<()> {
    flow.reset(stream, stream, Start::Earliest).force().await?;
    let left = flow.bounds(stream).await?[1].end;
    if left == 0 {
        bail!("all keys go to one partition");
    }
    let mut consumer = flow.consumer(stream, stream).await?;
    for offset in 0..left {
        let delivery = next(&mut consumer).await?;
        ensure!(
            (delivery.partition(), delivery.offset()) == (1, offset),
            "another one"
        );
        delivery.ack();
    }
    consumer.control().shutdown().await;
    Ok(())
}
