//! What some versions of PostgreSQL have and others have not.

use std::time::Duration;

use flowstream::postgres::{self, ProducerExt};
use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{ErrorKind, Flowstream, Message, Options};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::{cluster, database, version};

/// PostgreSQL 17 and later may end a session whose transaction takes too long.
const LIMITS_TRANSACTIONS: u32 = 17_00_00;

/// Each append takes longer than the role allows.
const WAITS: &str = "
    CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
    CREATE TRIGGER wait AFTER INSERT ON flowstream.batches EXECUTE FUNCTION public.wait()";

async fn append(flow: &Flowstream) -> flowstream::Result<()> {
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.append(Message::new("a")).await?;
    Ok(())
}

/// A session of ours was ended in the midst of what took longer than the role's transactions may, again
/// and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_transactions_is_for_those_of_the_application() {
    if version() < LIMITS_TRANSACTIONS {
        return unknown_there().await;
    }
    let database = database("");
    let url = cluster().url(&database);
    for is_pooled in [false, true] {
        let options = PostgresOptions::new().pooled(is_pooled);
        let open = || {
            Options::new()
                .postgres(options.clone())
                .retry_for(Duration::ZERO)
        };
        if !is_pooled {
            let flow = open().open(&url).await.expect("it opens");
            append(&flow).await.expect("nothing limits it");
            cluster().psql(&database, WAITS);
            let limit = format!("ALTER DATABASE {database} SET transaction_timeout = '100ms'");
            cluster().psql(&database, &limit);
        }
        let flow = open().open(&url).await.expect("it opens");
        append(&flow).await.expect("the limit is not for it");
    }
    // In a pool of the application it is, and that can pass; nothing was written.
    let pool = PgPool::connect_lazy(&url).expect("a pool");
    let storage = PostgresStorage::from_pool(pool, PostgresOptions::new()).await;
    let flow = Options::new().retry_for(Duration::ZERO);
    let flow = flow.open_storage(std::sync::Arc::new(storage.expect("it opens")));
    let before = flow.bounds("orders").await.expect("bounds");
    let error = append(&flow).await.expect_err("it takes too long");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(flow.bounds("orders").await.expect("bounds"), before);
}

/// What this server does not know is said of no connection of ours.
async fn unknown_there() {
    let database = database("");
    let url = cluster().url(&database);
    let flow = flowstream::open(&url).await.expect("it opens");
    append(&flow).await.expect("it is written");
    let server: PgConnectOptions = url.parse().unwrap();
    let server = server.options([("transaction_timeout", "1s")]);
    let error = PostgresStorage::connect_with(server, PostgresOptions::new()).await;
    let error = error.map(drop).expect_err("there is no such parameter");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("transaction_timeout"), "{error}");
}

/// What ends a session that did nothing is no reason to give up: one of our own is not ended, and one of
/// the application is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_that_was_ended_is_replaced() {
    let database = database("");
    let url = cluster().url(&database);
    let first = flowstream::open(&url).await.expect("it opens");
    append(&first).await.expect("it is written");
    let limit = format!("ALTER DATABASE {database} SET idle_session_timeout = '500ms'");
    cluster().psql(&database, &limit);
    let pool = PgPoolOptions::new().test_before_acquire(false);
    let pool = pool.connect_lazy(&url).expect("a pool");
    let of_a_pool = loop {
        // A busy machine may be idle for so long in the midst of it.
        match PostgresStorage::from_pool(pool.clone(), PostgresOptions::new()).await {
            Err(error) if error.is_transient() => {}
            opened => break std::sync::Arc::new(opened.expect("it opens")),
        }
    };
    let options = Options::new().retry_for(Duration::from_secs(600));
    let of_a_pool = options.clone().open_storage(of_a_pool);
    let own = options.open(&url).await.expect("it opens");
    for written in 2..5 {
        append(&of_a_pool).await.expect("it is written");
        assert_eq!(own.bounds("orders").await.expect("bounds")[0].end, written);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
}

/// It was said to be rolled back for what the application did wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_whose_session_was_ended_can_be_begun_again() {
    let database = database("");
    let url = cluster().url(&database);
    let flow = flowstream::open(&url).await.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    let pool = PgPool::connect_lazy(&url).expect("a pool");
    let mut limits = vec!["SET LOCAL idle_in_transaction_session_timeout = '100ms'"];
    if version() >= LIMITS_TRANSACTIONS {
        limits.push("SET LOCAL transaction_timeout = '100ms'");
    }
    for limit in limits {
        let mut transaction = pool.begin().await.expect("a transaction");
        let appended = orders.append_in(&mut transaction, Message::new("never"));
        appended.await.expect("appended");
        let limited = sqlx::raw_sql(limit).execute(&mut *transaction);
        limited.await.expect("a limit");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let error = postgres::commit(transaction).await.expect_err("it is over");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{limit}: {error}");
        assert!(!error.in_doubt(), "{limit}: {error}");
    }
    assert_eq!(flow.bounds("orders").await.expect("bounds")[0], 0..0);
}
