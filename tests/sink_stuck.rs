//! A storage that hangs or stays away: who waits, for how long, and how much is kept meanwhile.

mod support;

use std::task::Poll;
use std::time::Duration;

use flowstream::{Batch, ErrorKind, Message, Producer};
use futures::future::join_all;
use futures::{FutureExt, SinkExt};
use support::*;
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok};

const BUDGET: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

async fn patient() -> World {
    world_with(|options| options.retry_for(BUDGET)).await
}

async fn producer(world: &World) -> Producer {
    world.flow.producer("orders").await.unwrap()
}

/// A batch whose only attempt may have been written.
async fn in_doubt(world: &World, body: &str) -> Batch {
    let hasty = open(&world.faulty, &world.clock, |options| {
        options.retry_for(Duration::ZERO)
    });
    let mut producer = hasty.producer("orders").await.unwrap();
    world.faulty.times(Call::Append, Fault::Doubt, 1);
    let message = Message::new(body.to_owned());
    let error = producer.append(message).await.unwrap_err();
    error.unsent
}

/// When each of twenty callers that came one after the other during an outage gets its error.
#[tokio::test]
async fn each_caller_has_its_own_budget_during_an_outage() {
    let world = patient().await;
    let producer = producer(&world).await;
    world.faulty.set(Call::Append, Fault::Fail);
    let clock = &world.clock;
    let mut calls = Vec::new();
    for number in 0..20u32 {
        let (mut producer, clock) = (producer.clone(), clock.clone());
        calls.push(tokio::spawn(async move {
            let began = flowstream::Clock::now(&clock);
            let body = Message::new(number.to_string());
            let error = producer.append(body).await.unwrap_err();
            assert!(error.is_transient() && !error.in_doubt(), "{error}");
            assert_eq!(error.unsent.len(), 1);
            flowstream::Clock::now(&clock) - began
        }));
        world.pass_in(SECOND, 5).await;
    }
    world.pass_in(BUDGET * 2, 300).await;
    for call in join_all(calls).await {
        let took = call.unwrap();
        assert!(took >= BUDGET - SECOND * 2, "{took:?}");
        assert!(took <= BUDGET + SECOND * 2, "{took:?}");
    }
    world.faulty.heal();
    assert!(world.bodies("orders").await.is_empty());
}

/// Each needs a stream to be made, and not all of them can ask at once.
#[tokio::test]
async fn each_caller_has_its_own_budget_while_nothing_can_be_looked_at() {
    let world = patient().await;
    let producer = producer(&world).await;
    world.faulty.set(Call::CreateStream, Fault::Fail);
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let mut producer = producer.clone();
            let message = Message::new("0").with_stream(format!("new {number}"));
            tokio::spawn(async move { producer.append(message.unwrap()).await })
        })
        .collect();
    world.pass_in(BUDGET - SECOND * 2, 100).await;
    assert!(!calls.iter().any(|call| call.is_finished()));
    world.pass_in(SECOND * 4, 20).await;
    assert!(calls.iter().all(|call| call.is_finished()));
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(error.is_transient() && !error.in_doubt(), "{error}");
        assert_eq!(error.unsent.len(), 1);
    }
}

/// An attempt of which nobody knows how it ended, then an outage: who was in it is in doubt.
#[tokio::test]
async fn who_gave_up_is_in_doubt_where_an_attempt_may_have_landed() {
    let world = patient().await;
    let producer = producer(&world).await;
    world.faulty.times(Call::Append, Fault::Hold, 1);
    let append = |body: &str| {
        let (mut producer, body) = (producer.clone(), Message::new(body.to_owned()));
        spawn(async move { producer.append(body).await })
    };
    let mut first = append("first");
    assert_pending!(first.poll());
    quiet().await;
    let mut early = append("early");
    assert_pending!(early.poll());
    world.pass(SECOND * 10).await;
    let mut late = append("late");
    assert_pending!(late.poll());
    quiet().await;
    // Both are in the next attempt, whose answer gets lost, and then nothing works for a while.
    world.faulty.times(Call::Append, Fault::Late, 1);
    world.faulty.let_go();
    quiet().await;
    assert_ready_ok!(first.poll());
    world.faulty.set(Call::Append, Fault::Fail);
    world.pass_in(SECOND * 21, 100).await;
    let error = assert_ready!(early.poll()).unwrap_err();
    assert!(error.in_doubt(), "{error}");
    assert_pending!(late.poll());
    // It lands with both in it, once.
    world.faulty.heal();
    world.pass_in(SECOND * 2, 10).await;
    assert_ready_ok!(late.poll());
    let batch = error.unsent;
    assert!(batch.in_doubt());
    producer.clone().append(batch).await.unwrap();
    assert_eq!(world.bodies("orders").await, ["first", "early", "late"]);
}

/// Nothing has failed: then nothing does because it took long.
#[tokio::test]
async fn a_slow_storage_makes_nothing_fail() {
    let world = patient().await;
    let producer = producer(&world).await;
    world.faulty.set(Call::Append, Fault::Hold);
    let mut calls: Vec<_> = (0..3)
        .map(|number| {
            let mut producer = producer.clone();
            spawn(async move { producer.append(Message::new(number.to_string())).await })
        })
        .collect();
    for call in &mut calls {
        assert_pending!(call.poll());
        quiet().await;
    }
    world.pass(BUDGET * 3).await;
    world.faulty.heal();
    quiet().await;
    for mut call in calls {
        assert_ready_ok!(call.poll());
    }
    assert_eq!(world.bodies("orders").await, numbers(3));
}

#[tokio::test]
async fn a_batch_whose_fate_cannot_be_told_holds_up_nobody_else() {
    let world = patient().await;
    let mut one = producer(&world).await;
    let batch = in_doubt(&world, "one").await;
    world.faulty.set(Call::Settle, Fault::Fail);
    let mut again = spawn(one.append(batch));
    assert_pending!(again.poll());
    quiet().await;
    let mut other = producer(&world).await;
    soon("another send", other.send("other".into()))
        .await
        .unwrap();
    assert_eq!(world.bodies("orders").await, ["other"]);
    world.faulty.heal();
    world.pass(SECOND * 2).await;
    assert_ready_ok!(again.poll());
    assert_eq!(world.bodies("orders").await, ["other", "one"]);
}

#[tokio::test]
async fn a_stream_whose_making_hangs_holds_up_only_those_that_write_to_it() {
    let world = patient().await;
    let mut one = producer(&world).await;
    world.faulty.times(Call::CreateStream, Fault::Hold, 1);
    let to = |stream, body: &'static str| Message::new(body).with_stream(stream).unwrap();
    one.feed(to("new", "0")).await.unwrap();
    let mut flushing = Box::pin(one.flush());
    assert!(stays_pending(&mut flushing).await);
    assert_eq!(world.faulty.held(), 1);
    let mut other = producer(&world).await;
    for body in ["a", "b"] {
        soon("another send", other.send(body.into())).await.unwrap();
    }
    assert_eq!(world.bodies("orders").await, ["a", "b"]);
    world.faulty.let_go();
    soon("the flush", flushing).await.unwrap();
    assert_eq!(world.bodies("new").await, ["0"]);
}

/// What one producer gave behind a batch that waits for a look keeps its place.
#[tokio::test]
async fn a_chain_keeps_its_order_behind_a_look_at_the_storage() {
    let world = patient().await;
    let mut one = world
        .flow
        .producer("orders")
        .batch_messages(1)
        .await
        .unwrap();
    world.faulty.times(Call::CreateStream, Fault::Hold, 1);
    let new = Message::new("new").with_stream("new").unwrap();
    one.feed(new).await.unwrap();
    one.feed("0".into()).await.unwrap();
    quiet().await;
    assert_eq!(
        world.faulty.count(Call::Append),
        0,
        "it is behind the first"
    );
    world
        .faulty
        .times(Call::Append, Fault::Break(ErrorKind::Data), 1);
    world.faulty.let_go();
    soon("the flush", one.flush()).await.unwrap_err();
    assert!(world.bodies("orders").await.is_empty(), "none behind it");
    soon("the flush", one.flush()).await.unwrap();
    assert_eq!(world.bodies("orders").await, ["0"]);
}

/// A key for each of the partitions of a stream with two.
async fn keys(world: &World) -> [String; 2] {
    world.flow.create_stream("orders", 2).await.unwrap();
    let mut producer = producer(world).await;
    let mut keys = [const { String::new() }; 2];
    for number in 0..20 {
        let key = number.to_string();
        let message = Message::new("key").with_key(key.clone());
        let appended = producer.append(message).await.unwrap();
        keys[appended.offsets()[0].partition as usize] = key;
    }
    keys
}

#[tokio::test]
async fn a_partition_that_is_held_for_long_holds_up_no_other() {
    let world = patient().await;
    let [zero, one] = keys(&world).await;
    let before = world.flow.bounds("orders").await.unwrap()[1].end;
    world.faulty.times(Call::Append, Fault::Hold, 1);
    let append = |body: String, key: &String| {
        let mut producer = world.flow.producer("orders").into_future().now_or_never();
        let message = Message::new(body).with_key(key.clone());
        let mut producer = producer.take().unwrap().unwrap();
        tokio::spawn(async move { producer.append(message).await })
    };
    let held = append("held".into(), &zero);
    eventually("the first", || world.faulty.held() == 1).await;
    let behind = append("behind".into(), &zero);
    for number in 0..30 {
        let mut beside = append(number.to_string(), &one);
        for _ in 0..10 {
            quiet().await;
            world.clock.advance(SECOND / 10);
        }
        let beside = soon("what goes to the other partition", &mut beside).await;
        assert_eq!(beside.unwrap().unwrap().offsets()[0].partition, 1);
    }
    assert!(!held.is_finished() && !behind.is_finished());
    world.faulty.let_go();
    let held = soon("the first", held).await.unwrap().unwrap();
    let behind = soon("the one behind", behind).await.unwrap().unwrap();
    assert!(held.offsets()[0].offsets.end <= behind.offsets()[0].offsets.start);
    let bodies = bodies(&world.flow, "orders", 1).await;
    assert_eq!(bodies[before as usize..], numbers(30));
}

/// They may go to any partition.
#[tokio::test]
async fn messages_without_a_key_pass_by_a_partition_that_is_held_for_long() {
    let world = patient().await;
    let [zero, _] = keys(&world).await;
    world.faulty.times(Call::Append, Fault::Hold, 1);
    let mut held = producer(&world).await;
    let message = Message::new("held").with_key(zero);
    let held = tokio::spawn(async move { held.append(message).await });
    eventually("the first", || world.faulty.held() == 1).await;
    for _ in 0..10 {
        let mut producer = producer(&world).await;
        let message = Message::new("anywhere");
        let beside = tokio::spawn(async move { producer.append(message).await });
        world.pass(SECOND * 2).await;
        let beside = soon("what may go anywhere", beside).await.unwrap().unwrap();
        assert_eq!(beside.offsets()[0].partition, 1);
    }
    world.faulty.let_go();
    soon("the first", held).await.unwrap().unwrap();
}

/// The first batch of a producer hangs: what it has for another partition comes back if that fails.
#[tokio::test]
async fn none_of_a_chain_goes_beside_what_is_before_it() {
    let world = patient().await;
    let [zero, one] = keys(&world).await;
    let before = world.flow.bounds("orders").await.unwrap()[1].end;
    let builder = world.flow.producer("orders").batch_messages(1);
    let mut producer = builder.await.unwrap();
    world.faulty.times(Call::Append, Fault::Hold, 1);
    for (body, key) in [("0", &zero), ("1", &one)] {
        let message = Message::new(body).with_key(key.clone());
        producer.feed(message).await.unwrap();
        quiet().await;
    }
    world.pass(BUDGET).await;
    assert_eq!(world.faulty.held(), 1);
    assert_eq!(
        world.flow.bounds("orders").await.unwrap()[1].end,
        before,
        "what is behind waits"
    );
    world.faulty.heal();
    soon("the flush", producer.flush()).await.unwrap();
    assert_eq!(bodies(&world.flow, "orders", 1).await.last().unwrap(), "1");
}

/// Nobody waits for them, and none of them was sent.
#[tokio::test]
async fn appends_that_were_dropped_while_they_waited_are_not_written() {
    let world = patient().await;
    let producer = producer(&world).await;
    world.faulty.times(Call::Append, Fault::Hold, 1);
    let mut first = producer.clone();
    let mut first = spawn(async move { first.append(Message::new("first")).await });
    assert_pending!(first.poll());
    eventually("the first", || world.faulty.held() == 1).await;
    for number in 0..20_000u32 {
        let mut producer = producer.clone();
        let append = producer.append(Message::new(number.to_string()));
        assert!(append.now_or_never().is_none());
    }
    quiet().await;
    let mut last = producer.clone();
    let mut last = spawn(async move { last.append(Message::new("last")).await });
    assert_pending!(last.poll());
    world.faulty.heal();
    quiet().await;
    assert_ready_ok!(first.poll());
    assert_ready_ok!(last.poll());
    assert_eq!(world.bodies("orders").await, ["first", "last"]);
}

/// Many producers share a queue that has an end.
#[tokio::test]
async fn producers_wait_where_too_much_waits_already() {
    const BODY: usize = 1 << 20;
    let world = patient().await;
    let producer = producer(&world).await;
    world.faulty.set(Call::Append, Fault::Hold);
    let mut sinks: Vec<Producer> = Vec::new();
    let mut taken = 0;
    for _ in 0..200 {
        let mut sink = producer.clone();
        while let Some(fed) = sink.feed(Message::new(vec![7; BODY])).now_or_never() {
            fed.unwrap();
            taken += 1;
        }
        sinks.push(sink);
        quiet().await;
    }
    // One full buffer each, and what is under way or waits for it.
    assert!(taken < 200 + 32, "{taken} MiB were taken");
    let mut append = spawn(async {
        let mut producer = producer.clone();
        producer.append(Message::new("append")).await
    });
    assert_pending!(append.poll());
    world.faulty.heal();
    for mut sink in sinks {
        soon("a flush", sink.flush()).await.unwrap();
    }
    soon("the append", append).await.unwrap();
    let all = world.flow.bounds("orders").await.unwrap()[0].end;
    assert_eq!(all, taken + 1);
}

/// The sink takes one message over its bound, to tell of the failure, and no more.
#[tokio::test]
async fn what_a_sink_keeps_while_everything_fails_is_bounded() {
    let world = world().await;
    let builder = world.flow.producer("orders").batch_messages(10);
    let mut sink = spawn(builder.await.unwrap());
    world.faulty.set(Call::Append, Fault::Fail);
    let (mut taken, mut errors) = (0u64, 0);
    for _ in 0..5000 {
        world.clock.advance(Duration::from_millis(1));
        let ready = sink.enter(|cx, sink| futures::Sink::poll_ready(sink, cx));
        if let Poll::Ready(ready) = ready {
            ready.unwrap();
            let message = Message::new(taken.to_string());
            let sent = sink.enter(|_, sink| futures::Sink::start_send(sink, message));
            errors += usize::from(sent.is_err());
            taken += 1;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(errors, 1, "the failure is told");
    assert!((11..=31).contains(&taken), "{taken} were taken");
    let attempts = world.faulty.count(Call::Append);
    assert!((20..60).contains(&attempts), "it keeps trying: {attempts}");
    let mut producer = sink.into_inner();
    let batches = producer.take_unsent().await;
    let largest = batches.iter().map(Batch::len).max();
    assert!(largest <= Some(11), "{largest:?}");
    world.faulty.heal();
    for batch in batches {
        producer.append(batch).await.unwrap();
    }
    assert_eq!(world.bodies("orders").await, numbers(taken));
}

/// However large the buffer is that was asked for, and the message that fills it.
#[tokio::test]
async fn what_comes_back_is_never_more_than_an_append_takes() {
    const MIB: usize = 1 << 20;
    let world = world().await;
    let builder = world.flow.producer("orders").batch_bytes(64 * MIB);
    let mut producer = builder.await.unwrap();
    world.faulty.set(Call::Append, Fault::Fail);
    let body = Message::new(vec![7; 7 * MIB]);
    for _ in 0..10 {
        let _ = producer.feed(body.clone()).await;
    }
    producer.flush().await.expect_err("a failure");
    let batches = producer.take_unsent().await;
    world.faulty.heal();
    assert_eq!(batches.iter().map(Batch::len).sum::<usize>(), 10);
    for batch in batches {
        assert!(batch.len() < 10);
        producer.append(batch).await.unwrap();
    }
}

#[tokio::test]
async fn a_close_ends_while_others_go_on_sending() {
    let world = patient().await;
    world.faulty.hesitate(3);
    let producer = producer(&world).await;
    let tasks: Vec<_> = (0..8u64)
        .map(|task| {
            let mut producer = producer.clone();
            tokio::spawn(async move {
                for number in 0.. {
                    let body = Message::new(format!("{task}:{number}"));
                    if let Err(error) = producer.append(body).await {
                        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                        assert!(!error.in_doubt());
                        assert_eq!(error.unsent.len(), 1);
                        return number;
                    }
                }
                0
            })
        })
        .collect();
    eventually("some writes", || world.faulty.count(Call::Append) > 20).await;
    // What was written stays there to be looked at.
    world.faulty.set(Call::Close, Fault::Fail);
    let closed = soon("the close", world.flow.close()).await;
    closed.expect_err("as it was told");
    let mut sent = 0;
    for task in tasks {
        sent += soon("a refusal", task).await.unwrap();
    }
    assert_eq!(world.bodies("orders").await.len(), sent);
}
