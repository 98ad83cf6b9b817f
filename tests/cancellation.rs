//! Every public future is dropped after each number of polls, until it is ready before that; then
//! everything works, and nothing is lost or doubled beyond what is documented.

#[path = "cancellation/newer.rs"]
mod newer;
#[cfg(feature = "postgres")]
#[path = "cancellation/postgres.rs"]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_support;
#[path = "report/mod.rs"]
mod report;
mod support;

use std::time::Duration;

use flowstream::{Error, Message, Status};
use futures::{SinkExt, StreamExt, stream};
use support::*;

/// How often each call of the storage is Pending before and after its work.
const YIELDS: usize = 3;

/// Says where it was when something went wrong.
struct Place<'a>(&'a str, &'a str, usize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("on {}: {} dropped after {} polls", self.0, self.1, self.2);
        }
    }
}

/// Runs `operation` in new worlds, with 0, 1, 2 … polls until it says that its future was ready,
/// and gives the number of times that it was not.
async fn cancel(url: &str, name: &str, operation: impl AsyncFn(&World, usize) -> bool) -> usize {
    for polls in 0..1000 {
        let place = Place(url, name, polls);
        let world = new_world(url).await;
        let ready = operation(&world, polls).await;
        #[cfg(feature = "postgres")]
        if url.starts_with("postgres") {
            postgres::leaves_nothing(url, world).await;
        }
        drop(place);
        if ready {
            return polls;
        }
    }
    panic!("{name} is never ready");
}

async fn new_world(url: &str) -> World {
    #[cfg(feature = "postgres")]
    if url.starts_with("postgres") {
        return postgres::world(url).await;
    }
    let world = world_on(url, |options| options.retry_for(Duration::ZERO)).await;
    world.faulty.hesitate(YIELDS);
    world
}

async fn flush(producer: &mut flowstream::Producer) {
    while soon("a flush", producer.flush()).await.is_err() {}
}

/// Appends, through errors.
async fn append(producer: &mut flowstream::Producer, message: Message) {
    let mut batch = flowstream::Batch::from(message);
    while let Err(error) = soon("an append", producer.append(batch)).await {
        batch = error.unsent;
    }
}

async fn producers(url: &str) -> usize {
    let mut points = 0;
    points += cancel(url, "create_stream", async |world, polls| {
        let ready = drop_after(polls, world.flow.create_stream("orders", 3)).await;
        soon("again", world.flow.create_stream("orders", 3))
            .await
            .unwrap();
        assert_eq!(world.flow.bounds("orders").await.unwrap().len(), 3);
        ready.is_some()
    })
    .await;
    points += cancel(url, "producer", async |world, polls| {
        let ready = drop_after(polls, world.flow.producer("orders").into_future()).await;
        let mut producer = world.flow.producer("orders").await.unwrap();
        soon("a send", producer.send("0".into())).await.unwrap();
        assert_eq!(world.bodies("orders").await, ["0"]);
        ready.is_some()
    })
    .await;
    for fault in [
        None,
        Some(Fault::Fail),
        Some(Fault::Lose),
        Some(Fault::Late),
    ] {
        let fail = |world: &World| {
            if let Some(fault) = fault {
                world.faulty.times(Call::Append, fault, 1);
            }
        };
        points += cancel(url, "send", async |world, polls| {
            let mut producer = world.flow.producer("orders").await.unwrap();
            fail(world);
            let ready = drop_after(polls, producer.send("0".into())).await;
            producer.feed("1".into()).await.unwrap();
            flush(&mut producer).await;
            world.faulty.heal();
            world.rest().await;
            let first = usize::from(polls == 0);
            assert_eq!(world.bodies("orders").await, ["0", "1"][first..]);
            ready.is_some()
        })
        .await;
        points += cancel(url, "feed", async |world, polls| {
            let mut producer = world
                .flow
                .producer("orders")
                .batch_messages(1)
                .await
                .unwrap();
            fail(world);
            producer.feed("0".into()).await.unwrap();
            producer.feed("1".into()).await.unwrap();
            let ready = drop_after(polls, producer.feed("2".into())).await;
            flush(&mut producer).await;
            world.faulty.heal();
            world.rest().await;
            let bodies = world.bodies("orders").await;
            // It was taken once there was room, and only then.
            let taken = if ready.is_some() { 3 } else { 2 };
            assert_eq!(bodies, numbers(taken));
            ready.is_some()
        })
        .await;
        points += cancel(url, "flush", async |world, polls| {
            let mut producer = world.flow.producer("orders").await.unwrap();
            fail(world);
            producer.feed("0".into()).await.unwrap();
            let ready = drop_after(polls, producer.flush()).await;
            producer.feed("1".into()).await.unwrap();
            flush(&mut producer).await;
            world.faulty.heal();
            world.rest().await;
            assert_eq!(world.bodies("orders").await, ["0", "1"]);
            ready.is_some()
        })
        .await;
        points += cancel(url, "close", async |world, polls| {
            let mut producer = world.flow.producer("orders").await.unwrap();
            fail(world);
            producer.feed("0".into()).await.unwrap();
            let ready = drop_after(polls, producer.close()).await;
            while soon("the close", producer.close()).await.is_err() {}
            world.faulty.heal();
            world.rest().await;
            assert_eq!(world.bodies("orders").await, ["0"]);
            assert!(producer.send("1".into()).await.is_err());
            ready.is_some()
        })
        .await;
        points += cancel(url, "send_all", async |world, polls| {
            let mut producer = world
                .flow
                .producer("orders")
                .batch_messages(2)
                .await
                .unwrap();
            fail(world);
            let messages = numbers(7)
                .into_iter()
                .map(|body| Ok::<_, Error>(Message::from(body)));
            let mut source = stream::iter(messages);
            let ready = drop_after(polls, producer.send_all(&mut source)).await;
            flush(&mut producer).await;
            let left = source.count().await;
            world.faulty.heal();
            world.rest().await;
            let bodies = world.bodies("orders").await;
            let taken = 7 - left as u64;
            // The adapter itself holds one while it waits for room.
            assert!(
                bodies == numbers(taken) || bodies == numbers(taken - 1),
                "{bodies:?}"
            );
            ready.is_some()
        })
        .await;
        points += cancel(url, "append", async |world, polls| {
            let mut producer = world.flow.producer("orders").await.unwrap();
            producer.feed("0".into()).await.unwrap();
            fail(world);
            let there = Message::new("there").with_stream("elsewhere").unwrap();
            let batch = [Message::new("1"), there];
            let ready = drop_after(polls, producer.append(batch)).await;
            flush(&mut producer).await;
            append(&mut producer, Message::new("2")).await;
            world.faulty.heal();
            world.rest().await;
            let bodies = world.bodies("orders").await;
            if bodies.len() == 2 {
                assert_eq!(bodies, ["0", "2"]);
            } else {
                assert_eq!(bodies, numbers(3));
                assert_eq!(world.bodies("elsewhere").await, ["there"], "together");
            }
            if matches!(ready, Some(Ok(_))) {
                assert_eq!(bodies.len(), 3);
            }
            ready.is_some()
        })
        .await;
        points += cancel(url, "append of a batch in doubt", async |world, polls| {
            let mut producer = world.flow.producer("orders").await.unwrap();
            world
                .faulty
                .times(Call::Append, fault.unwrap_or(Fault::Doubt), 1);
            let error = producer.append(Message::new("0")).await.unwrap_err();
            let batch = error.unsent;
            let ready = drop_after(polls, producer.append(batch)).await;
            append(&mut producer, Message::new("1")).await;
            world.faulty.heal();
            world.rest().await;
            let mut bodies = world.bodies("orders").await;
            bodies.sort();
            assert!(
                bodies == ["0", "1"] || bodies == ["1"] && ready.is_none(),
                "{bodies:?}"
            );
            ready.is_some()
        })
        .await;
    }
    points += cancel(url, "a producer", async |world, polls| {
        let mut producer = world
            .flow
            .producer("orders")
            .batch_messages(1)
            .await
            .unwrap();
        let sending = async {
            for body in numbers(4) {
                producer.send(body.into()).await.unwrap();
            }
        };
        let ready = drop_after(polls, sending).await;
        drop(producer);
        soon("what is under way", world.flow.close()).await.unwrap();
        ready.is_some()
    })
    .await;
    points
}

async fn consumers(url: &str) -> usize {
    let mut points = 0;
    points += cancel(url, "consumer", async |world, polls| {
        world.flow.create_stream("orders", 2).await.unwrap();
        world.fill("orders", 1).await;
        let building = world.flow.consumer("orders", "billing").into_future();
        let ready = drop_after(polls, building).await;
        let is_ready = ready.is_some();
        drop(ready);
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        next(&mut consumer).await.commit().await.unwrap();
        is_ready
    })
    .await;
    points += cancel(url, "next", async |world, polls| {
        world.fill("orders", 3).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let ready = drop_after(polls, consumer.next()).await;
        let first = usize::from(ready.is_some());
        for offset in first as u64..3 {
            let delivery = next(&mut consumer).await;
            assert_eq!((delivery.offset(), delivery.attempt()), (offset, 1));
        }
        ready.is_some()
    })
    .await;
    points += cancel(url, "next of a standby", async |world, polls| {
        world.fill("orders", 2).await;
        let mut active = world.flow.consumer("orders", "billing").await.unwrap();
        next(&mut active).await.commit().await.unwrap();
        let mut standby = world.flow.consumer("orders", "billing").await.unwrap();
        let release = async {
            quiet().await;
            drop(active);
            std::future::pending::<()>().await;
        };
        let coming = async {
            tokio::select! {
                delivery = standby.next() => delivery,
                () = release => None,
            }
        };
        let ready = drop_after(polls * 10, coming).await;
        if let Some(delivery) = &ready {
            assert_eq!(delivery.as_ref().unwrap().as_ref().unwrap().offset(), 1);
        } else {
            assert_eq!(next(&mut standby).await.offset(), 1);
        }
        ready.is_some()
    })
    .await;
    points += cancel(url, "a consumer", async |world, polls| {
        world.fill("orders", 3).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let pipeline = async {
            for _ in 0..3 {
                next(&mut consumer).await.commit().await.unwrap();
            }
        };
        let ready = drop_after(polls, pipeline).await;
        // The next one gets the lease at once.
        let control = consumer.control();
        drop(consumer);
        soon("the shutdown", control.shutdown()).await;
        let position = world.position("orders", "billing").await;
        let mut other = world.flow.consumer("orders", "billing").await.unwrap();
        for offset in position..3 {
            assert_eq!(next(&mut other).await.offset(), offset);
        }
        ready.is_some()
    })
    .await;
    for fault in [None, Some(Fault::Fail), Some(Fault::Lose)] {
        for through in [false, true] {
            points += cancel(url, "commit", async |world, polls| {
                world.fill("orders", 3).await;
                let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
                let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
                if let Some(fault) = fault {
                    world.faulty.times(Call::Commit, fault, 1);
                }
                let (commit, other) = if through {
                    (second.commit_through(), first)
                } else {
                    (first.commit(), second)
                };
                drop(other);
                let ready = drop_after(polls, commit).await;
                world.rest().await;
                soon("the shutdown", consumer.control().shutdown()).await;
                let done = u64::from(polls > 0) * if through { 2 } else { 1 };
                // A failed write of a commit goes with the next, if there is one.
                let position = world.position("orders", "billing").await;
                assert!(
                    position == done || fault.is_some() && position == 0,
                    "{position}"
                );
                let mut other = world.flow.consumer("orders", "billing").await.unwrap();
                assert_eq!(next(&mut other).await.offset(), position);
                ready.is_some()
            })
            .await;
        }
    }
    points += cancel(url, "shutdown", async |world, polls| {
        world.fill("orders", 2).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        next(&mut consumer).await.ack();
        let ready = drop_after(polls, consumer.control().shutdown()).await;
        let mut other = world.flow.consumer("orders", "billing").await.unwrap();
        let delivery = next(&mut other).await;
        assert_eq!((delivery.offset(), delivery.epoch()), (1, 2));
        assert!(soon("the end", consumer.next()).await.is_none());
        ready.is_some()
    })
    .await;
    points += cancel(url, "wait_for", async |world, polls| {
        world.fill("orders", 1).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let control = consumer.control();
        assert!(drop_after(1, consumer.next()).await.is_none());
        let ready = drop_after(polls, control.wait_for(Status::is_active)).await;
        let status = soon("the status", control.wait_for(Status::is_active)).await;
        assert_eq!(status, Status::Active { epoch: 1 });
        next(&mut consumer).await.commit().await.unwrap();
        ready.is_some()
    })
    .await;
    points += cancel(url, "a relay", async |world, polls| {
        world.fill("in", 5).await;
        let mut consumer = world.flow.consumer("in", "relay").await.unwrap();
        let mut producer = world.flow.producer("out").await.unwrap();
        let relaying = async {
            for _ in 0..5 {
                let message = next(&mut consumer).await.into_message();
                producer.send(message).await.unwrap();
            }
        };
        let ready = drop_after(polls, relaying).await;
        flush(&mut producer).await;
        world.rest().await;
        let done = world.position("in", "relay").await;
        assert_eq!(world.bodies("out").await, numbers(done));
        // What was handed out and dropped is left to the next consumer.
        soon("the shutdown", consumer.control().shutdown()).await;
        let mut other = world.flow.consumer("in", "relay").await.unwrap();
        for offset in done..5 {
            let delivery = next(&mut other).await;
            assert_eq!(delivery.offset(), offset);
            producer.send(delivery.into_message()).await.unwrap();
        }
        assert_eq!(world.bodies("out").await, numbers(5));
        ready.is_some()
    })
    .await;
    points
}

async fn admin(url: &str) -> usize {
    let mut points = 0;
    points += cancel(url, "open", async |_, polls| {
        let dir = tempfile::tempdir().unwrap();
        let file = format!("redb:{}", dir.path().join("open.redb").display());
        let url = if url == "redb:" { &file } else { url };
        let ready = drop_after(polls, flowstream::open(url)).await.map(drop);
        // An open that was dropped lets go of the file again.
        soon("a second one", flowstream::open(url)).await.unwrap();
        ready.is_some()
    })
    .await;
    points += cancel(url, "trim", async |world, polls| {
        world.fill("orders", 2).await;
        world.fill("orders", 2).await;
        let ready = drop_after(polls, world.flow.trim("orders", 0, 2)).await;
        assert_eq!(
            soon("again", world.flow.trim("orders", 0, 2))
                .await
                .unwrap(),
            2
        );
        assert_eq!(world.bodies("orders").await, ["0", "1"]);
        ready.is_some()
    })
    .await;
    points += cancel(url, "read", async |world, polls| {
        world.fill("orders", 2).await;
        let ready = drop_after(polls, world.flow.read("orders", 0, 1)).await;
        let page = soon("again", world.flow.read("orders", 0, 1))
            .await
            .unwrap();
        assert_eq!((page.len(), page[0].0), (1, 1));
        ready.is_some()
    })
    .await;
    points += cancel(url, "stream", async |world, polls| {
        world.fill("orders", 2).await;
        let ready = drop_after(polls, world.flow.bounds("orders")).await;
        let bounds = soon("again", world.flow.bounds("orders")).await.unwrap();
        assert_eq!((bounds.len(), bounds[0].clone()), (1, 0..2));
        ready.is_some()
    })
    .await;
    points += cancel(url, "group", async |world, polls| {
        world.fill("orders", 2).await;
        drop(world.flow.consumer("orders", "billing").await.unwrap());
        let ready = drop_after(polls, world.flow.group("orders", "billing")).await;
        let states = soon("again", world.flow.group("orders", "billing"))
            .await
            .unwrap();
        assert!(states[0].is_pending());
        ready.is_some()
    })
    .await;
    points += cancel(url, "close of the storage", async |world, polls| {
        let mut producer = world
            .flow
            .producer("orders")
            .batch_messages(1)
            .await
            .unwrap();
        producer.feed("0".into()).await.unwrap();
        let ready = drop_after(polls, world.flow.close()).await;
        soon("again", world.flow.close()).await.unwrap();
        assert!(world.flow.bounds("orders").await.is_err());
        ready.is_some()
    })
    .await;
    points
}

async fn all(url: &str) -> usize {
    let points = [
        producers(url).await,
        consumers(url).await,
        admin(url).await,
        newer::consumers(url).await,
        newer::operators(url).await,
    ];
    points.iter().sum()
}

#[tokio::test]
async fn nothing_is_lost_at_any_await_point() {
    for url in STORAGES {
        let points = all(url).await;
        println!("{url} cancel points: {points}");
        let report = report::Report::of("cancellation");
        report
            .count("cancel points", points)
            .count("lost", 0)
            .write();
    }
}
