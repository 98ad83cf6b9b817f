//! Batches are compressed where it saves something, and read as they were written.

#![cfg(feature = "postgres")]

use std::sync::OnceLock;

use flowstream::{Flowstream, Message};
use futures::StreamExt;
use postgres_support::Cluster;
use support::Random;

mod postgres_support;
mod support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

/// Some servers are built without it.
fn has_lz4() -> bool {
    let sql =
        "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'";
    cluster().psql("postgres", sql).trim() == "t"
}

fn lines(count: u32) -> Vec<Message> {
    let line = |n| {
        format!(
            r#"{{"order":{n},"customer":"c-{}","state":"paid"}}"#,
            n % 97
        )
    };
    let message = |n| Message::new(line(n)).with_key(format!("customer-{}", n % 97));
    (0..count).map(message).collect()
}

/// Nothing that a server can compress.
fn noise(count: u32) -> Vec<Message> {
    let mut random = Random::new(0);
    let mut message = || Message::new((0..100).map(|_| random.next() as u8).collect::<Vec<u8>>());
    (0..count).map(|_| message()).collect()
}

async fn append(flow: &Flowstream, batches: &[Vec<Message>]) {
    let mut orders = flow.producer("orders").await.unwrap();
    for batch in batches {
        orders.append(batch.clone()).await.unwrap();
    }
}

async fn assert_read(flow: &Flowstream, group: &str, batches: &[Vec<Message>]) {
    let consumer = flow.consumer("orders", group).await.unwrap();
    let expected = batches.iter().flatten();
    let mut read = consumer.take(expected.clone().count());
    for expected in expected {
        let delivery = read.next().await.unwrap().unwrap();
        let message = delivery.message();
        assert_eq!(message.body(), expected.body());
        assert_eq!(message.key(), expected.key());
    }
}

/// How each batch stands in the table: its compression, and whether it takes less than half.
fn stored(database: &str) -> String {
    let sql = "SELECT string_agg(coalesce(pg_column_compression(bodies), '-') || ' '
                   || (pg_column_size(bodies) < octet_length(bodies) / 2), ', ' ORDER BY base_offset)
               FROM flowstream.batches";
    cluster().psql(database, sql).trim().to_owned()
}

#[tokio::test]
async fn what_can_be_compressed_is_and_reads_the_same() {
    let database = cluster().database();
    let flow = flowstream::open(&cluster().url(&database)).await.unwrap();
    let batches = [lines(1_000), noise(1_000), lines(1), lines(20_000)];
    append(&flow, &batches).await;
    if has_lz4() {
        assert_eq!(stored(&database), "lz4 true, - false, - false, lz4 true");
    }
    assert_read(&flow, "all", &batches).await;
    // By the view, in whatever order.
    let orders = "SELECT count(DISTINCT body::jsonb ->> 'order'), count(DISTINCT key)
                  FROM flowstream.messages WHERE \"offset\" >= 2001";
    assert_eq!(cluster().psql(&database, orders).trim(), "20000|97");
    let newest = "SELECT body::jsonb ->> 'order' FROM flowstream.tail('orders', 1)";
    assert_eq!(cluster().psql(&database, newest).trim(), "19999");
    flow.close().await.unwrap();
}

/// As of a server without lz4, or a table that an operator has changed: what is stored stays as it is.
#[tokio::test]
async fn batches_of_each_kind_stand_side_by_side() {
    let database = cluster().database();
    let flow = flowstream::open(&cluster().url(&database)).await.unwrap();
    let batches = [lines(500), lines(500), lines(500)];
    append(&flow, &batches[..1]).await;
    for (settings, batch) in [
        ("STORAGE EXTERNAL", &batches[1..2]),
        (
            "STORAGE EXTENDED, ALTER COLUMN bodies SET COMPRESSION pglz",
            &batches[2..],
        ),
    ] {
        let alter = format!("ALTER TABLE flowstream.batches ALTER COLUMN bodies SET {settings}");
        cluster().psql(&database, &alter);
        append(&flow, batch).await;
    }
    if has_lz4() {
        assert_eq!(stored(&database), "lz4 true, - false, pglz true");
    }
    assert_read(&flow, "all", &batches).await;
    flow.close().await.unwrap();
}
