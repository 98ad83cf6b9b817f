//! Those who consume, while the task dies that reads, commits or keeps the lease for them.

use std::future::IntoFuture;
use std::time::Duration;

use flowstream::{Delivery, Message, Result};
use futures::SinkExt;
use futures::future::{join, join3};

use crate::deaths::{Act, Scene, Told, in_each_call};
use crate::support::*;
use crate::work::{GROUP, Work, committed, consumer, direct, place};

#[test]
fn a_consumer_gets_all_messages_or_is_told_once_that_it_ended() {
    in_each_call(|scene| {
        Box::pin(async move {
            fill_two_partitions(&scene).await;
            Act::new(async move {
                let mut work = Work::new(&scene, "in");
                work.finish(None, committed).await;
                Told::default()
            })
        })
    });
}

#[test]
fn a_consumer_hears_of_what_comes_after_the_notifications_broke() {
    crate::runtime().block_on(async {
        let world = world().await;
        let mut consumer = world.flow.consumer("in", GROUP).await.unwrap();
        for round in 0..3 {
            let mut coming = Box::pin(consumer.next());
            assert!(stays_pending(&mut coming).await);
            world.faulty.break_notifications();
            quiet().await;
            world.fill("in", 1).await;
            let delivery = soon("a delivery", coming).await.unwrap().unwrap();
            assert_eq!(delivery.offset(), round);
        }
    });
}

/// Where notifications may get lost, somebody looks now and then.
#[test]
fn a_consumer_that_waits_hears_of_what_comes() {
    in_each_call(|scene| {
        Box::pin(async move {
            scene.world().fill("in", 0).await;
            scene.faulty().deafen(LOOK);
            let consumer = consumer(scene.flow(), "in").await;
            Act::new(async move {
                let mut work = Work::new(&scene, "in");
                let coming = async {
                    for _ in 0..20 {
                        scene.sleep().await;
                    }
                    fill_one_partition(&scene).await;
                };
                join(coming, work.take(consumer, COUNT)).await;
                Told::default()
            })
        })
    });
}

#[test]
fn a_standby_takes_over_or_is_told_that_it_ended() {
    in_each_call(|scene| {
        Box::pin(async move {
            fill_one_partition(&scene).await;
            drop(scene.calm().consumer("in", GROUP).await.unwrap());
            // Its owner is never heard of again.
            scene.world().take_over("in", GROUP).await;
            Act::new(async move {
                let mut work = Work::new(&scene, "in");
                work.finish(None, committed).await;
                Told::default()
            })
        })
    });
}

#[test]
fn a_commit_is_done_or_in_doubt_or_its_message_comes_again() {
    in_each_call(|scene| {
        Box::pin(async move {
            fill_one_partition(&scene).await;
            let mut consumer = consumer(scene.flow(), "in").await;
            let mut work = Work::new(&scene, "in");
            let mut deliveries = Vec::new();
            for _ in 0..3 {
                let delivery = next(&mut consumer).await;
                work.delivered(&delivery);
                deliveries.push(delivery);
            }
            Act::new(async move {
                let places = [0, 1, 2].map(|at: usize| place(&deliveries[at]));
                let mut commits = deliveries.into_iter().map(Delivery::commit);
                let mut commit = || commits.next().unwrap();
                let (one, two, three) = join3(commit(), commit(), commit()).await;
                for (place, result) in places.into_iter().zip([one, two, three]) {
                    work.told(place, &result);
                }
                work.finish(Some(consumer), committed).await;
                Told::default()
            })
        })
    });
}

/// Forwarding is exactly-once, whatever dies.
#[test]
fn what_is_forwarded_is_written_once() {
    in_each_call(|scene| {
        Box::pin(async move {
            fill_one_partition(&scene).await;
            scene.flow().create_stream("out", 1).await.unwrap();
            Act::new(async move {
                let mut work = Work::new(&scene, "in");
                let building = || scene.flow().producer("out").into_future();
                let producer = direct(building).await;
                work.forward(producer).await;
                all_of("out")
            })
        })
    });
}

#[test]
fn a_dead_letter_is_moved_once() {
    in_each_call(|scene| {
        Box::pin(async move {
            fill_one_partition(&scene).await;
            let mut consumer = consumer(scene.flow(), "in").await;
            let delivery = next(&mut consumer).await;
            Act::new(async move {
                let mut work = Work::new(&scene, "in");
                work.delivered(&delivery);
                let place = place(&delivery);
                if let Some(result) = buried(scene.clone(), delivery).await {
                    work.told(place, &result);
                }
                work.finish(Some(consumer), buried).await;
                all_of("dead")
            })
        })
    });
}

#[test]
fn a_message_that_was_begun_too_often_is_moved_once() {
    in_each_call(|scene| {
        Box::pin(async move {
            fill_one_partition(&scene).await;
            Act::new(async move {
                let mut work = Work::new(&scene, "in");
                work.max_attempts = Some(1);
                work.finish(None, tried_again).await;
                all_of("dead")
            })
        })
    });
}

#[test]
fn what_is_said_before_the_end_of_a_close_is_true() {
    in_each_call(|scene| {
        Box::pin(async move {
            scene.faulty().outlive();
            scene.closes();
            fill_one_partition(&scene).await;
            let mut consumer = consumer(scene.flow(), "in").await;
            let mut producer = scene.flow().producer("out").await.unwrap();
            let (acked, delivery) = (next(&mut consumer).await, next(&mut consumer).await);
            let offset = delivery.offset();
            acked.ack();
            Act::new(async move {
                let (flow, committing) = (scene.flow().clone(), delivery.commit());
                let closing = direct(|| flow.close());
                let (sent, result, _) = join3(producer.send("0".into()), committing, closing).await;
                if result.is_ok() {
                    assert!(
                        scene.is_done("in", GROUP, offset).await,
                        "it was said to be done"
                    );
                }
                drop(consumer);
                sent_before_the_end(sent)
            })
        })
    });
}

/// What became of a message that was sent while all was closed.
fn sent_before_the_end(sent: Result<()>) -> Told {
    let mut told = Told {
        streams: &["out"],
        ..Told::default()
    };
    match sent {
        Ok(()) => told.written.push("0".into()),
        Err(error) if error.in_doubt() => told.in_doubt.push("0".into()),
        Err(_) => {}
    }
    told
}

const COUNT: u64 = 4;

const LOOK: Duration = Duration::from_secs(1);

fn all_of(stream: &'static str) -> Told {
    Told {
        streams: match stream {
            "out" => &["out"],
            _ => &["dead"],
        },
        written: numbers(COUNT),
        in_doubt: Vec::new(),
    }
}

async fn fill_one_partition(scene: &Scene) {
    scene.world().fill("in", COUNT).await;
}

async fn fill_two_partitions(scene: &Scene) {
    scene.calm().create_stream("in", 2).await.unwrap();
    let keyed = |key: u64| Message::new(key.to_string()).with_key(key.to_string());
    let mut producer = scene.calm().producer("in").await.unwrap();
    producer
        .append((0..2 * COUNT).map(keyed).collect::<Vec<_>>())
        .await
        .unwrap();
    let bounds = scene.calm().bounds("in").await.unwrap();
    assert!(bounds.iter().all(|bounds| bounds.end > 0), "{bounds:?}");
}

/// What comes back goes to the dead letters by hand.
async fn buried(scene: Scene, delivery: Delivery) -> Option<Result<()>> {
    let Err(error) = delivery.dead_letter("no").await else {
        return Some(Ok(()));
    };
    if error.is_fenced() {
        return Some(Err(error.into()));
    }
    let batch = error.unsent;
    assert_eq!(batch.len(), 1, "the letter comes back");
    let mut producer = direct(|| scene.flow().producer("dead").into_future()).await;
    match producer.append(batch).await {
        Ok(_) => Some(Ok(())),
        Err(error) => {
            assert!(error.is_fenced(), "one that nothing happens to: {error}");
            Some(Err(error.into()))
        }
    }
}

async fn tried_again(_: Scene, delivery: Delivery) -> Option<Result<()>> {
    delivery.retry_after(Duration::ZERO);
    None
}
