//! The same on Postgres, and what strangers do there: notifications, and names in statements.

use std::fs;

use flowstream::storage::{Partition, PostgresOptions, PostgresStorage, Read, Storage, schema_sql};
use flowstream::{ErrorKind, Message, Name, Options};
use futures::SinkExt;

use crate::postgres_support::Cluster;
use crate::siege::Siege;
use crate::support::Random;
use crate::values::text;
use crate::{assert_no_panics, open, watch_panics};

/// All statements are logged, without their parameters: no name may stand in one.
#[tokio::test]
async fn whatever_comes_postgres_takes_it_or_refuses_it_and_no_name_is_in_a_statement() {
    watch_panics();
    let settings = [
        ("log_statement", "all"),
        ("log_parameter_max_length", "0"),
        ("log_min_error_statement", "panic"),
    ];
    let cluster = Cluster::start_with(&settings);
    let database = cluster.database();
    let flow = open(&cluster.url(&database)).await;
    let mut siege = Siege::new(flow.clone(), 1, 20);
    siege.run(3_000).await;
    println!("postgres: {}", siege.count);
    siege.count.report();
    let marker = "'; DROP SCHEMA hostile_marker; --";
    flow.create_stream(marker, 1).await.unwrap();
    flow.consumer(marker, marker).await.unwrap();
    assert_eq!(flow.bounds(marker).await.unwrap(), [0..0]);
    // Nobody is left in the middle of something.
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    assert_eq!(cluster.psql(&database, stuck).trim(), "0");
    let log = || fs::read_to_string(cluster.directory().join("log")).unwrap();
    assert!(!log().contains("hostile_marker"));
    // The check itself: a statement with the name in it is seen.
    cluster.psql(&database, "SELECT 'hostile_marker'");
    assert!(log().contains("hostile_marker"));
    flow.close().await.unwrap();
    assert_no_panics();
}

#[tokio::test]
async fn names_of_schemas_are_checked_before_anybody_is_asked() {
    let mut random = Random::new(1);
    for _ in 0..5_000 {
        let name = text(&mut random);
        let options = PostgresOptions::new().schema(name.clone());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match schema_sql(&options) {
            Ok(sql) => {
                assert!(name.len() <= 48 && name.chars().all(is_plain), "{name:?}");
                assert!(sql.contains(&format!("\"{name}\".")));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid);
                // There is no server.
                let options = Options::new().postgres(options);
                let error = options.open("postgres://postgres@127.0.0.1:1/db").await;
                assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
            }
        }
    }
}

/// What others wrote into a row of the log is an error that names the batch.
#[tokio::test]
async fn rows_that_somebody_changed_are_errors() {
    watch_panics();
    let cluster = Cluster::start_new();
    let database = cluster.database();
    let url = cluster.url(&database);
    let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
    let storage = storage.unwrap();
    let flow = open(&url).await;
    let mut producer = flow.producer("orders").await.unwrap();
    for body in ["one", "two", "three"] {
        producer
            .feed(Message::new(body).with_key("key"))
            .await
            .unwrap();
    }
    producer.flush().await.unwrap();
    let partition = Partition {
        stream: Name::new("orders").unwrap(),
        index: 0,
    };
    let read = || Read {
        partition: partition.clone(),
        from: 0,
        max_bytes: 1 << 20,
        group: None,
    };
    assert_eq!(
        storage.read(read()).await.unwrap().batches[0].records.len(),
        3
    );
    cluster.psql(&database, "CREATE TABLE sound AS TABLE flowstream.batches");
    for damage in [
        "count = 2",
        "count = 4",
        "bodies = ''",
        "bodies = bodies || 'x'",
        "ends = NULL",
        "ends = ''",
        "ends = substring(ends FOR 11)",
        "ends = ends || '\\x00'",
        "ends = ends || '\\x0b000000'",
        // Decreasing; beyond the bodies; before their end.
        "ends = '\\x06000000030000000b000000'",
        "ends = '\\x0300000006000000ffffffff'",
        "ends = '\\x030000000600000006000000'",
        "attribute_ends = NULL",
        "attribute_ends = ''",
        "attribute_ends = substring(attribute_ends FOR 11)",
        "attribute_ends = attribute_ends || '\\x00000000'",
        "attribute_ends = '\\xffffffffffffffffffffffff'",
        "attributes = ''",
        "attributes = substring(attributes FOR 5)",
    ] {
        cluster.psql(
            &database,
            &format!("UPDATE flowstream.batches SET {damage}"),
        );
        let error = storage.read(read()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{damage}: {error}");
        let back =
            "UPDATE flowstream.batches b SET count = s.count, ends = s.ends, bodies = s.bodies,
                    attribute_ends = s.attribute_ends, attributes = s.attributes FROM sound s";
        cluster.psql(&database, back);
    }
    assert_eq!(
        storage.read(read()).await.unwrap().batches[0].records.len(),
        3
    );
    flow.close().await.unwrap();
    assert_no_panics();
}
