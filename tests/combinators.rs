//! A consumer and a producer are pieces of any pipeline of `futures`.

mod support;

use flowstream::{
    Batch, Commit, Committing, Consumer, Control, Delivery, Error, Flowstream, Message, Producer,
};
use futures::stream::FusedStream;
use futures::{Sink, SinkExt, Stream, StreamExt, TryStreamExt};
use support::*;

fn is_send<T: Send + 'static>() {}
fn is_sync<T: Sync>() {}
fn is_unpin<T: Unpin>() {}

#[test]
fn everything_can_be_moved_and_shared_as_promised() {
    is_send::<Producer>();
    is_sync::<Producer>();
    is_unpin::<Producer>();
    is_send::<Consumer>();
    is_unpin::<Consumer>();
    is_send::<Delivery>();
    is_sync::<Delivery>();
    is_unpin::<Delivery>();
    is_send::<Commit>();
    is_sync::<Commit>();
    is_send::<Committing>();
    is_unpin::<Committing>();
    is_send::<Message>();
    is_sync::<Message>();
    is_send::<Batch>();
    is_sync::<Batch>();
    is_send::<Control>();
    is_sync::<Control>();
    is_send::<Error>();
    is_sync::<Error>();
    is_send::<Flowstream>();
    is_sync::<Flowstream>();

    fn is_stream<T: Stream<Item = flowstream::Result<Delivery>> + FusedStream>() {}
    fn is_sink<T: Sink<Message, Error = Error> + Clone>() {}
    is_stream::<Consumer>();
    is_sink::<Producer>();

    async fn futures_are_send(flow: Flowstream) {
        fn is_send<T: Send>(value: T) -> T {
            value
        }
        let mut producer = is_send(flow.producer("orders").into_future())
            .await
            .unwrap();
        drop(is_send(producer.send("0".into())));
        drop(is_send(producer.append(Message::new("0"))));
        let mut consumer = is_send(flow.consumer("orders", "g").into_future())
            .await
            .unwrap();
        drop(is_send(consumer.next()));
        drop(is_send(consumer.try_next()));
        drop(is_send(consumer.control().shutdown()));
        drop(is_send(flow.close()));
    }
    use std::future::IntoFuture;
    let _ = futures_are_send;
}

async fn filled() -> (World, Consumer) {
    let world = world().await;
    world.fill("orders", 500).await;
    let consumer = world.flow.consumer("orders", "billing").await.unwrap();
    (world, consumer)
}

/// Shuts the consumer down once the group has done everything.
fn stop_at_the_end(world: &World, consumer: &Consumer) -> tokio::task::JoinHandle<()> {
    let (flow, control) = (world.flow.clone(), consumer.control());
    tokio::spawn(async move {
        loop {
            let state = flow.group("orders", "billing").await.unwrap().remove(0);
            if state.progress.position() == 500 {
                return control.shutdown().await;
            }
            tokio::task::yield_now().await;
        }
    })
}

#[tokio::test]
async fn try_for_each_concurrent() {
    let (world, consumer) = filled().await;
    let stop = stop_at_the_end(&world, &consumer);
    let done = consumer.try_for_each_concurrent(64, Delivery::commit);
    soon("the end", done).await.unwrap();
    stop.await.unwrap();
}

#[tokio::test]
async fn and_then() {
    let (world, consumer) = filled().await;
    let stop = stop_at_the_end(&world, &consumer);
    let done = consumer.and_then(Delivery::commit).try_collect::<Vec<()>>();
    assert_eq!(soon("the end", done).await.unwrap().len(), 500);
    stop.await.unwrap();
}

#[tokio::test]
async fn try_buffer_unordered() {
    let (world, consumer) = filled().await;
    let stop = stop_at_the_end(&world, &consumer);
    let done = consumer.map_ok(Delivery::commit).try_buffer_unordered(64);
    assert_eq!(
        soon("the end", done.try_collect::<Vec<()>>())
            .await
            .unwrap()
            .len(),
        500
    );
    stop.await.unwrap();
}

#[tokio::test]
async fn for_each_with_acks() {
    let (world, mut consumer) = filled().await;
    let mut left = 500;
    while left > 0 {
        left -= take_all(&mut consumer, Delivery::ack).await;
    }
    soon("the shutdown", consumer.control().shutdown()).await;
    assert_eq!(world.position("orders", "billing").await, 500);
}

#[tokio::test]
async fn chunks() {
    let (world, consumer) = filled().await;
    let stop = stop_at_the_end(&world, &consumer);
    let done = consumer.try_ready_chunks(100).map_err(|error| error.1);
    let done = done.try_for_each(|chunk| async {
        let last = chunk.into_iter().next_back().unwrap();
        last.commit_through().await
    });
    soon("the end", done).await.unwrap();
    stop.await.unwrap();
}

#[tokio::test]
async fn select_in_a_loop_loses_nothing() {
    let (world, mut consumer) = filled().await;
    world.faulty.hesitate(1);
    let mut offsets = Vec::new();
    while offsets.len() < 500 {
        tokio::select! {
            biased;
            delivery = consumer.next() => {
                let delivery = delivery.unwrap().unwrap();
                offsets.push(delivery.offset());
                delivery.ack();
            }
            () = tokio::task::yield_now() => {}
        }
    }
    assert!(offsets.into_iter().eq(0..500));
}

#[tokio::test]
async fn a_consumer_among_others_in_select_all() {
    let world = world().await;
    let mut all = futures::stream::SelectAll::new();
    for stream in ["a", "b", "c"] {
        world.fill(stream, 50).await;
        all.push(world.flow.consumer(stream, "g").await.unwrap());
    }
    for _ in 0..150 {
        let delivery = soon("a delivery", StreamExt::next(&mut all))
            .await
            .unwrap()
            .unwrap();
        soon("the commit", delivery.commit()).await.unwrap();
    }
    for stream in ["a", "b", "c"] {
        assert_eq!(world.position(stream, "g").await, 50);
    }
}

#[tokio::test]
async fn a_delivery_can_be_borrowed_across_an_await_in_a_spawned_task() {
    let (_world, mut consumer) = filled().await;
    let delivery = next(&mut consumer).await;
    let handler = tokio::spawn(async move {
        let body = delivery.body();
        tokio::task::yield_now().await;
        assert_eq!(body, "0");
        delivery.commit().await
    });
    soon("the handler", handler).await.unwrap().unwrap();
}

#[tokio::test]
async fn all_kinds_of_bodies_are_messages() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    producer.send("text".into()).await.unwrap();
    producer.send(String::from("string").into()).await.unwrap();
    producer.send(vec![1, 2].into()).await.unwrap();
    producer.send((b"bytes" as &[u8]).into()).await.unwrap();
    assert_eq!(world.bodies("orders").await.len(), 4);
}
