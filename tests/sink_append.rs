//! `append`: together or not at all, and behind what the sink accepted.

mod support;

use flowstream::{Batch, ErrorKind, Message};
use futures::{FutureExt, SinkExt};
use support::*;

#[tokio::test]
async fn it_goes_behind_what_the_sink_accepted() {
    let world = world().await;
    let mut producer = world
        .flow
        .producer("orders")
        .batch_messages(2)
        .await
        .unwrap();
    for body in numbers(3) {
        producer.feed(body.into()).await.unwrap();
    }
    let appended = producer
        .append([Message::new("3"), Message::new("4")])
        .await
        .unwrap();
    assert_eq!(appended.offsets()[0].offsets, 3..5);
    assert_eq!(world.bodies("orders").await, numbers(5));
}

#[tokio::test]
async fn what_the_sink_could_not_write_goes_first_even_then() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    producer.feed("0".into()).await.unwrap();
    world.faulty.times(Call::Append, Fault::Fail, 1);
    let error = producer.append(Message::new("1")).await.unwrap_err();
    let batch = error.unsent;
    assert_eq!(batch.messages()[0].body(), "1");
    assert!(!batch.in_doubt());
    assert_eq!(world.bodies("orders").await, [""; 0]);
    producer.append(batch).await.unwrap();
    assert_eq!(world.bodies("orders").await, ["0", "1"]);
}

#[tokio::test]
async fn several_streams_and_partitions_get_it_together_or_not_at_all() {
    let world = world().await;
    world.flow.create_stream("wide", 4).await.unwrap();
    let mut producer = world.flow.producer("orders").await.unwrap();
    let batch = || {
        let wide = (0..8).map(|i| Message::new("w").with_key(format!("k{i}")));
        let wide = wide.map(|message| message.with_stream("wide").unwrap());
        let new = Message::new("n").with_stream("new").unwrap();
        [Message::new("o"), new]
            .into_iter()
            .chain(wide)
            .collect::<Batch>()
    };
    world.faulty.times(Call::Append, Fault::Fail, 1);
    let error = producer.append(batch()).await.unwrap_err();
    assert_eq!(error.unsent.len(), 10);
    for stream in ["orders", "wide", "new"] {
        let ends = world.flow.bounds(stream).await.unwrap();
        assert!(ends.iter().all(|bounds| bounds.end == 0), "{stream}");
    }
    let appended = producer.append(batch()).await.unwrap();
    let count: u64 = appended
        .offsets()
        .iter()
        .map(|row| row.offsets.end - row.offsets.start)
        .sum();
    assert_eq!(count, 10);
    for row in appended.offsets() {
        let ends = world.flow.bounds(row.stream.as_str()).await.unwrap();
        assert_eq!(ends[row.partition as usize], row.offsets);
    }
    assert_eq!(world.faulty.count(Call::Append), 2);
}

#[tokio::test]
async fn nothing_is_appended_by_an_empty_batch() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    assert!(producer.append([]).await.unwrap().offsets().is_empty());
    assert_eq!(world.faulty.count(Call::Append), 0);
}

#[tokio::test]
async fn a_batch_over_the_limit_comes_back_whole() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    let body = "x".repeat(7 << 20);
    let batch: Batch = (0..10).map(|_| Message::new(body.clone())).collect();
    let error = producer.append(batch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.unsent.len(), 10);
    assert_eq!(world.faulty.count(Call::Append), 0);
}

#[tokio::test]
async fn one_that_was_dropped_under_way_does_not_disturb_what_comes_after() {
    for fault in [Fault::Hold, Fault::Late, Fault::Fail] {
        let world = world().await;
        let mut producer = world.flow.producer("orders").await.unwrap();
        world.faulty.times(Call::Append, fault, 1);
        let mut appending = Box::pin(producer.append(Message::new("0")));
        assert!((&mut appending).now_or_never().is_none());
        quiet().await;
        drop(appending);
        producer.feed("1".into()).await.unwrap();
        let flushing = tokio::spawn(async move {
            producer.flush().await.unwrap();
            producer.append(Message::new("2")).await.unwrap();
        });
        quiet().await;
        world.faulty.heal();
        soon("the flush", flushing).await.unwrap();
        quiet().await;
        let mut bodies = world.bodies("orders").await;
        if fault == Fault::Hold {
            assert_eq!(bodies, ["0", "1", "2"]);
        }
        bodies.retain(|body| body != "0");
        assert_eq!(bodies, ["1", "2"], "{fault:?}");
    }
}
