//! A program that starts beside its database waits for it.

#![cfg(feature = "postgres")]

use std::sync::Arc;
use std::time::Duration;

use flowstream::postgres::sqlx::postgres::PgPoolOptions;
use flowstream::{ErrorKind, Flowstream, Options};
use futures::SinkExt;
use postgres_support::{Cluster, Stop};
use support::soon;

mod postgres_support;
mod support;

const LONG: Duration = Duration::from_secs(100_000);

async fn works(flow: &Flowstream) {
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("a".into()).await.expect("it is sent");
}

/// Once the first error was the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_waits_for_a_server_that_starts_later() {
    let cluster = Arc::new(Cluster::start_new());
    cluster.stop(Stop::Fast);
    let url = cluster.url("postgres");
    let hasty = Options::new().retry_for(Duration::ZERO);
    let error = hasty.open(&url).await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("onnection refused"), "{error}");

    let patient = Options::new().retry_for(LONG);
    let opening = tokio::spawn(async move { patient.open(&url).await });
    // Its pool waits for as long by itself; then it is asked again.
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(100));
    let pool = pool.connect_lazy(&cluster.url("postgres")).unwrap();
    let from_pool = tokio::spawn(Flowstream::from_pool(pool));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!opening.is_finished(), "it waits");
    let later = cluster.clone();
    let starting = tokio::task::spawn_blocking(move || later.start());
    starting.await.unwrap();
    let flow = soon("the storage", opening).await.unwrap();
    works(&flow.expect("it opens")).await;
    // It has the default budget, within which a busy machine may not have started a server.
    match soon("the pool", from_pool).await.unwrap() {
        Ok(flow) => works(&flow).await,
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
    }
}

/// What no waiting mends is told at once: these would wait for a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_not_waited_for() {
    let cluster = Cluster::start_new();
    cluster.role_with_password("app", "right", "scram-sha-256");
    let port = cluster.port();
    for (login, database) in [
        ("app:wrong", "postgres"),
        ("app", "postgres"),
        ("app:right", "none"),
    ] {
        let url = format!("postgres://{login}@127.0.0.1:{port}/{database}");
        let opening = Options::new().retry_for(LONG).open(&url);
        let error = soon("an answer", opening).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    let url = format!("postgres://app:right@127.0.0.1:{port}/postgres");
    works(&flowstream::open(&url).await.expect("it opens")).await;
}
