//! Dead letters: moved once, whatever fails meanwhile, and in nobody's way.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use flowstream::{Consumer, Message};
use support::*;

const SECOND: Duration = Duration::from_secs(1);
const DEAD: &str = "in.work.dead";

async fn consumer(world: &World, max_attempts: u32) -> Consumer {
    let builder = world.flow.consumer("in", "work").max_attempts(max_attempts);
    let builder = builder.redeliver_after(SECOND);
    builder.lease(SECOND * 1000).await.unwrap()
}

/// Bodies in the dead-letter stream, which may not be there.
async fn dead(world: &World) -> Vec<String> {
    world.flow.producer(DEAD).await.unwrap();
    world.bodies(DEAD).await
}

/// Some messages are retried, some given up, some forgotten and some done, while answers get lost,
/// others take the lease over, and futures are dropped.
async fn suffer(seed: u64, faults: &[Fault]) {
    const COUNT: u64 = 60;
    let mut random = Random::new(seed);
    let world = world().await;
    world.fill("in", COUNT).await;
    let mut stream = None;
    for round in 0.. {
        assert!(round < 2000, "seed {seed}: it does not get through");
        world.faulty.hesitate(random.below(3));
        if random.below(2) == 0 && !faults.is_empty() {
            let fault = faults[random.below(faults.len())];
            let calls = [Call::Append, Call::Append, Call::Commit];
            let call = calls[random.below(calls.len())];
            world
                .faulty
                .after(call, random.below(3), fault, 1 + random.below(2));
        }
        let consumer = match &mut stream {
            Some(consumer) => consumer,
            none => none.insert(consumer(&world, 2).await),
        };
        for _ in 0..random.below(30) {
            let Some(Some(Ok(delivery))) = poll_at_most(30, consumer.next()).await else {
                continue;
            };
            match delivery.offset() % 4 {
                0 => delivery.retry_after(Duration::ZERO),
                1 => {
                    let polls = random.below(20);
                    let _ = poll_at_most(polls, delivery.dead_letter("no")).await;
                }
                2 => drop(delivery),
                _ => delivery.ack(),
            }
        }
        if random.below(8) == 0 {
            let usurper = world.take_over("in", "work").await;
            quiet().await;
            world.faulty.inner().release(&usurper).await.unwrap();
        }
        if random.below(8) == 0 {
            stream = None;
        }
        quiet().await;
        world.faulty.let_go();
        world.pass_in(SECOND, 4).await;
        if world.position("in", "work").await == COUNT {
            break;
        }
    }
    world.faulty.heal();
    quiet().await;
    let letters = dead(&world).await;
    let once: BTreeSet<&String> = letters.iter().collect();
    assert_eq!(once.len(), letters.len(), "seed {seed}: {letters:?}");
    // Those that are done may have been moved, too, after so many takeovers.
    let lost = (0..COUNT).filter(|at| at % 4 != 3 && !once.contains(&at.to_string()));
    assert_eq!(lost.count(), 0, "seed {seed}: {letters:?}");
}

#[tokio::test]
async fn dead_letters_are_moved_once() {
    for seed in 0..20 {
        suffer(seed, &[]).await;
    }
}

#[tokio::test]
async fn lost_answers_neither_lose_nor_double_dead_letters() {
    for seed in 100..130 {
        suffer(seed, &[Fault::Fail, Fault::Lose, Fault::Doubt, Fault::Hold]).await;
    }
}

#[tokio::test]
async fn writes_that_land_late_neither_lose_nor_double_dead_letters() {
    for seed in 200..230 {
        suffer(seed, &[Fault::Late, Fault::Lose]).await;
    }
}

#[tokio::test]
async fn a_move_that_cannot_be_written_stops_nobody() {
    let world = world().await;
    world.fill("in", 30).await;
    let mut consumer = consumer(&world, 1).await;
    world.faulty.set(Call::Append, Fault::Fail);
    let mut seen = 0;
    let mut work = |delivery: flowstream::Delivery| {
        seen += 1;
        assert_eq!(delivery.attempt(), 1);
        match delivery.offset() % 3 {
            0 => delivery.retry_after(Duration::ZERO),
            _ => delivery.ack(),
        }
    };
    take_all(&mut consumer, &mut work).await;
    world.pass(SECOND * 20).await;
    world.fill("in", 30).await;
    take_all(&mut consumer, &mut work).await;
    assert_eq!(seen, 60, "all came once");
    world.pass(SECOND).await;
    let state = world.group("in", "work").await;
    assert_eq!((state.position(), state.lag()), (0, 20));
    world.faulty.heal();
    world.pass(SECOND * 20).await;
    assert_eq!(world.position("in", "work").await, 60);
    assert_eq!(dead(&world).await.len(), 20);
}

#[tokio::test]
async fn what_an_error_gives_back_can_be_appended_later() {
    for fault in [Fault::Fail, Fault::Lose, Fault::Doubt] {
        let world = world().await;
        world.fill("in", 1).await;
        let mut consumer = consumer(&world, 9).await;
        let mut producer = world.flow.producer("elsewhere").await.unwrap();
        world.faulty.times(Call::Append, fault, 1);
        let delivery = next(&mut consumer).await;
        let error = delivery.dead_letter("no").await.unwrap_err();
        assert_eq!(error.in_doubt(), fault != Fault::Fail);
        let batch = error.unsent;
        producer.append(batch).await.unwrap();
        assert_eq!(dead(&world).await, ["0"], "{fault:?}");
        assert_eq!(world.position("in", "work").await, 1);
        assert!(world.bodies("elsewhere").await.is_empty());
    }
}

#[tokio::test]
async fn one_that_was_not_moved_comes_again() {
    let world = world().await;
    world.fill("in", 2).await;
    let mut consumer = consumer(&world, 9).await;
    world.faulty.times(Call::Append, Fault::Fail, 1);
    let delivery = next(&mut consumer).await;
    drop(delivery.dead_letter("no").await.unwrap_err());
    next(&mut consumer).await.commit().await.unwrap();
    world.pass(SECOND * 2).await;
    let again = next(&mut consumer).await;
    assert_eq!((again.offset(), again.attempt()), (0, 2));
    again.dead_letter("no").await.unwrap();
    assert_eq!(dead(&world).await, ["0"]);
}

#[tokio::test]
async fn one_that_is_fenced_while_it_is_moved_is_moved_by_the_next_owner() {
    for by_itself in [false, true] {
        let world = world().await;
        world.fill("in", 2).await;
        let mut consumer = consumer(&world, 1).await;
        world.faulty.set(Call::Append, Fault::Hold);
        let delivery = next(&mut consumer).await;
        let moving = match by_itself {
            true => {
                delivery.retry_after(Duration::ZERO);
                None
            }
            false => Some(tokio::spawn(delivery.dead_letter("no"))),
        };
        let faulty = world.faulty.clone();
        eventually("the append is under way", || faulty.held() == 1).await;
        let usurper = world.take_over("in", "work").await;
        world.faulty.heal();
        if let Some(moving) = moving {
            let refused = soon("an answer", moving).await.unwrap();
            assert!(refused.unwrap_err().is_fenced());
        }
        quiet().await;
        assert!(dead(&world).await.is_empty(), "neither of both is written");
        assert_eq!(world.position("in", "work").await, 0);
        world.faulty.inner().release(&usurper).await.unwrap();
        world.pass(SECOND).await;
        // It was begun before, by an owner that is gone.
        let next = next(&mut consumer).await;
        assert_eq!(next.offset(), 1);
        next.commit().await.unwrap();
        world.pass(SECOND).await;
        assert_eq!(dead(&world).await, ["0"]);
        assert_eq!(world.position("in", "work").await, 2);
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_a_move() {
    for by_itself in [false, true] {
        let world = world().await;
        world.fill("in", 1).await;
        let mut consumer = consumer(&world, 1).await;
        world.faulty.set(Call::Append, Fault::Hold);
        let delivery = next(&mut consumer).await;
        match by_itself {
            true => delivery.retry_after(Duration::ZERO),
            // Polled once, it is under way.
            false => drop(poll_at_most(1, delivery.dead_letter("no")).await),
        }
        let faulty = world.faulty.clone();
        eventually("the append is under way", || faulty.held() == 1).await;
        let mut stopped = Box::pin(consumer.control().shutdown());
        assert!(stays_pending(&mut stopped).await);
        world.faulty.heal();
        soon("the shutdown", stopped).await;
        let state = world.group("in", "work").await;
        assert_eq!((state.owner, state.position()), (None, 1));
        assert_eq!(dead(&world).await, ["0"]);
    }
}

#[tokio::test]
async fn a_dead_letter_that_was_never_polled_is_a_handle_that_was_dropped() {
    let world = world().await;
    world.fill("in", 2).await;
    let mut consumer = consumer(&world, 9).await;
    drop(next(&mut consumer).await.dead_letter("no"));
    next(&mut consumer).await.commit().await.unwrap();
    world.pass(SECOND * 2).await;
    assert_eq!(next(&mut consumer).await.offset(), 0);
    assert!(dead(&world).await.is_empty());
}

/// It waits behind another append when its future is dropped.
#[tokio::test]
async fn a_dead_letter_that_was_polled_once_is_moved() {
    let world = world().await;
    world.fill("in", 1).await;
    let mut consumer = consumer(&world, 9).await;
    let mut producer = world.flow.producer(DEAD).await.unwrap();
    let delivery = next(&mut consumer).await;
    world.faulty.times(Call::Append, Fault::Hold, 1);
    let appending = tokio::spawn(async move { producer.append(Message::new("first")).await });
    eventually("the append", || world.faulty.held() == 1).await;
    let moving = delivery.dead_letter("no");
    assert!(futures::FutureExt::now_or_never(moving).is_none());
    quiet().await;
    world.faulty.heal();
    soon("the append", appending).await.unwrap().unwrap();
    quiet().await;
    assert_eq!(dead(&world).await, ["first", "0"]);
    assert_eq!(world.position("in", "work").await, 1);
}

#[tokio::test]
async fn keys_go_to_their_partitions_of_the_dead() {
    let world = world().await;
    world.flow.create_stream("graves", 4).await.unwrap();
    let mut producer = world.flow.producer("in").await.unwrap();
    let messages = (0..40).map(|at| Message::new("m").with_key(format!("{}", at % 7)));
    let batch: flowstream::Batch = messages.collect();
    producer.append(batch).await.unwrap();
    let builder = world.flow.consumer("in", "work").dead_letters("graves");
    let mut consumer = builder.await.unwrap();
    for _ in 0..40 {
        next(&mut consumer).await.dead_letter("no").await.unwrap();
    }
    let mut places = BTreeSet::new();
    for partition in 0..4 {
        for (_, message) in world.flow.read("graves", partition, 0).await.unwrap() {
            places.insert((message.key().unwrap().clone(), partition));
        }
    }
    assert_eq!(places.len(), 7, "one place a key");
}

#[tokio::test]
async fn a_dead_letter_says_when_it_was_moved_in_milliseconds() {
    let world = world().await;
    world.fill("in", 1).await;
    let mut consumer = consumer(&world, 9).await;
    let delivery = next(&mut consumer).await;
    world.clock.advance(Duration::from_micros(1_234_567));
    delivery.dead_letter("no").await.unwrap();
    let (_, letter) = world.flow.read(DEAD, 0, 0).await.unwrap().remove(0);
    // The wall clock of the tests began with the second day.
    let time = letter.headers().get("dead-letter-time").unwrap();
    assert_eq!(std::str::from_utf8(time), Ok("86401234"));
}

#[tokio::test]
async fn what_was_tried_for_the_last_time_does_not_wait_to_be_moved() {
    let world = world().await;
    world.fill("in", 1).await;
    let mut consumer = consumer(&world, 1).await;
    next(&mut consumer).await.retry_after(SECOND * 900);
    quiet().await;
    assert_eq!(dead(&world).await, ["0"]);
}

/// The task that appends is on a runtime that ends while it moves a dead letter of another one.
#[test]
fn a_move_goes_on_when_the_runtime_ends_that_it_was_on() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    for in_doubt in [false, true] {
        let (first, second) = (runtime(), runtime());
        let (world, mut consumer) = second.block_on(async {
            let world = world().await;
            world.flow.producer(DEAD).await.unwrap();
            world.fill("in", 2).await;
            let consumer = consumer(&world, 1).await;
            (world, consumer)
        });
        // The first append is of the other runtime, and so is the task.
        world.faulty.times(Call::Append, Fault::Hold, 1);
        first.block_on(async {
            let mut producer = world.flow.producer("other").await.unwrap();
            let sending = async move { producer.append(Message::new("other")).await };
            tokio::spawn(sending);
            eventually("the append", || world.faulty.held() == 1).await;
        });
        second.block_on(async {
            next(&mut consumer).await.retry_after(Duration::ZERO);
            next(&mut consumer).await.ack();
            quiet().await;
        });
        if in_doubt {
            world.faulty.times(Call::Append, Fault::Hold, 1);
            first.block_on(async {
                world.faulty.let_go();
                eventually("the move", || world.faulty.held() == 1).await;
            });
        }
        drop(first);
        second.block_on(async {
            world.faulty.heal();
            quiet().await;
            assert_eq!(world.bodies(DEAD).await, ["0"], "in doubt: {in_doubt}");
            world.pass(SECOND).await;
            assert_eq!(world.position("in", "work").await, 2);
        });
    }
}

/// Its headers were counted, so nobody could append it again: neither a relay, nor who had to after a move
/// that failed.
#[tokio::test]
async fn a_dead_letter_of_the_largest_message_can_be_appended_back() {
    const MOST: usize = 10_000;
    for url in STORAGES {
        let set = |options: flowstream::Options| {
            options.max_message_bytes(MOST).retry_for(Duration::ZERO)
        };
        let world = world_on(url, set).await;
        let largest = || Message::new("x".repeat(MOST - 3)).with_key("key");
        let mut producer = world.flow.producer("in").await.unwrap();
        producer.append([largest(), largest()]).await.unwrap();
        let mut consumer = consumer(&world, 10).await;
        let reason = "no".repeat(4000);
        let moved = next(&mut consumer).await.dead_letter(&*reason).await;
        moved.unwrap();

        // A move that fails: whoever has the error appends it.
        world.faulty.times(Call::Append, Fault::Fail, 1);
        let failed = next(&mut consumer).await.dead_letter(&*reason).await;
        let unsent = failed.unwrap_err().unsent;
        assert!(unsent.messages()[0].size() > MOST, "with its headers");
        producer.append(unsent).await.unwrap();
        world.rest().await;
        assert_eq!(world.position("in", "work").await, 2);

        // Both are relayed back, by the Sink and by an append.
        let mut dead = world.flow.consumer(DEAD, "repair").await.unwrap();
        let back = next(&mut dead).await.into_message();
        futures::SinkExt::send(&mut producer, back).await.unwrap();
        let back = next(&mut dead).await.into_message();
        producer.append(back).await.unwrap();
        assert_eq!(world.bodies("in").await.len(), 4);
        // And die once more.
        let again = next(&mut consumer).await;
        assert!(again.message().size() > MOST);
        again.dead_letter(&*reason).await.unwrap();

        // Only what a move adds is free.
        let more = largest().with_header("dead-letter-mine", vec![0; MOST]);
        producer.append(more.unwrap()).await.unwrap_err();
        let more = largest().with_header("mine", "x");
        producer.append(more.unwrap()).await.unwrap_err();
    }
}

/// The most that one append takes.
#[tokio::test]
async fn a_dead_letter_as_large_as_an_append_can_be_appended_back() {
    const MOST: usize = 64 << 20;
    let world = world_with(|options| options.max_message_bytes(MOST)).await;
    let mut producer = world.flow.producer("in").await.unwrap();
    producer.append(Message::new(vec![7; MOST])).await.unwrap();
    let mut consumer = consumer(&world, 10).await;
    next(&mut consumer).await.dead_letter("no").await.unwrap();
    let mut dead = world.flow.consumer(DEAD, "repair").await.unwrap();
    let back = next(&mut dead).await.into_message();
    futures::SinkExt::send(&mut producer, back).await.unwrap();
    assert_eq!(world.flow.bounds("in").await.unwrap()[0], 0..2);
}

/// Dead letters of (a.b, c) and of (a, b.c) went to one stream.
#[tokio::test]
async fn groups_with_dots_in_their_names_have_streams_of_their_own_for_the_dead() {
    let world = world().await;
    for (stream, group, to) in [("a.b", "c", "a.b.c.dead"), ("a", "b.c", "a.b.c.dead.1")] {
        world.fill(stream, 1).await;
        let mut consumer = world.flow.consumer(stream, group).await.unwrap();
        next(&mut consumer).await.dead_letter(stream).await.unwrap();
        assert_eq!(world.bodies(to).await, ["0"], "{stream}, {group}");
    }
}
