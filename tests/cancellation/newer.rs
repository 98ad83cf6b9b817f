//! Dead letters, retries, and what operators do.

use std::time::Duration;

use flowstream::{Start, Status};
use futures::SinkExt;

use super::cancel;
use super::support::*;

pub(crate) async fn consumers(url: &str) -> usize {
    let mut points = 0;
    points += cancel(url, "try_next", async |world, polls| {
        world.fill("orders", 2).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let ready = drop_after(polls, consumer.try_next()).await;
        let first = u64::from(ready.is_some());
        assert_eq!(next(&mut consumer).await.offset(), first);
        ready.is_some()
    })
    .await;
    for fault in [None, Some(Fault::Fail), Some(Fault::Lose)] {
        points += cancel(url, "dead_letter", async |world, polls| {
            world.fill("orders", 2).await;
            world.flow.create_stream("dead", 1).await.unwrap();
            let consumer = world.flow.consumer("orders", "billing");
            let mut consumer = consumer.dead_letters("dead").await.unwrap();
            let delivery = next(&mut consumer).await;
            if let Some(fault) = fault {
                world.faulty.times(Call::Append, fault, 1);
            }
            let ready = drop_after(polls, delivery.dead_letter("nonsense")).await;
            // A batch that comes back in an error is dropped with it.
            let is_ready = ready.is_some();
            let is_moved = matches!(ready, Some(Ok(())));
            drop(ready);
            world.rest().await;
            soon("the shutdown", consumer.control().shutdown()).await;
            // Moved and done, or neither.
            let moved = world.bodies("dead").await.len() as u64;
            assert_eq!(world.position("orders", "billing").await, moved);
            assert!(moved == 1 || !is_moved);
            assert!(moved == u64::from(polls > 0) || fault.is_some());
            let mut other = world.flow.consumer("orders", "billing").await.unwrap();
            assert_eq!(next(&mut other).await.offset(), moved);
            is_ready
        })
        .await;
    }
    points += cancel(url, "a consumer that retries", async |world, polls| {
        world.fill("orders", 1).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let pipeline = async {
            for attempt in 1..4 {
                let delivery = next(&mut consumer).await;
                assert_eq!((delivery.offset(), delivery.attempt()), (0, attempt));
                delivery.retry_after(Duration::ZERO);
            }
            next(&mut consumer).await.commit().await.unwrap();
        };
        let ready = drop_after(polls, pipeline).await;
        soon("the shutdown", consumer.control().shutdown()).await;
        let position = world.position("orders", "billing").await;
        assert!(position == 1 || ready.is_none());
        world.fill("orders", 1).await;
        let mut other = world.flow.consumer("orders", "billing").await.unwrap();
        assert_eq!(next(&mut other).await.offset(), position);
        ready.is_some()
    })
    .await;
    points
}

pub(crate) async fn operators(url: &str) -> usize {
    let mut points = 0;
    points += cancel(url, "groups", async |world, polls| {
        world.fill("orders", 2).await;
        drop(world.flow.consumer("orders", "billing").await.unwrap());
        let ready = drop_after(polls, world.flow.groups(None)).await;
        let groups = soon("again", world.flow.groups("orders")).await.unwrap();
        assert_eq!((groups.len(), groups[0].state.lag()), (1, 2));
        ready.is_some()
    })
    .await;
    points += cancel(url, "evict", async |world, polls| {
        world.fill("orders", 2).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        next(&mut consumer).await.commit().await.unwrap();
        let ready = drop_after(polls, world.flow.evict("orders", "billing")).await;
        soon("again", world.flow.evict("orders", "billing"))
            .await
            .unwrap();
        assert_eq!(world.position("orders", "billing").await, 1);
        // Whoever had it gets it anew, unless somebody else does.
        let epoch = world.group("orders", "billing").await.epoch;
        assert!(epoch >= 2, "{epoch}");
        let control = consumer.control();
        let again = async {
            loop {
                let delivery = consumer.next().await.unwrap().unwrap();
                if delivery.commit().await.is_ok() {
                    return;
                }
            }
        };
        soon("the message that is left", again).await;
        assert!(matches!(control.status(), Status::Active { .. }));
        assert_eq!(world.position("orders", "billing").await, 2);
        ready.is_some()
    })
    .await;
    points += cancel(url, "reset", async |world, polls| {
        world.fill("orders", 3).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        for _ in 0..3 {
            next(&mut consumer).await.commit().await.unwrap();
        }
        soon("the shutdown", consumer.control().shutdown()).await;
        let reset = || world.flow.reset("orders", "billing", Start::Offset(1));
        let ready = drop_after(polls, reset().into_future()).await;
        world.rest().await;
        let position = world.position("orders", "billing").await;
        assert!(position == 1 || position == 3 && ready.is_none());
        soon("again", reset().into_future()).await.unwrap();
        let mut other = world.flow.consumer("orders", "billing").await.unwrap();
        assert_eq!(next(&mut other).await.offset(), 1);
        ready.is_some()
    })
    .await;
    points += cancel(url, "a shutdown under way", async |world, polls| {
        world.fill("orders", 2).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let held = next(&mut consumer).await;
        let stopping = async {
            let stopped = consumer.control().shutdown();
            held.commit().await.unwrap();
            stopped.await;
        };
        let ready = drop_after(polls, stopping).await;
        let is_ready = ready.is_some();
        soon("the shutdown", consumer.control().shutdown()).await;
        world.rest().await;
        let position = world.position("orders", "billing").await;
        assert_eq!(position, u64::from(polls > 0));
        let mut other = world.flow.consumer("orders", "billing").await.unwrap();
        assert_eq!(next(&mut other).await.offset(), position);
        is_ready
    })
    .await;
    points += cancel(url, "closing with messages", async |world, polls| {
        let producer = world.flow.producer("orders").batch_messages(2);
        let mut producer = producer.await.unwrap();
        for body in numbers(3) {
            producer.feed(body.into()).await.unwrap();
        }
        let ready = drop_after(polls, world.flow.close()).await;
        soon("again", world.flow.close()).await.unwrap();
        assert!(producer.send("late".into()).await.is_err());
        ready.is_some()
    })
    .await;
    points
}
