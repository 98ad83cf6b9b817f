//! From a consumer into a producer: exactly once within a storage, at least once into another.

mod support;

use std::time::Duration;

use flowstream::{Delivery, Message};
use futures::{SinkExt, StreamExt, TryStreamExt};
use support::*;

const COUNT: u64 = 200;

/// Runs a pipeline again and again, and stops it at some poll, while answers get lost and others
/// take the lease over.
async fn relay(seed: u64, faults: &[Fault]) -> World {
    let mut random = Random::new(seed);
    let world = world().await;
    world.fill("in", COUNT).await;
    for round in 0.. {
        assert!(round < 2000, "seed {seed}: it does not get through");
        world.faulty.hesitate(random.below(3));
        let consumer = world.flow.consumer("in", "relay").await.unwrap();
        let producer = world
            .flow
            .producer("out")
            .batch_messages(1 + random.below(10));
        let producer = producer.await.unwrap();
        if random.below(2) == 0 && !faults.is_empty() {
            let fault = faults[random.below(faults.len())];
            world
                .faulty
                .after(Call::Append, random.below(4), fault, 1 + random.below(2));
        }
        let polls = 1 + random.below(60);
        let pipeline = consumer.map_ok(Delivery::into_message).forward(producer);
        let _ = poll_at_most(polls, pipeline).await;
        if random.below(4) == 0 {
            let usurper = world.take_over("in", "relay").await;
            if random.below(2) == 0 {
                quiet().await;
            }
            world.faulty.inner().release(&usurper).await.unwrap();
        }
        if random.below(3) == 0 {
            quiet().await;
        }
        world.faulty.let_go();
        world.pass_in(Duration::from_secs(1), 2).await;
        if world.position("in", "relay").await == COUNT {
            break;
        }
    }
    world.faulty.heal();
    quiet().await;
    world
}

#[tokio::test]
async fn a_pipeline_that_is_killed_at_any_poll_relays_each_message_once_in_order() {
    for seed in 0..30 {
        let world = relay(seed, &[]).await;
        assert_eq!(world.bodies("out").await, numbers(COUNT), "seed {seed}");
    }
}

#[tokio::test]
async fn lost_answers_neither_lose_nor_double() {
    for seed in 100..140 {
        let world = relay(seed, &[Fault::Fail, Fault::Lose, Fault::Doubt, Fault::Hold]).await;
        assert_eq!(world.bodies("out").await, numbers(COUNT), "seed {seed}");
    }
}

#[tokio::test]
async fn writes_that_land_late_neither_lose_nor_double() {
    for seed in 200..240 {
        let world = relay(seed, &[Fault::Late, Fault::Lose]).await;
        assert_eq!(world.bodies("out").await, numbers(COUNT), "seed {seed}");
    }
}

#[tokio::test]
async fn a_pipeline_that_is_fenced_at_any_moment_goes_on_by_itself() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let world = world().await;
        world.faulty.hesitate(1);
        world.fill("in", COUNT).await;
        let consumer = world.flow.consumer("in", "relay").await.unwrap();
        let producer = world.flow.producer("out").batch_messages(5).await.unwrap();
        let control = consumer.control();
        let pipeline = consumer.map_ok(Delivery::into_message).forward(producer);
        let pipeline = tokio::spawn(pipeline);
        while world.position("in", "relay").await < COUNT {
            for _ in 0..random.below(30) {
                tokio::task::yield_now().await;
            }
            let usurper = world.take_over("in", "relay").await;
            for _ in 0..random.below(10) {
                tokio::task::yield_now().await;
            }
            world.faulty.inner().release(&usurper).await.unwrap();
            world.pass_in(Duration::from_millis(100), 1).await;
        }
        soon("the shutdown", control.shutdown()).await;
        soon("the pipeline", pipeline).await.unwrap().unwrap();
        assert_eq!(world.bodies("out").await, numbers(COUNT), "seed {seed}");
    }
}

#[tokio::test]
async fn a_chain_of_pipelines_stays_exactly_once() {
    let world = world().await;
    world.fill("in", COUNT).await;
    let mut tasks = Vec::new();
    let mut controls = Vec::new();
    for (from, to) in [("in", "a"), ("a", "b"), ("b", "out")] {
        let consumer = world.flow.consumer(from, "relay").await.unwrap();
        let producer = world.flow.producer(to).await.unwrap();
        controls.push(consumer.control());
        tasks.push(tokio::spawn(
            consumer.map_ok(Delivery::into_message).forward(producer),
        ));
    }
    let mut last = world.flow.consumer("out", "end").await.unwrap();
    for offset in 0..COUNT {
        let delivery = next(&mut last).await;
        assert_eq!(delivery.body(), &offset.to_string());
    }
    for control in controls {
        soon("the shutdown", control.shutdown()).await;
    }
    for task in tasks {
        soon("a pipeline", task).await.unwrap().unwrap();
    }
    assert_eq!(world.bodies("out").await, numbers(COUNT));
}

#[tokio::test]
async fn into_another_storage_it_is_at_least_once() {
    for seed in 0..10 {
        let mut random = Random::new(seed);
        let (here, there) = (world().await, world().await);
        here.fill("in", COUNT).await;
        drop(here.flow.consumer("in", "relay").await.unwrap());
        while here.position("in", "relay").await < COUNT {
            let consumer = here.flow.consumer("in", "relay").await.unwrap();
            let producer = there.flow.producer("out").batch_messages(7).await.unwrap();
            if random.below(2) == 0 {
                there
                    .faulty
                    .after(Call::Append, random.below(3), Fault::Lose, 1);
            }
            let pipeline = consumer.map_ok(Delivery::into_message).forward(producer);
            let _ = poll_at_most(1 + random.below(80), pipeline).await;
            there.faulty.heal();
            here.pass_in(Duration::from_secs(1), 2).await;
        }
        let out = there.bodies("out").await;
        let mut first = Vec::new();
        for body in out {
            if !first.contains(&body) {
                first.push(body);
            }
        }
        assert_eq!(first, numbers(COUNT), "seed {seed}");
    }
}

#[tokio::test]
async fn a_message_that_another_storage_did_not_take_is_not_committed() {
    let (here, there) = (world().await, world().await);
    here.fill("in", 2).await;
    let mut consumer = here.flow.consumer("in", "relay").await.unwrap();
    let mut producer = there.flow.producer("out").await.unwrap();
    there.faulty.times(Call::Append, Fault::Fail, 1);
    producer
        .send(next(&mut consumer).await.into_message())
        .await
        .unwrap_err();
    quiet().await;
    assert_eq!(here.position("in", "relay").await, 0);
    producer.flush().await.unwrap();
    quiet().await;
    assert_eq!(here.position("in", "relay").await, 1);
}

#[tokio::test]
async fn a_relayed_message_keeps_all_but_its_stream() {
    let world = world().await;
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    let message = Message::new("body").with_key("key").with_timestamp(time);
    let message = message
        .with_header("h", "v")
        .unwrap()
        .with_stream("in")
        .unwrap();
    let mut producer = world.flow.producer("elsewhere").await.unwrap();
    producer.send(message).await.unwrap();
    let mut consumer = world.flow.consumer("in", "relay").await.unwrap();
    let relayed = next(&mut consumer).await.into_message();
    assert_eq!(relayed.stream(), None);
    producer.send(relayed).await.unwrap();
    assert_eq!(world.bodies("in").await, ["body"]);
    let mut consumer = world.flow.consumer("elsewhere", "end").await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.key(), Some(&"key".into()));
    assert_eq!(delivery.timestamp(), time);
    assert_eq!(delivery.headers().iter().count(), 1);
}

#[tokio::test]
async fn a_clone_carries_no_commit() {
    let world = world().await;
    world.fill("in", 1).await;
    let mut consumer = world.flow.consumer("in", "relay").await.unwrap();
    let mut producer = world.flow.producer("out").await.unwrap();
    let message = next(&mut consumer).await.into_message();
    producer.send(message.clone()).await.unwrap();
    assert_eq!(world.position("in", "relay").await, 0);
    drop(message.clone());
    producer.send(message).await.unwrap();
    assert_eq!(world.position("in", "relay").await, 1);
}

/// The first sink gets a clone, and the second the message with its commit.
#[tokio::test]
async fn of_two_sinks_one_writes_the_commit_and_one_append_writes_both_or_neither() {
    let world = world().await;
    world.fill("in", 2).await;
    let mut consumer = world.flow.consumer("in", "relay").await.unwrap();
    let mut a = world.flow.producer("a").await.unwrap();
    let mut b = world.flow.producer("b").await.unwrap();
    world.faulty.times(Call::Append, Fault::Fail, 1);
    let mut both = (&mut a).fanout(&mut b);
    both.feed(next(&mut consumer).await.into_message())
        .await
        .unwrap();
    drop(both);
    a.flush().await.expect_err("the first write fails");
    b.flush().await.unwrap();
    let written = (world.bodies("a").await, world.bodies("b").await);
    assert_eq!(written, (vec![], vec!["0".to_owned()]));
    assert_eq!(world.position("in", "relay").await, 1, "b wrote the commit");
    // It is with a, and nowhere else.
    assert_eq!(a.take_unsent().await[0].messages()[0].body(), "0");

    let message = next(&mut consumer).await.into_message();
    let copy = message.clone().with_stream("a").unwrap();
    world.faulty.times(Call::Append, Fault::Fail, 1);
    let error = b.append([copy, message]).await.unwrap_err();
    let written = (world.bodies("a").await, world.bodies("b").await);
    assert_eq!(written, (vec![], vec!["0".to_owned()]), "neither");
    assert_eq!(world.position("in", "relay").await, 1);
    b.append(error.unsent).await.unwrap();
    assert_eq!(world.bodies("a").await, ["1"]);
    assert_eq!(world.bodies("b").await, ["0", "1"]);
    assert_eq!(world.position("in", "relay").await, 2);
}

#[tokio::test]
async fn many_become_one_and_one_becomes_many() {
    let world = world().await;
    world.fill("in", 4).await;
    let mut consumer = world.flow.consumer("in", "relay").await.unwrap();
    let mut producer = world.flow.producer("out").await.unwrap();
    let mut sum = Message::new("0+1+2");
    for _ in 0..3 {
        sum.attach(next(&mut consumer).await.into_parts().1);
    }
    world.faulty.times(Call::Append, Fault::Fail, 1);
    producer.send(sum).await.unwrap_err();
    assert_eq!(world.position("in", "relay").await, 0);
    producer.flush().await.unwrap();
    assert_eq!(world.position("in", "relay").await, 3);
    let (_, commit) = next(&mut consumer).await.into_parts();
    let mut last = Message::new("b");
    last.attach(commit);
    producer.append([Message::new("a"), last]).await.unwrap();
    assert_eq!(world.position("in", "relay").await, 4);
    assert_eq!(world.bodies("out").await, ["0+1+2", "a", "b"]);
    assert_eq!(world.faulty.count(Call::Commit), 0, "the commits rode");
}

#[tokio::test]
async fn commits_that_were_taken_off_do_not_ride() {
    let world = world().await;
    world.fill("in", 1).await;
    let mut consumer = world.flow.consumer("in", "relay").await.unwrap();
    let mut producer = world.flow.producer("out").await.unwrap();
    let mut message = next(&mut consumer).await.into_message();
    let commits = message.take_commits();
    producer.send(message).await.unwrap();
    assert_eq!(world.position("in", "relay").await, 0);
    for commit in commits {
        soon("the commit", commit.commit()).await.unwrap();
    }
    assert_eq!(world.position("in", "relay").await, 1);
}

/// The write that it rode in is known not to have been: nothing can land late.
#[tokio::test]
async fn a_relayed_message_whose_doubt_is_settled_keeps_its_lease() {
    let world = world().await;
    world.fill("in", 2).await;
    let mut consumer = world.flow.consumer("in", "work").await.unwrap();
    let mut producer = world.flow.producer("out").await.unwrap();
    world.faulty.times(Call::Append, Fault::Doubt, 1);
    let message = next(&mut consumer).await.into_message();
    let error = producer.send(message).await.unwrap_err();
    assert!(error.in_doubt());
    producer.flush().await.unwrap();
    assert_eq!(world.bodies("out").await, ["0"]);
    let second = next(&mut consumer).await;
    assert_eq!((second.offset(), second.epoch()), (1, 1));
    second.commit().await.unwrap();
    assert_eq!(world.position("in", "work").await, 2);
}
