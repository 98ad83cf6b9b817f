//! The sink, poll by poll: when it has room, and who wakes it.

mod support;

use std::task::Poll;
use std::time::Duration;

use flowstream::{Error, ErrorKind, Message, Producer, Result};
use futures::{Sink, SinkExt, StreamExt, stream};
use support::*;
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready_ok};

fn poll_ready(sink: &mut Spawn<Producer>) -> Poll<Result<()>> {
    sink.enter(|cx, sink| sink.poll_ready(cx))
}

fn poll_flush(sink: &mut Spawn<Producer>) -> Poll<Result<()>> {
    sink.enter(|cx, sink| sink.poll_flush(cx))
}

fn start_send(sink: &mut Spawn<Producer>, message: impl ToString) -> Result<()> {
    sink.enter(|_, sink| sink.start_send(message.to_string().into()))
}

#[tokio::test]
async fn it_is_pending_exactly_when_full_with_something_in_flight() {
    let world = world().await;
    world.faulty.set(Call::Append, Fault::Hold);
    let mut sink = spawn(
        world
            .flow
            .producer("orders")
            .batch_messages(2)
            .await
            .unwrap(),
    );
    for number in 0..6 {
        assert_ready_ok!(poll_ready(&mut sink), "there is room for {number}");
        start_send(&mut sink, number).unwrap();
        if number == 1 {
            eventually("the first buffer is under way", || world.faulty.held() == 1).await;
        }
    }
    assert_pending!(poll_ready(&mut sink));
    quiet().await;
    assert_eq!(world.faulty.held(), 1);
    assert!(!sink.is_woken());

    world.faulty.let_go();
    eventually("a wake-up", || sink.is_woken()).await;
    assert_ready_ok!(poll_ready(&mut sink));
    eventually("the second buffer is under way", || {
        world.faulty.held() == 1
    })
    .await;
    assert_eq!(world.bodies("orders").await, ["0", "1"]);
    for number in 6..8 {
        assert_ready_ok!(poll_ready(&mut sink));
        start_send(&mut sink, number).unwrap();
    }
    assert_pending!(poll_ready(&mut sink));
    world.faulty.heal();
    eventually("a wake-up", || sink.is_woken()).await;
    assert_ready_ok!(poll_ready(&mut sink));
    sink.into_inner().flush().await.unwrap();
    assert_eq!(world.bodies("orders").await, numbers(8));
}

#[tokio::test]
async fn whoever_polls_last_is_woken() {
    let world = world().await;
    world.faulty.set(Call::Append, Fault::Hold);
    let mut producer = world
        .flow
        .producer("orders")
        .batch_messages(1)
        .await
        .unwrap();
    producer.feed("0".into()).await.unwrap();
    producer.feed("1".into()).await.unwrap();
    producer.feed("2".into()).await.unwrap();
    let mut first = spawn(());
    let mut last = spawn(());
    assert_pending!(first.enter(|cx, _| producer.poll_ready_unpin(cx)));
    assert_pending!(last.enter(|cx, _| producer.poll_ready_unpin(cx)));
    world.faulty.heal();
    eventually("a wake-up", || last.is_woken()).await;
    assert_ready_ok!(last.enter(|cx, _| producer.poll_ready_unpin(cx)));
}

#[tokio::test]
async fn a_full_buffer_leaves_without_a_flush() {
    let world = world().await;
    let mut producer = world
        .flow
        .producer("orders")
        .batch_bytes(100)
        .await
        .unwrap();
    producer.feed("x".repeat(100).into()).await.unwrap();
    eventually("the append", || world.faulty.count(Call::Append) == 1).await;
    producer.feed("small".into()).await.unwrap();
    quiet().await;
    assert_eq!(world.faulty.count(Call::Append), 1);
}

#[tokio::test]
async fn readiness_never_fails_while_the_storage_does() {
    let world = world().await;
    world.faulty.set(Call::Append, Fault::Fail);
    let mut sink = spawn(
        world
            .flow
            .producer("orders")
            .batch_messages(3)
            .await
            .unwrap(),
    );
    let (mut taken, mut errors) = (0, 0);
    for round in 0..300 {
        if round == 200 {
            assert_eq!(errors, 1, "the outage was reported");
            world.faulty.heal();
            // It is tried again a moment later.
            world.clock.advance(Duration::from_secs(1));
        }
        if let Poll::Ready(ready) = poll_ready(&mut sink) {
            ready.unwrap();
            // The item is taken, whatever this says.
            errors += usize::from(start_send(&mut sink, taken).is_err());
            taken += 1;
        }
        quiet().await;
    }
    assert!(taken > 100 && errors <= 2, "{taken} taken, {errors} errors");
    let mut producer = sink.into_inner();
    while producer.flush().await.is_err() {}
    assert_eq!(world.bodies("orders").await, numbers(taken));
}

#[tokio::test]
async fn a_forward_through_an_outage_loses_and_doubles_no_item() {
    for fault in [Fault::Fail, Fault::Doubt, Fault::Lose] {
        let world = world().await;
        let mut producer = world
            .flow
            .producer("orders")
            .batch_messages(3)
            .await
            .unwrap();
        let messages = numbers(100)
            .into_iter()
            .map(|body| Ok::<_, Error>(Message::from(body)));
        let mut source = stream::iter(messages);
        world.faulty.after(Call::Append, 5, fault, 20);
        let mut errors = 0;
        let passing = async {
            loop {
                world.clock.advance(Duration::from_millis(10));
                quiet().await;
            }
        };
        let mut passing = std::pin::pin!(passing);
        loop {
            let forwarding = source.by_ref().forward(&mut producer);
            let forwarded = soon("an end", async {
                tokio::select! {
                    biased;
                    forwarded = forwarding => forwarded,
                    () = &mut passing => unreachable!("time does not end"),
                }
            });
            match forwarded.await {
                Ok(()) => break,
                Err(_) => errors += 1,
            }
        }
        assert!(errors > 0);
        assert_eq!(world.bodies("orders").await, numbers(100), "{fault:?}");
    }
}

#[tokio::test]
async fn a_flush_covers_what_is_accepted_while_it_is_under_way() {
    let world = world().await;
    world.faulty.set(Call::Append, Fault::Hold);
    let mut sink = spawn(world.flow.producer("orders").await.unwrap());
    start_send(&mut sink, 0).unwrap();
    assert_pending!(poll_flush(&mut sink));
    eventually("the first", || world.faulty.held() == 1).await;
    start_send(&mut sink, 1).unwrap();
    assert_pending!(poll_flush(&mut sink));
    world.faulty.let_go();
    eventually("a wake-up", || sink.is_woken()).await;
    assert_pending!(poll_flush(&mut sink), "the second is not durable");
    assert_eq!(world.bodies("orders").await, ["0"]);
    eventually("the second", || world.faulty.held() == 1).await;
    world.faulty.let_go();
    eventually("a wake-up", || sink.is_woken()).await;
    assert_ready_ok!(poll_flush(&mut sink));
    assert_eq!(world.bodies("orders").await, ["0", "1"]);
}

#[tokio::test]
async fn a_flush_of_nothing_is_ready_and_writes_nothing() {
    let world = world().await;
    let mut sink = spawn(world.flow.producer("orders").await.unwrap());
    assert_ready_ok!(poll_flush(&mut sink));
    assert_ready_ok!(sink.enter(|cx, sink| sink.poll_close(cx)));
    assert_eq!(world.faulty.count(Call::Append), 0);
}

#[tokio::test]
async fn a_closed_sink_refuses_and_gives_back() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    producer.feed("0".into()).await.unwrap();
    producer.close().await.unwrap();
    assert_eq!(world.bodies("orders").await, ["0"]);
    let error = producer.send("1".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let error = producer.start_send_unpin("1".into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(producer.take_refused().unwrap().body(), "1");
    let error = producer
        .append([Message::new("2"), Message::new("3")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(error.unsent.len(), 2);
    producer.flush().await.unwrap();
    producer.close().await.unwrap();
    assert_eq!(world.bodies("orders").await, ["0"]);
}

#[tokio::test]
async fn a_close_that_fails_can_be_tried_again() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    producer.feed("0".into()).await.unwrap();
    world.faulty.times(Call::Append, Fault::Fail, 1);
    assert!(producer.close().await.unwrap_err().is_transient());
    producer.close().await.unwrap();
    assert_eq!(world.bodies("orders").await, ["0"]);
}
