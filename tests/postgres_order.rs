//! Offsets have no gaps and become visible in order, whoever appends and whatever the sessions say.

#![cfg(feature = "postgres")]

use std::collections::HashMap;
use std::sync::Arc;

use flowstream::storage::{
    Append, Appended, Id, Name, Partition, PostgresOptions, PostgresStorage, Read, RecordsBuilder,
    Row, Storage,
};
use flowstream::{ErrorKind, Message};
use postgres_support::Cluster;
use sqlx::postgres::PgConnectOptions;

mod postgres_support;

const WRITERS: u64 = 8;
const APPENDS: u64 = 60;

async fn open(url: &str, level: &str) -> PostgresStorage {
    let server: PgConnectOptions = url.parse().unwrap();
    let server = server.options([("default_transaction_isolation", level)]);
    let storage = PostgresStorage::connect_with(server, PostgresOptions::new()).await;
    storage.expect("it opens")
}

/// Messages that say who wrote them, and which number they have there.
fn batch(partition: &Partition, writer: u64, numbers: std::ops::Range<u64>) -> Row {
    let messages: Vec<Message> = numbers
        .map(|number| Message::new(format!("{writer} {number}")))
        .collect();
    let builder: RecordsBuilder = messages.iter().collect();
    Row {
        partition: partition.clone(),
        records: builder.build().expect("some"),
    }
}

/// Appends to both partitions at once, in batches of 1 to 5.
async fn write(storage: PostgresStorage, both: [Partition; 2], writer: u64) {
    let mut next = 0;
    for number in 0..APPENDS {
        let count = 1 + (writer + number) % 5;
        // In the one order and the other: locks are taken in one all the same.
        let at = (number % 2) as usize;
        let rows = [&both[at], &both[1 - at]].map(|p| batch(p, writer, next..next + count));
        let append = Arc::new(Append {
            id: Id::random(),
            after: None,
            rows: rows.into(),
            commits: vec![],
        });
        next += count;
        loop {
            match storage.append(append.clone()).await {
                Ok(Appended::Written(_)) => break,
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
        }
    }
    storage.close().await.expect("it closes");
}

/// Reads as fast as it can until all is there, and looks at each answer.
async fn read(storage: PostgresStorage, partition: Partition, until: u64) {
    let (mut next, mut seen) = (0, HashMap::new());
    while next < until {
        let read = Read {
            partition: partition.clone(),
            from: next,
            max_bytes: 4_000,
            group: None,
        };
        let fetched = storage.read(read).await.expect("a read");
        assert_eq!(fetched.bounds.start, 0);
        // What the snapshot says is there, is there.
        assert_eq!(fetched.batches.is_empty(), fetched.bounds.end <= next);
        for stored in &fetched.batches {
            assert_eq!(stored.base_offset, next, "contiguous");
            for index in 0..stored.records.len() {
                let message = stored.records.message(index);
                let body = String::from_utf8(message.body().to_vec()).unwrap();
                let (writer, number) = body.split_once(' ').expect("two words");
                let last = seen.insert(writer.to_owned(), number.parse::<u64>().unwrap());
                let expected = last.map_or(0, |last| last + 1);
                assert_eq!(seen[writer], expected, "in the order of {writer}");
            }
            next += u64::from(stored.records.len());
        }
        assert!(next <= fetched.bounds.end);
    }
}

async fn in_order_at(level: &str) {
    let cluster = Cluster::start_new();
    let url = cluster.url("postgres");
    let storage = open(&url, level).await;
    let stream = Name::new("orders").unwrap();
    let created = storage.create_stream(&stream, Some(2)).await;
    created.expect("a stream");
    let both = [0, 1].map(|index| Partition {
        stream: stream.clone(),
        index,
    });
    let total = |writer| (0..APPENDS).map(move |number| 1 + (writer + number) % 5);
    let until = (0..WRITERS).flat_map(total).sum();
    let mut tasks = tokio::task::JoinSet::new();
    for partition in &both {
        for level in ["read committed", "serializable"] {
            tasks.spawn(read(open(&url, level).await, partition.clone(), until));
        }
    }
    // Each has connections of its own, as a process has.
    for writer in 0..WRITERS {
        tasks.spawn(write(open(&url, level).await, both.clone(), writer));
    }
    tasks.join_all().await;
    let bounds = storage.bounds(&both).await.expect("bounds");
    assert_eq!(bounds, [0..until, 0..until]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_become_visible_in_order_in_read_committed() {
    in_order_at("read committed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_become_visible_in_order_in_repeatable_read() {
    in_order_at("repeatable read").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_become_visible_in_order_in_serializable() {
    in_order_at("serializable").await;
}
