//! The stream, poll by poll: who wakes it, how it ends, what its errors do.

mod support;

use std::task::Poll;
use std::time::Duration;

use flowstream::{Consumer, Delivery, ErrorKind, Result, Status};
use futures::stream::FusedStream;
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use support::*;
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready};

fn poll(consumer: &mut Spawn<Consumer>) -> Poll<Option<Result<Delivery>>> {
    consumer.enter(|cx, consumer| consumer.poll_next(cx))
}

#[tokio::test]
async fn it_sleeps_at_the_end_of_the_log_and_an_append_wakes_it() {
    let world = world().await;
    let mut consumer = spawn(world.flow.consumer("orders", "billing").await.unwrap());
    let mut producer = world.flow.producer("orders").await.unwrap();
    assert_pending!(poll(&mut consumer));
    quiet().await;
    for number in 0..5 {
        assert_pending!(poll(&mut consumer));
        let calls = world.faulty.total();
        world.pass(Duration::from_secs(3600)).await;
        assert_eq!(world.faulty.total(), calls, "nothing is polled");
        assert!(!consumer.is_woken());
        producer.send(number.to_string().into()).await.unwrap();
        eventually("a wake-up", || consumer.is_woken()).await;
        let delivery = assert_ready!(poll(&mut consumer)).unwrap().unwrap();
        assert_eq!(delivery.offset(), number);
        delivery.commit().await.unwrap();
    }
}

#[tokio::test]
async fn an_append_between_any_two_polls_is_not_missed() {
    for polls in 0..30 {
        let world = world().await;
        world.faulty.hesitate(2);
        let mut consumer = spawn(world.flow.consumer("orders", "billing").await.unwrap());
        let mut producer = world.flow.producer("orders").await.unwrap();
        assert_pending!(poll(&mut consumer));
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        producer.send("0".into()).await.unwrap();
        // From here on it is polled only if it was woken.
        let mut got = None;
        eventually("the message", || {
            if got.is_none()
                && consumer.is_woken()
                && let Poll::Ready(next) = poll(&mut consumer)
            {
                got = next;
            }
            got.is_some()
        })
        .await;
        assert_eq!(got.unwrap().unwrap().body(), "0");
    }
}

#[tokio::test]
async fn after_a_shutdown_it_ends_for_ever() {
    let world = world().await;
    world.fill("orders", 3).await;
    let mut consumer = spawn(world.flow.consumer("orders", "billing").await.unwrap());
    assert_eq!(consumer.size_hint(), (0, None));
    assert_pending!(poll(&mut consumer));
    eventually("a message", || consumer.is_woken()).await;
    drop(assert_ready!(poll(&mut consumer)));
    assert!(!consumer.is_terminated());
    drop(consumer.control().shutdown());
    for _ in 0..3 {
        assert!(assert_ready!(poll(&mut consumer)).is_none());
        assert!(consumer.is_terminated());
        assert_eq!(consumer.size_hint(), (0, Some(0)));
    }
}

#[tokio::test]
async fn a_shutdown_wakes_a_consumer_that_sleeps() {
    let world = world().await;
    let mut consumer = spawn(world.flow.consumer("orders", "billing").await.unwrap());
    assert_pending!(poll(&mut consumer));
    quiet().await;
    assert_pending!(poll(&mut consumer));
    drop(consumer.control().shutdown());
    assert!(consumer.is_woken());
    assert!(assert_ready!(poll(&mut consumer)).is_none());
}

#[tokio::test]
async fn a_combinator_that_holds_deliveries_lets_go_of_them_at_the_shutdown() {
    let world = world().await;
    world.fill("orders", 37).await;
    let consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let control = consumer.control();
    let mut chunks = consumer.chunks(100);
    let mut first = Box::pin(chunks.next());
    assert!(stays_pending(&mut first).await);
    let stopped = tokio::spawn(control.shutdown());
    let chunk = soon("the chunk", first).await.unwrap();
    assert_eq!(chunk.len(), 37);
    for delivery in chunk {
        delivery.unwrap().ack();
    }
    assert!(soon("the end", chunks.next()).await.is_none());
    soon("the shutdown", stopped).await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 37);
}

#[tokio::test]
async fn shutdown_waits_for_the_deliveries_that_are_held() {
    let world = world().await;
    world.fill("orders", 2).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    let mut stopped = Box::pin(consumer.control().shutdown());
    assert!(stays_pending(&mut stopped).await);
    first.commit().await.unwrap();
    assert!(stays_pending(&mut stopped).await);
    assert!(world.group("orders", "billing").await.owner.is_some());
    drop(second);
    soon("the shutdown", stopped).await;
    assert_eq!(consumer.control().status(), Status::Closed);
    let state = world.group("orders", "billing").await;
    assert_eq!((state.owner, state.progress.position()), (None, 1));
}

#[tokio::test]
async fn shutdown_waits_no_longer_than_the_drain() {
    let world = world().await;
    world.fill("orders", 1).await;
    let drain = Duration::from_secs(10);
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .drain(drain)
        .await
        .unwrap();
    let held = next(&mut consumer).await;
    let mut stopped = Box::pin(consumer.control().shutdown());
    assert!(stays_pending(&mut stopped).await);
    world.pass(drain - Duration::from_millis(1)).await;
    assert!(stays_pending(&mut stopped).await);
    world.pass(Duration::from_millis(20)).await;
    soon("the shutdown", stopped).await;
    assert_eq!(world.group("orders", "billing").await.owner, None);
    assert!(
        soon("an answer", held.commit())
            .await
            .unwrap_err()
            .is_fenced()
    );
    assert_eq!(world.position("orders", "billing").await, 0);
}

#[tokio::test]
async fn a_dropped_consumer_gives_the_lease_back_once_its_handles_are_gone() {
    let world = world().await;
    world.fill("orders", 2).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let held = next(&mut consumer).await;
    let mut standby = world.flow.consumer("orders", "billing").await.unwrap();
    drop(consumer);
    let mut coming = Box::pin(standby.next());
    assert!(stays_pending(&mut coming).await);
    held.commit().await.unwrap();
    let delivery = soon("the hand-over", coming).await.unwrap().unwrap();
    assert_eq!(
        (delivery.offset(), delivery.epoch(), delivery.attempt()),
        (1, 2, 1)
    );
}

#[tokio::test]
async fn all_that_is_gone_lets_go_of_the_storage() {
    let world = world().await;
    world.fill("orders", 2).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let delivery = next(&mut consumer).await;
    drop(consumer);
    let World { faulty, flow, .. } = world;
    let inner = std::sync::Arc::downgrade(faulty.inner());
    drop((faulty, flow, delivery));
    eventually("the storage is free", || inner.strong_count() == 0).await;
}

#[tokio::test]
async fn each_budget_comes_out_as_one_error_and_the_stream_goes_on() {
    let budget = Duration::from_secs(10);
    let world = world_with(|options| options.retry_for(budget)).await;
    world.fill("orders", 1).await;
    let consumer = world
        .flow
        .consumer("orders", "billing")
        .max_processing(budget * 100);
    let mut consumer = spawn(consumer.await.unwrap());
    world.faulty.set(Call::Read, Fault::Fail);
    let mut errors = 0;
    let rounds = 5;
    for _ in 0..rounds * 100 {
        world.pass_in(budget / 100, 1).await;
        while let Poll::Ready(next) = poll(&mut consumer) {
            assert!(next.unwrap().unwrap_err().is_transient());
            errors += 1;
        }
    }
    assert!((rounds - 1..=rounds).contains(&errors), "{errors} errors");
    world.faulty.heal();
    world.pass(Duration::from_secs(5)).await;
    let delivery = assert_ready!(poll(&mut consumer)).unwrap().unwrap();
    assert_eq!((delivery.offset(), delivery.epoch()), (0, 1));
}

#[tokio::test]
async fn damaged_data_is_an_error_and_not_an_end() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    world
        .faulty
        .times(Call::Read, Fault::Break(ErrorKind::Data), 1);
    let error = soon("the error", consumer.next())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(next(&mut consumer).await.offset(), 0);
}

#[tokio::test]
async fn a_closed_storage_ends_the_stream_with_an_error() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let held = next(&mut consumer).await;
    // By somebody else: as if the server had gone for good.
    world.faulty.inner().close().await.unwrap();
    let error = soon("the error", consumer.next())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(soon("an answer", held.commit()).await.is_err());
    assert!(soon("the end", consumer.next()).await.is_none());
    soon("the shutdown", consumer.control().shutdown()).await;
    let mut producer = world.flow.producer("orders").await;
    if let Ok(producer) = &mut producer {
        assert!(producer.send("0".into()).await.is_err());
    }
}

#[tokio::test]
async fn a_signal_shuts_it_down() {
    let world = world().await;
    let (signal, signalled) = tokio::sync::oneshot::channel::<()>();
    let consumer = world.flow.consumer("orders", "billing").shutdown_on(async {
        let _ = signalled.await;
    });
    let mut consumer = consumer.await.unwrap();
    let mut coming = Box::pin(consumer.next());
    assert!(stays_pending(&mut coming).await);
    signal.send(()).unwrap();
    assert!(soon("the end", coming).await.is_none());
}

#[tokio::test]
async fn no_call_is_tried_in_a_tight_loop() {
    for call in [
        Call::Claim,
        Call::Read,
        Call::Observe,
        Call::Append,
        Call::Commit,
    ] {
        for fault in [Fault::Fail, Fault::Break(ErrorKind::Data)] {
            let world = world().await;
            world.fill("orders", 3).await;
            let build = world
                .flow
                .consumer("orders", "billing")
                .redeliver_after(Duration::ZERO);
            let mut consumer = build.await.unwrap();
            let mut producer = world.flow.producer("orders").await.unwrap();
            if !matches!(call, Call::Claim | Call::Read) {
                drop(next(&mut consumer).await);
                next(&mut consumer).await.commit().await.unwrap();
            }
            world.faulty.set(call, fault);
            let before = world.faulty.count(call);
            producer.feed("more".into()).await.unwrap();
            let _ = producer.flush().await;
            for _ in 0..50 {
                if let Some(Some(Ok(delivery))) = consumer.next().now_or_never() {
                    delivery.ack();
                }
                quiet().await;
            }
            let calls = world.faulty.count(call) - before;
            assert!(
                calls < 10,
                "{calls} times {call:?} while no time passed ({fault:?})"
            );
        }
    }
}
