//! Runtimes that end at any time: no hang, no panic, and another one goes on.

#[path = "runtimes/consuming.rs"]
mod consuming;
#[path = "runtimes/deaths.rs"]
mod deaths;
#[path = "runtimes/producing.rs"]
mod producing;
mod support;
#[path = "runtimes/work.rs"]
mod work;

use flowstream::{Batch, Flowstream, Message, Options};
use std::future::IntoFuture;

use futures::{FutureExt, SinkExt};
use support::*;
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_commit_whose_runtime_is_gone_is_an_error() {
    let (first, second) = (runtime(), runtime());
    let (world, delivery, consumer) = first.block_on(async {
        let world = world().await;
        world.fill("orders", 1).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let delivery = next(&mut consumer).await;
        (world, delivery, consumer)
    });
    drop(first);
    let error = second
        .block_on(soon("an answer", delivery.commit()))
        .unwrap_err();
    assert_eq!(error.kind(), flowstream::ErrorKind::Closed);
    let mut consumer = consumer;
    let told = second.block_on(soon("an error", consumer.next()));
    let error = told.expect("it was not shut down").unwrap_err();
    assert_eq!(error.kind(), flowstream::ErrorKind::Closed);
    assert!(second.block_on(soon("the end", consumer.next())).is_none());
    second.block_on(soon("the shutdown", consumer.control().shutdown()));
    drop(world);
}

#[test]
fn handles_that_are_dropped_after_their_runtime_do_no_harm() {
    let first = runtime();
    let left = first.block_on(async {
        let world = world().await;
        world.fill("orders", 3).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let mut producer = world.flow.producer("orders").await.unwrap();
        producer.feed("fills".into()).await.unwrap();
        let (one, two) = (next(&mut consumer).await, next(&mut consumer).await);
        let committing = next(&mut consumer).await.commit();
        (world, consumer, producer, one, two.into_parts(), committing)
    });
    drop(first);
    let (_, _, _, one, _, _) = left;
    one.ack();
}

#[test]
fn a_flowstream_works_on_a_second_runtime_after_the_first() {
    let mut flow: Option<Flowstream> = None;
    for round in 0..5 {
        let runtime = runtime();
        runtime.block_on(async {
            let flow = match &flow {
                Some(flow) => flow.clone(),
                None => flow
                    .insert(Options::new().open("memory:").await.unwrap())
                    .clone(),
            };
            let mut producer = flow.producer("orders").await.unwrap();
            let group = format!("group {round}");
            let mut consumer = flow.consumer("orders", &group).await.unwrap();
            producer.send(round.to_string().into()).await.unwrap();
            for offset in 0..=round {
                let delivery = next(&mut consumer).await;
                assert_eq!(delivery.offset(), offset);
                soon("the commit", delivery.commit()).await.unwrap();
            }
            let mut coming = Box::pin(consumer.next());
            assert!(stays_pending(&mut coming).await);
        });
    }
}

#[test]
fn a_producer_goes_on_on_a_second_runtime() {
    let (first, second) = (runtime(), runtime());
    let (world, mut producer) = first.block_on(async {
        let world = world().await;
        let mut producer = world.flow.producer("orders").await.unwrap();
        producer.send("0".into()).await.unwrap();
        producer.feed("1".into()).await.unwrap();
        (world, producer)
    });
    drop(first);
    second.block_on(async {
        soon("the send", producer.send("2".into())).await.unwrap();
        assert_eq!(world.bodies("orders").await, numbers(3));
    });
}

#[test]
fn a_write_that_its_runtime_takes_along_is_settled_on_the_next_and_never_doubled() {
    for fault in [Fault::Hold, Fault::Late] {
        let (first, second) = (runtime(), runtime());
        let (world, mut producer) = first.block_on(async {
            let world = world_with(|options| options).await;
            let mut producer = world.flow.producer("orders").await.unwrap();
            world.faulty.times(Call::Append, fault, 1);
            assert!(producer.send("0".into()).now_or_never().is_none());
            eventually("the write", || world.faulty.held() == 1).await;
            (world, producer)
        });
        drop(first);
        second.block_on(async {
            // The second runtime finds out by the id whether it was written.
            soon("the flush", producer.flush()).await.unwrap();
            world.faulty.heal();
            quiet().await;
            assert_eq!(world.bodies("orders").await, ["0"]);
        });
    }
}

#[test]
fn a_runtime_can_end_at_any_moment() {
    for rounds in 0..60 {
        let first = runtime();
        let world = first.block_on(async {
            let world = world().await;
            world.fill("in", 20).await;
            world.faulty.hesitate(1);
            for group in ["one", "two"] {
                let consumer = world.flow.consumer("in", group).await.unwrap();
                let producer = world.flow.producer("out").batch_messages(3).await.unwrap();
                let flow = world.flow.clone();
                tokio::spawn(async move {
                    use futures::{StreamExt, TryStreamExt};
                    let relay = consumer.map_ok(flowstream::Delivery::into_message);
                    let _ = relay.forward(producer).await;
                    drop(flow);
                });
            }
            for _ in 0..rounds {
                tokio::task::yield_now().await;
            }
            world
        });
        drop(first);
        let second = runtime();
        second.block_on(async {
            let mut producer = world.flow.producer("in").await.unwrap();
            soon("a send", producer.send("20".into())).await.unwrap();
            let mut consumer = world.flow.consumer("in", "three").await.unwrap();
            for offset in 0..21 {
                assert_eq!(next(&mut consumer).await.offset(), offset);
            }
            soon("the shutdown", consumer.control().shutdown()).await;
            soon("the close", world.flow.close()).await.unwrap();
        });
    }
}

#[test]
fn a_producer_can_be_polled_outside_of_any_runtime() {
    let first = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (world, mut producer) = first.block_on(async {
        let world = world().await;
        let producer = world.flow.producer("orders").await.unwrap();
        (world, producer)
    });
    futures::executor::block_on(producer.send("0".into())).unwrap();
    drop(first);
    assert!(futures::executor::block_on(producer.send("1".into())).is_err());
    drop(producer);
    let second = runtime();
    assert_eq!(second.block_on(world.bodies("orders")), ["0"]);
}

/// The task that appends ends with its runtime, in a look at the storage that it makes for another one.
#[test]
fn a_look_at_the_storage_that_its_runtime_takes_along_loses_nothing() {
    for call in [Call::CreateStream, Call::Settle] {
        let (first, second) = (runtime(), runtime());
        let (world, mut producer, batch) = second.block_on(async {
            let world = world().await;
            let mut producer = world.flow.producer("orders").await.unwrap();
            let mut batch = Batch::from(Message::new("0").with_stream("new").unwrap());
            if call == Call::Settle {
                world.faulty.times(Call::Append, Fault::Doubt, 1);
                let refused = producer.append(batch).await;
                batch = refused.unwrap_err().unsent;
            }
            (world, producer, batch)
        });
        world.faulty.times(call, Fault::Hold, 1);
        let mut sink = producer.clone();
        let (appending, flushing) = first.block_on(async {
            // On the first runtime, whose task it is then.
            let mut appending = Box::pin(async move { producer.append(batch).await });
            assert!(stays_pending(&mut appending).await);
            sink.feed("1".into()).await.unwrap();
            let mut flushing = Box::pin(async move { sink.flush().await });
            let _ = (&mut flushing).now_or_never();
            eventually("the look", || world.faulty.held() == 1).await;
            (appending, flushing)
        });
        drop(first);
        second.block_on(async {
            world.faulty.heal();
            let appended = soon("the append", appending).await.unwrap();
            assert_eq!(appended.offsets().len(), 1, "{call:?}");
            soon("the flush", flushing).await.unwrap();
            assert_eq!(world.bodies("new").await, ["0"], "{call:?}");
            assert_eq!(world.bodies("orders").await, ["1"], "{call:?}");
        });
    }
}

/// Each time the task that appends is on the runtime that ends.
#[test]
fn many_that_send_on_one_runtime_go_on_when_another_ends() {
    let going_on = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let world = going_on.block_on(world());
    let producer = going_on.block_on(world.flow.producer("orders").into_future());
    let producer = producer.unwrap();
    let mut sent = 0;
    for _ in 0..20 {
        let ends = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let before = world.faulty.count(Call::Append);
        world.faulty.times(Call::Append, Fault::Hold, 1);
        let mut first = producer.clone();
        ends.spawn(async move { first.send("first".into()).await });
        let has_begun = || world.faulty.count(Call::Append) > before;
        going_on.block_on(eventually("the first", has_begun));
        let sends: Vec<_> = (0..200)
            .map(|number| {
                let mut producer = producer.clone();
                going_on.spawn(async move {
                    match number % 2 {
                        0 => producer.send("m".into()).await,
                        _ => {
                            let appended = producer.append(Message::new("m")).await;
                            appended.map(drop).map_err(Into::into)
                        }
                    }
                })
            })
            .collect();
        let ending = std::thread::spawn(move || drop(ends));
        going_on.block_on(async {
            for send in sends {
                soon("a send", send).await.unwrap().unwrap();
                sent += 1;
            }
            world.faulty.heal();
        });
        ending.join().unwrap();
    }
    let bodies = going_on.block_on(world.bodies("orders"));
    let ours = bodies.iter().filter(|body| *body == "m").count();
    assert_eq!(ours, sent);
}

/// The standbys of a process look at the leases together, on the runtime of the first of them.
#[test]
fn a_standby_goes_on_looking_when_the_runtime_of_another_ends() {
    let (first, second) = (runtime(), runtime());
    let lease = std::time::Duration::from_secs(30);
    let (world, one) = first.block_on(async {
        let world = world().await;
        world.fill("orders", 1).await;
        let consumer = world.flow.consumer("orders", "billing").lease(lease);
        let mut one = consumer.await.unwrap();
        world.take_over("orders", "billing").await;
        let mut coming = Box::pin(one.next());
        assert!(stays_pending(&mut coming).await);
        drop(coming);
        (world, one)
    });
    let mut other = second.block_on(async {
        let consumer = world.flow.consumer("orders", "billing").lease(lease);
        let mut other = consumer.await.unwrap();
        let mut coming = Box::pin(other.next());
        assert!(stays_pending(&mut coming).await);
        drop(coming);
        other
    });
    drop((first, one));
    second.block_on(async {
        world.pass_in(lease * 3, 100).await;
        assert_eq!(next(&mut other).await.offset(), 0);
    });
}
