//! Failovers, and other servers behind the same address.

#![cfg(feature = "postgres")]

use std::sync::Arc;
use std::time::Duration;

use flowstream::postgres::{self, ProducerExt};
use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{Consumer, Control, Delivery, ErrorKind, Flowstream, Message, Options};
use futures::SinkExt;
use postgres_support::proxy::Proxy;
use postgres_support::{Cluster, Stop};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};

mod postgres_support;

const PATIENCE: Duration = Duration::from_secs(600);

async fn open(proxy: &Proxy) -> Flowstream {
    let options = Options::new().retry_for(PATIENCE);
    let flow = options.open(&proxy.url("postgres")).await;
    flow.expect("it opens")
}

async fn send(flow: &Flowstream, bodies: impl Iterator<Item = String>) {
    let mut producer = flow.producer("orders").await.expect("a producer");
    for body in bodies {
        let sent = producer.send(Message::new(body)).await;
        sent.expect("it is sent, if need be again");
    }
}

async fn next(consumer: &mut Consumer) -> flowstream::Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    next.expect("something comes in time").expect("it goes on")
}

/// Consumes and commits so many, which have to come in order and without an error.
async fn take(consumer: &mut Consumer, bodies: impl Iterator<Item = String>) {
    for body in bodies {
        let delivery = next(consumer).await.expect("no error");
        assert_eq!(delivery.body(), body.as_bytes());
        delivery.commit().await.expect("a commit");
    }
}

fn epoch(control: &Control) -> u64 {
    match control.status() {
        flowstream::Status::Active { epoch } => epoch,
        other => panic!("{other:?}"),
    }
}

fn named(name: &'static str, numbers: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    numbers.map(move |number| format!("{name} {number}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lagging_standby_lost_is_reported_and_what_comes_instead_is_not_skipped() {
    let primary = Cluster::start_new();
    let proxy = Proxy::start(primary.port()).await;
    let (producing, consuming) = (open(&proxy).await, open(&proxy).await);
    let consumer = consuming.consumer("orders", "billing").await;
    let mut consumer = consumer.expect("a consumer");
    let control = consumer.control();
    send(&producing, named("kept", 0..20)).await;
    take(&mut consumer, named("kept", 0..20)).await;
    let standby = primary.standby();
    standby.catch_up(&primary);
    standby.stop_following();
    send(&producing, named("lost", 20..40)).await;
    take(&mut consumer, named("lost", 20..40)).await;
    let before = epoch(&control);

    primary.stop(Stop::Immediate);
    standby.promote();
    proxy.lead_to(standby.port());
    // Fewer than were lost: the end of the log stays behind what the consumer has seen.
    send(&producing, named("new", 20..30)).await;
    let error = next(&mut consumer).await.expect_err("the loss is told");
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(error.to_string().contains("orders/0"), "{error}");
    take(&mut consumer, named("new", 20..30)).await;
    assert!(epoch(&control) > before, "a lease ends with its server");
    send(&producing, named("new", 30..60)).await;
    take(&mut consumer, named("new", 30..60)).await;
    let state = consuming.group("orders", "billing").await.expect("a state");
    assert_eq!((state[0].position(), state[0].lag()), (60, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_lost_nothing_is_an_outage_that_passes() {
    let primary = Cluster::start_new();
    let proxy = Proxy::start(primary.port()).await;
    let flow = open(&proxy).await;
    let consumer = flow.consumer("orders", "billing").await;
    let mut consumer = consumer.expect("a consumer");
    let standby = primary.standby();
    send(&flow, named("kept", 0..20)).await;
    take(&mut consumer, named("kept", 0..10)).await;
    let control = consumer.control();
    let before = epoch(&control);
    let held = next(&mut consumer).await.expect("no error");
    standby.catch_up(&primary);
    primary.stop(Stop::Immediate);
    standby.promote();
    proxy.lead_to(standby.port());
    send(&flow, named("kept", 20..30)).await;
    // Its lease was of the server before; the message comes again.
    let fenced = held
        .commit()
        .await
        .expect_err("it is of a lease that ended");
    assert!(fenced.is_fenced(), "{fenced}");
    take(&mut consumer, named("kept", 10..30)).await;
    assert!(epoch(&control) > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_behind_the_address_is_noticed() {
    let (one, other) = (Cluster::start_new(), Cluster::start_new());
    let proxy = Proxy::start(one.port()).await;
    let flow = open(&proxy).await;
    let consumer = flow.consumer("orders", "billing").await;
    let mut consumer = consumer.expect("a consumer");
    send(&flow, named("one", 0..10)).await;
    take(&mut consumer, named("one", 0..10)).await;
    // The same names there, other messages.
    let there = flowstream::open(&other.url("postgres")).await;
    let there = there.expect("it opens");
    send(&there, named("other", 0..10)).await;
    drop(there.consumer("orders", "billing").await.expect("a group"));
    proxy.lead_to(other.port());
    let error = next(&mut consumer).await.expect_err("it is told");
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    take(&mut consumer, named("other", 0..10)).await;
}

/// What a transaction appended was moved into the log by a primary that is gone; on the one that
/// follows it is still to be moved. Nobody says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_was_lost_with_its_primary_is_made_again() {
    let primary = Cluster::start_new();
    let proxy = Proxy::start(primary.port()).await;
    let pool = PgPool::connect(&proxy.url("postgres")).await;
    let pool = pool.expect("a pool");
    let flow = open(&proxy).await;
    let consumer = flow.consumer("orders", "billing").await;
    let mut consumer = consumer.expect("a consumer");
    let mut orders = flow.producer("orders").await.expect("a producer");
    send(&flow, named("before", 0..1)).await;
    take(&mut consumer, named("before", 0..1)).await;
    let standby = primary.standby();

    let mut holder = PgConnection::connect(&primary.url("postgres")).await;
    let holder = holder.as_mut().expect("a session");
    let held = "BEGIN; SELECT FROM flowstream.partitions FOR UPDATE";
    sqlx::raw_sql(held).execute(&mut *holder).await.unwrap();
    let mut tx = pool.begin().await.expect("a transaction");
    let message = Message::new("left");
    orders.append_in(&mut tx, message).await.expect("appended");
    postgres::commit(tx).await.expect("committed");
    standby.catch_up(&primary);
    standby.stop_following();
    sqlx::raw_sql("COMMIT").execute(holder).await.unwrap();
    let delivery = next(&mut consumer).await.expect("no error");
    assert_eq!(delivery.body(), &b"left"[..]);
    drop(delivery);

    primary.stop(Stop::Immediate);
    standby.promote();
    proxy.lead_to(standby.port());
    // That it was gone may be seen, and told, before it is back.
    let again = match next(&mut consumer).await {
        Err(error) if error.kind() == ErrorKind::Data => next(&mut consumer).await,
        again => again,
    };
    let delivery = again.expect("no other error");
    assert_eq!(delivery.body(), &b"left"[..]);
    delivery.commit().await.expect("a commit");
}

/// Where nobody listens, and the application has all connections of its pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_one_transaction_is_refused_and_the_next_is_not() {
    let primary = Cluster::start_new();
    let proxy = Proxy::start(primary.port()).await;
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect(&proxy.url("postgres")).await.expect("a pool");
    let options = PostgresOptions::new().listen(false);
    let storage = PostgresStorage::from_pool(pool.clone(), options).await;
    let options = Options::new().retry_for(PATIENCE);
    let flow = options.open_storage(Arc::new(storage.expect("it opens")));
    let mut orders = flow.producer("orders").await.expect("a producer");
    let standby = primary.standby();
    standby.catch_up(&primary);
    primary.stop(Stop::Immediate);
    standby.promote();
    proxy.lead_to(standby.port());
    let mut refused = 0;
    loop {
        let mut tx = pool.begin().await.expect("a transaction");
        match orders.append_in(&mut tx, Message::new("late")).await {
            Ok(()) => break postgres::commit(tx).await.expect("committed"),
            // The storage has connections of its own, and one was being made while nobody was there.
            Err(error) if error.is_transient() => continue,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
        }
        refused += 1;
        assert_eq!(refused, 1);
    }
    assert_eq!(refused, 1, "it was of the server before");
    let consumer = flow.consumer("orders", "billing").await;
    let delivery = next(&mut consumer.expect("a consumer")).await;
    assert_eq!(delivery.expect("no error").body(), &b"late"[..]);
}
