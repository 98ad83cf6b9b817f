//! People read the log in psql.

#![cfg(feature = "postgres")]

use std::time::{Duration, SystemTime};

use flowstream::Message;
use futures::SinkExt;
use postgres_support::Cluster;

mod postgres_support;

#[tokio::test]
async fn the_view_reads_well() {
    let cluster = Cluster::start_new();
    let flow = flowstream::open(&cluster.url("postgres"))
        .await
        .expect("it opens");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let early = SystemTime::UNIX_EPOCH - Duration::from_secs(86_400);
    let mut producer = flow.producer("orders").await.expect("a producer");
    for message in [
        Message::new("plain"),
        Message::new("grün").with_key("clé").with_timestamp(time),
        Message::new(&b"\xff\x00"[..])
            .with_header("trace", "1")
            .and_then(|message| message.with_header("trace", "2"))
            .expect("headers"),
        Message::new("").with_timestamp(early),
    ] {
        producer.feed(message).await.expect("it is taken");
    }
    producer.flush().await.expect("they are sent");
    cluster.psql("postgres", "ALTER DATABASE postgres SET timezone = 'UTC'");
    let rows = "SELECT stream, partition, \"offset\", key, headers, body, \"timestamp\"
                FROM flowstream.messages ORDER BY \"offset\"";
    assert_eq!(
        cluster.psql("postgres", rows).trim_end(),
        "orders|0|0|||plain|\n\
         orders|0|1|clé||grün|2023-11-14 22:13:20+00\n\
         orders|0|2||[[\"trace\", \"1\"], [\"trace\", \"2\"]]|\\xff00|\n\
         orders|0|3||||1969-12-31 00:00:00+00"
    );
    let tail = |arguments| {
        let sql = format!("SELECT \"offset\", body FROM flowstream.tail({arguments})");
        cluster.psql("postgres", &sql).trim_end().to_owned()
    };
    assert_eq!(tail("'orders', 2"), "2|\\xff00\n3|");
    assert_eq!(tail("'orders', 1, 2"), "1|grün");
    assert_eq!(tail("'orders'").lines().count(), 4);
    assert_eq!(tail("'nothing'"), "");
    producer
        .send(Message::new("last"))
        .await
        .expect("it is sent");
    assert_eq!(flow.trim("orders", 0, 4).await.expect("a trim"), 4);
    let rows = "SELECT \"offset\", body FROM flowstream.messages";
    assert_eq!(cluster.psql("postgres", rows).trim_end(), "4|last");
    assert_eq!(tail("'orders'"), "4|last");
    assert_eq!(tail("'orders', 3, 4"), "");

    // Many partitions, and batches of many.
    flow.create_stream("wide", 3).await.expect("a stream");
    let mut producer = flow.producer("wide").await.expect("a producer");
    for number in 0..3_000 {
        let message = Message::new(format!("{number}")).with_key(format!("{}", number % 7));
        producer.feed(message).await.expect("it is taken");
    }
    producer.close().await.expect("they are sent");
    let all =
        "SELECT count(*), count(DISTINCT body), count(DISTINCT partition) FROM flowstream.messages
               WHERE stream = 'wide'";
    assert_eq!(cluster.psql("postgres", all).trim_end(), "3000|3000|3");
    let newest = "SELECT count(*), count(*) FILTER (WHERE body::int >= 2_900) FROM flowstream.tail('wide', 10)";
    let newest = newest.replace("2_900", "2900");
    assert_eq!(cluster.psql("postgres", &newest).trim_end(), "30|30");
}
