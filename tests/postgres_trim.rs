//! Trimming, by several processes at once and very often: what it writes is a ledger that is cut now
//! and then.

#![cfg(feature = "postgres")]

use std::sync::Arc;

use flowstream::storage::{Name, Partition, PostgresOptions, PostgresStorage, Storage};
use flowstream::{ErrorKind, Message, Options};
use futures::future::join_all;
use postgres_support::{Cluster, copies_of_long_ago};

mod postgres_support;

const PROCESSES: usize = 2;
/// Each trim and each sweep is a generation, and 1,024 are kept before they are cut.
const TRIMS: u64 = 700;

async fn many_trims_at(level: &str) {
    let cluster = Cluster::start_new();
    let database = cluster.database();
    let url = cluster.url(&database);
    let sql = format!("ALTER DATABASE {database} SET default_transaction_isolation = '{level}'");
    cluster.psql("postgres", &sql);
    let open = || async {
        let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
        Arc::new(storage.expect("it opens"))
    };
    let storages = join_all([(); PROCESSES].map(|()| open())).await;
    let flow = Options::new().open_storage(storages[0].clone());
    let mut producer = flow.producer("orders").await.unwrap();
    producer.append(Message::new("x")).await.unwrap();
    let stream = Name::new("orders").unwrap();
    let partition = Partition { stream, index: 0 };
    cluster.psql(&database, &copies_of_long_ago(TRIMS as usize + 1_999));

    let trimming = storages.iter().map(async |storage| {
        for before in 1..=TRIMS {
            let start = loop {
                match storage.trim(&partition, before).await {
                    Ok(start) => break start,
                    // In the stricter levels two may collide.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                }
            };
            assert!(start >= before, "{start} after a trim to {before}");
            let bounds = storage.bounds(std::slice::from_ref(&partition)).await;
            let bounds = bounds.unwrap().remove(0);
            assert!(bounds.start >= start, "{bounds:?} after a trim to {start}");
        }
    });
    join_all(trimming).await;

    let bounds = storages[0].bounds(std::slice::from_ref(&partition)).await;
    let bounds = bounds.unwrap().remove(0);
    assert_eq!((bounds.start, bounds.end), (TRIMS, TRIMS + 2_000));
    let number = |sql: &str| cluster.psql(&database, sql).trim().parse::<u64>().unwrap();
    assert!(number("SELECT count(*) FROM flowstream.trim_state") <= 1_100);
    assert_eq!(
        number("SELECT count(*) FROM flowstream.messages"),
        2_000,
        "the view starts where the log does"
    );
    // All that was trimmed is old and not among the last thousand.
    assert_eq!(number("SELECT count(*) FROM flowstream.batches"), 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trims_go_on_and_on() {
    many_trims_at("read committed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trims_go_on_and_on_in_repeatable_read() {
    many_trims_at("repeatable read").await;
}
