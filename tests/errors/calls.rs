//! What is asked for that cannot be: names, sizes, streams and groups that are not there.

use std::time::Duration;

use flowstream::{Batch, Flowstream, Headers, Message, Name, Options, Start};
use futures::SinkExt;

use crate::listing::Listing;
use crate::refused;
use crate::support::*;

#[test]
fn names_and_headers() {
    let mut listing = Listing::new("Names and headers");
    for (what, name) in [
        ("empty", String::new()),
        ("too long", "x".repeat(256)),
        ("with a line break", "two\nlines".to_owned()),
    ] {
        listing.refused(&format!("a name that is {what}"), Name::new(name));
    }
    let mut headers = Headers::new();
    listing.refused(
        "a header without a name",
        headers.insert("", "secret-value"),
    );
    let control = headers.insert("a\0b", "secret-value");
    listing.refused("a header with NUL in its name", control);
    let long = headers.insert(&"x".repeat(1025), "secret-value");
    listing.refused("a header with a long name", long);
    listing.compare();
}

/// What the storages know of streams and groups, they say alike: run on each of them.
pub(crate) async fn streams(listing: &mut Listing, flow: &Flowstream) {
    for (stream, partitions) in [("orders", 1), ("payments", 4), ("Borders", 1)] {
        flow.create_stream(stream, partitions).await.unwrap();
    }
    listing.refused("stream(\"ordres\")", flow.bounds("ordres").await);
    listing.refused(
        "stream(\"nothing like it\")",
        flow.bounds("nothing like it").await,
    );
    listing.refused("read(\"ordres\", 0, 0)", flow.read("ordres", 0, 0).await);
    listing.refused("read(\"orders\", 9, 0)", flow.read("orders", 9, 0).await);
    listing.refused(
        "trim(\"payments\", 4, 0)",
        flow.trim("payments", 4, 0).await,
    );
    listing.refused(
        "create_stream(\"orders\", 2)",
        flow.create_stream("orders", 2).await,
    );
    listing.refused("create_stream(\"x\", 0)", flow.create_stream("x", 0).await);
    listing.refused(
        "group(\"ordres\", \"billing\")",
        flow.group("ordres", "billing").await,
    );
    listing.refused(
        "group(\"orders\", \"billing\")",
        flow.group("orders", "billing").await,
    );
    let mut consumer = flow.consumer("orders", "billing").await.unwrap();
    listing.refused(
        "group(\"orders\", \"biling\")",
        flow.group("orders", "biling").await,
    );
    listing.refused(
        "evict(\"orders\", \"biling\")",
        flow.evict("orders", "biling").await,
    );
    listing.refused(
        "evict(\"ordres\", \"billing\")",
        flow.evict("ordres", "billing").await,
    );
    let reset = || flow.reset("orders", "billing", Start::Earliest);
    listing.refused("reset(…).partition(9)", reset().partition(9).await);
    let mut coming = Box::pin(consumer.next());
    let active = flow.clone();
    // It has the lease soon.
    soon("the lease", async {
        loop {
            let poll = futures::poll!(&mut coming);
            assert!(poll.is_pending());
            let states = active.group("orders", "billing").await.unwrap();
            if states[0].is_held() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    listing.refused("reset(…) of an active group", reset().await);
}

#[tokio::test]
async fn streams_and_groups() {
    let mut listing = Listing::new("Streams and groups");
    let flow = flowstream::open("memory:").await.unwrap();
    let none = flow.bounds("orders").await;
    listing.refused("stream(\"orders\") where there is none at all", none);
    streams(&mut listing, &flow).await;
    listing.compare();
}

#[tokio::test]
async fn sizes() {
    let mut listing = Listing::new("Sizes");
    let options = Options::new().max_message_bytes(1000).memory_bytes(2000);
    let flow = options.open("memory:").await.unwrap();
    let mut producer = flow.producer("orders").await.unwrap();
    let body = |bytes: usize| "secret-body".repeat(bytes / 11 + 1);
    let error = refused(producer.append(Message::new(body(1000))).await);
    assert_eq!(error.unsent.len(), 1);
    listing.add("an append with a message that is too large", &error.error);
    listing.refused(
        "send of a message that is too large",
        producer.send(body(1000).into()).await,
    );
    let many: Batch = (0..(1 << 20) + 1).map(|_| Message::new("")).collect();
    listing.refused(
        "an append of too many messages",
        producer.append(many).await,
    );
    let large: Vec<Message> = (0..3).map(|_| Message::new(body(900))).collect();
    listing.refused("more than the memory holds", producer.append(large).await);
    let hasty = Options::new().retry_for(Duration::ZERO).memory_bytes(2000);
    let flow = hasty.open("memory:").await.unwrap();
    drop(flow.consumer("orders", "billing").await.unwrap());
    let mut producer = flow.producer("orders").await.unwrap();
    producer.append(Message::new(body(1000))).await.unwrap();
    let full = producer.append(Message::new(body(1000))).await;
    listing.refused("a memory that is full", full);
    listing.compare();
}

/// For authors of drivers.
#[test]
fn records() {
    let mut listing = Listing::new("Records");
    let damaged = flowstream::storage::Records::decode(&bytes::Bytes::from_static(b"secret-body"));
    listing.refused("bytes that are no records", damaged);
    listing.compare();
}

#[tokio::test]
async fn what_is_closed() {
    let mut listing = Listing::new("What is closed");
    let flow = flowstream::open("memory:").await.unwrap();
    let mut producer = flow.producer("orders").await.unwrap();
    let mut clone = producer.clone();
    producer.close().await.unwrap();
    listing.refused(
        "send after close",
        producer.send("secret-body".into()).await,
    );
    let appended = producer.append(Message::new("secret-body")).await;
    listing.refused("append after close", appended);
    flow.close().await.unwrap();
    let appended = clone.append(Message::new("secret-body")).await;
    listing.refused("append after Flowstream::close", appended);
    listing.refused("a producer after it", flow.producer("orders").await);
    listing.refused(
        "a consumer after it",
        flow.consumer("orders", "billing").await,
    );
    listing.refused("a look after it", flow.bounds("orders").await);
    listing.compare();
}

/// A driver that fails, and one that panics.
#[tokio::test]
async fn drivers() {
    let mut listing = Listing::new("Drivers with defects");
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    world.faulty.set(Call::Append, Fault::Panic);
    let appended = producer.append(Message::new("secret-body")).await;
    listing.refused("append, whose driver panics", appended);
    world.faulty.set(Call::Append, Fault::Lose);
    let appended = producer.append(Message::new("secret-body")).await;
    let error = refused(appended);
    assert!(error.in_doubt());
    listing.add("append, whose answer gets lost", &error.error);
    world.faulty.heal();
    // So many later ones are remembered instead.
    let mut others = world.flow.producer("orders").await.unwrap();
    for _ in 0..10_000 {
        others.append(Message::new("")).await.unwrap();
    }
    let again = producer.append(error.unsent).await;
    listing.refused("the same again, where nobody can tell any more", again);
    listing.compare();
}
