//! Trimming, by several processes at once and very often: what it writes is a ledger that is cut now
//! and then.

#![cfg(feature = "postgres")]

use std::sync::Arc;

use flowstream::storage::{
    Append, Id, Name, Partition, PostgresOptions, PostgresStorage, RecordsBuilder, Row, Storage,
};
use flowstream::{ErrorKind, Message};
use futures::future::join_all;
use postgres_support::Cluster;
use sqlx::postgres::PgConnectOptions;

mod postgres_support;

const PROCESSES: usize = 2;
/// Each trim and each sweep is a generation, and 1,024 are kept before they are cut.
const TRIMS: u64 = 700;

async fn open(url: &str, level: &str) -> PostgresStorage {
    let server: PgConnectOptions = url.parse().unwrap();
    let server = server.options([("default_transaction_isolation", level)]);
    let storage = PostgresStorage::connect_with(server, PostgresOptions::new()).await;
    storage.expect("it opens")
}

async fn many_trims_at(level: &str) {
    let cluster = Cluster::start_new();
    let database = cluster.database();
    let url = cluster.url(&database);
    let storages = join_all([(); PROCESSES].map(|()| open(&url, level))).await;
    let stream = Name::new("orders").unwrap();
    storages[0].create_stream(&stream, Some(1)).await.unwrap();
    let partition = Partition { stream, index: 0 };
    let builder: RecordsBuilder = [&Message::new("x")].into_iter().collect();
    let append = Append {
        id: Id::random(),
        after: None,
        rows: vec![Row {
            partition: partition.clone(),
            records: builder.build().unwrap(),
        }],
        commits: vec![],
    };
    storages[0].append(Arc::new(append)).await.unwrap();
    // As if appended one by one, long ago.
    let copies = format!(
        "UPDATE flowstream.batches SET appended_at = clock_timestamp() - interval '2 hours';
         INSERT INTO flowstream.batches
             (stream_id, partition, base_offset, count, appended_at, batch_id, ends, bodies)
         SELECT stream_id, partition, number, count, appended_at, gen_random_uuid(), ends, bodies
         FROM flowstream.batches, generate_series(1, {TRIMS} + 1999) number"
    );
    cluster.psql(&database, &copies);

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
    assert!(number("SELECT count(*) FROM flowstream.floors") <= 1_100);
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
