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
    producer
        .send(Message::new("last"))
        .await
        .expect("it is sent");
    assert_eq!(flow.trim("orders", 0, 4).await.expect("a trim"), 4);
    let rows = "SELECT \"offset\", body FROM flowstream.messages";
    assert_eq!(cluster.psql("postgres", rows).trim_end(), "4|last");
}
