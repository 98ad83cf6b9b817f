//! Interleavings that once broke a promise, each as it was found.

mod support;

use std::time::Duration;

use flowstream::storage::{Claim, Group, Name, Partition};
use flowstream::{Batch, Clock, Delivery, ErrorKind, Message, Options};
use futures::{FutureExt, SinkExt};
use support::*;

const LEASE: Duration = Duration::from_secs(30);

/// An outage that outlasts the lease: the keeper drops the write, and with it the round that the
/// commit waits for.
#[tokio::test]
async fn a_commit_under_way_when_the_lease_lapses_is_answered() {
    let world = world_with(|options| options.retry_for(Duration::from_secs(600))).await;
    world.fill("orders", 2).await;
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .lease(LEASE)
        .await
        .unwrap();
    let first = next(&mut consumer).await;
    world.faulty.set_all(Fault::Fail);
    let commit = tokio::spawn(first.commit());
    world.pass(LEASE * 2).await;
    let error = soon("the commit's answer", commit)
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is_fenced(), "{error}");
}

/// The same if the runtime of the consumer ends while a commit is being written.
#[test]
fn a_commit_under_way_when_its_runtime_ends_is_answered() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let (world, mut commit) = first.block_on(async {
        let world = world().await;
        world.fill("orders", 1).await;
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        let delivery = next(&mut consumer).await;
        world.faulty.set(Call::Commit, Fault::Hold);
        let mut commit = delivery.commit();
        assert!((&mut commit).now_or_never().is_none());
        eventually("the write", || world.faulty.held() == 1).await;
        (world, commit)
    });
    drop(first);
    let error = second
        .block_on(soon("the commit's answer", &mut commit))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    drop(world);
}

/// A consumer that waits in `next` is pending, not stuck in a handler; when its lease is given up
/// after `max_processing`, it has to be woken, or it never polls and never claims again.
#[tokio::test]
async fn a_consumer_that_waits_in_next_survives_max_processing() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .lease(LEASE)
        .max_processing(LEASE)
        .await
        .unwrap();
    drop(next(&mut consumer).await);
    let waiting = tokio::spawn(async move { consumer.next().await.unwrap().unwrap().attempt() });
    world.pass_in(LEASE * 10, 100).await;
    world.fill("orders", 1).await;
    world.pass_in(LEASE * 10, 100).await;
    assert_eq!(soon("the message again", waiting).await.unwrap(), 2);
}

/// A paused consumer is not registered with the channel of its lanes, so the end of its lease has
/// to wake it.
#[tokio::test]
async fn a_paused_consumer_that_is_fenced_goes_on() {
    let world = world().await;
    world.fill("orders", 5000).await;
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(LEASE * 1000)
        .await
        .unwrap();
    let mut held = Vec::new();
    take_all(&mut consumer, |delivery| match delivery.offset() % 2 {
        0 => held.push(delivery),
        _ => delivery.ack(),
    })
    .await;
    assert!(held.len() < 2500, "it is paused");
    let waiting = tokio::spawn(async move { consumer.next().await.unwrap().unwrap().epoch() });
    quiet().await;
    let lease = world.take_over("orders", "billing").await;
    world.pass(Duration::from_secs(1)).await;
    world.faulty.inner().release(&lease).await.unwrap();
    assert_eq!(soon("the next lease", waiting).await.unwrap(), 3);
}

/// Messages that are gone from the log fill the holes; nobody looks whether that ends the pause.
#[tokio::test]
async fn a_paused_consumer_goes_on_once_its_holes_were_trimmed() {
    let world = world().await;
    world.fill("orders", 3000).await;
    let after = Duration::from_secs(5);
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(after)
        .await
        .unwrap();
    let seen = take_all(&mut consumer, |delivery| {
        if delivery.offset() % 2 == 1 {
            delivery.ack();
        }
    })
    .await;
    assert!(seen < 3000, "it is paused");
    world.flow.trim("orders", 0, 3000).await.unwrap();
    let waiting = tokio::spawn(async move { consumer.next().await.unwrap().unwrap().offset() });
    world.pass(after * 2).await;
    world.fill("orders", 1).await;
    assert!(soon("a delivery", waiting).await.unwrap() >= seen);
}

/// A consumer that stops while its claim is under way leaves a lease that nobody has.
#[tokio::test]
async fn a_consumer_that_is_dropped_while_it_claims_hands_over_at_once() {
    let world = world().await;
    world.fill("orders", 1).await;
    world.faulty.times(Call::Claim, Fault::Hold, 1);
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    assert!(consumer.next().now_or_never().is_none());
    eventually("the claim", || world.faulty.held() == 1).await;
    let stopped = consumer.control().shutdown();
    drop(consumer);
    world.faulty.heal();
    soon("the shutdown", stopped).await;
    quiet().await;
    let mut successor = world.flow.consumer("orders", "billing").await.unwrap();
    next(&mut successor).await.commit().await.unwrap();
}

/// The watch's task belongs to the runtime of the first consumer; when that ends, those on other
/// runtimes hear no more.
#[test]
fn a_consumer_hears_of_appends_after_another_runtime_has_ended() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let flow = first.block_on(async {
        let world = world().await;
        world.fill("orders", 0).await;
        let consumer = world.flow.consumer("orders", "one").await.unwrap();
        drop(tokio::spawn(async move {
            let mut consumer = consumer;
            consumer.next().await
        }));
        quiet().await;
        world.flow
    });
    second.block_on(async {
        let mut consumer = flow.consumer("orders", "two").await.unwrap();
        let mut coming = Box::pin(consumer.next());
        assert!(stays_pending(&mut coming).await);
        first.shutdown_background();
        let mut producer = flow.producer("orders").await.unwrap();
        producer.send("late".into()).await.unwrap();
        soon("the message", coming).await.unwrap().unwrap();
    });
}

/// What one runtime hands in must not fail because another runtime, whose task happened to write,
/// has ended.
#[test]
fn a_send_is_not_refused_because_another_runtime_has_ended() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let world = first.block_on(async {
        let world = world().await;
        let mut producer = world.flow.producer("orders").await.unwrap();
        world.faulty.times(Call::Append, Fault::Hold, 1);
        assert!(producer.send("one".into()).now_or_never().is_none());
        eventually("the write", || world.faulty.held() == 1).await;
        world
    });
    second.block_on(async {
        let mut producer = world.flow.producer("orders").await.unwrap();
        let mut sending = Box::pin(producer.send("two".into()));
        assert!(stays_pending(&mut sending).await);
        first.shutdown_background();
        soon("the send", sending).await.unwrap();
    });
}

/// Messages that are delivered again and not taken before the consumer goes keep the storage open:
/// chunk, session and consumer hold each other.
#[tokio::test]
async fn a_consumer_that_goes_with_messages_to_deliver_again_lets_go_of_the_storage() {
    let world = world().await;
    world.fill("orders", 2).await;
    let after = Duration::from_secs(5);
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(after)
        .await
        .unwrap();
    drop(next(&mut consumer).await);
    next(&mut consumer).await.commit().await.unwrap();
    world.pass(after * 2).await;
    let stopped = consumer.control().shutdown();
    drop(consumer);
    soon("the shutdown", stopped).await;
    quiet().await;
    let World { faulty, flow, .. } = world;
    let inner = std::sync::Arc::downgrade(faulty.inner());
    drop((faulty, flow));
    eventually("the storage is free", || inner.strong_count() == 0).await;
}

/// While a renewal fails and the budget is short, or the error is not transient, the keeper calls
/// the storage without a pause.
#[tokio::test]
async fn a_renewal_that_fails_is_not_tried_in_a_tight_loop() {
    let world = world().await;
    world.fill("orders", 1).await;
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .lease(LEASE)
        .await
        .unwrap();
    let delivery = next(&mut consumer).await;
    world.faulty.set(Call::Commit, Fault::Fail);
    let before = world.faulty.count(Call::Commit);
    world.clock.advance(LEASE / 2);
    quiet().await;
    let calls = world.faulty.count(Call::Commit) - before;
    assert!(
        (1..10).contains(&calls),
        "{calls} calls while no time passed"
    );
    drop(delivery);
}

/// A user's "never".
#[tokio::test]
async fn the_longest_durations_are_accepted() {
    let world = world_with(|options| options.retry_for(Duration::MAX)).await;
    world.clock.advance(LEASE);
    let mut producer = world.flow.producer("orders").await.unwrap();
    world.faulty.times(Call::Append, Fault::Fail, 1);
    let sending = tokio::spawn(async move { producer.send("one".into()).await });
    quiet().await;
    world.pass(Duration::from_secs(1)).await;
    soon("the send", sending).await.unwrap().unwrap();
}

/// As above, of the consumer.
#[tokio::test]
async fn the_longest_durations_are_accepted_by_a_consumer() {
    let world = world().await;
    world.fill("orders", 3).await;
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .lease(Duration::MAX)
        .max_processing(Duration::MAX)
        .drain(Duration::MAX)
        .redeliver_after(Duration::MAX)
        .await
        .unwrap();
    drop(next(&mut consumer).await);
    for _ in 1..3 {
        let commit = next(&mut consumer).await.commit();
        soon("the commit", commit).await.unwrap();
        world.pass(Duration::from_secs(60)).await;
    }
    soon("the shutdown", consumer.control().shutdown()).await;
    assert_eq!(world.group("orders", "billing").await.owner, None);
}

/// A buffer of nothing is always full.
#[test]
fn a_producer_with_empty_buffers_does_not_spin() {
    let (done, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let flow = Options::new().open("memory:").await.unwrap();
            let mut producer = flow.producer("orders").batch_messages(0).await.unwrap();
            producer.send("one".into()).await.unwrap();
            done.send(()).unwrap();
        });
    });
    answer
        .recv_timeout(Duration::from_secs(300))
        .expect("it spins");
}

/// The answer to a relayed message is lost, the statement lands later, and the batch was dropped:
/// the message was delivered again and forwarded meanwhile.
#[tokio::test]
async fn a_relayed_message_in_doubt_that_lands_late_is_not_doubled() {
    let world = world().await;
    world.fill("in", 2).await;
    let after = Duration::from_secs(5);
    let mut consumer = world
        .flow
        .consumer("in", "relay")
        .redeliver_after(after)
        .await
        .unwrap();
    let mut producer = world.flow.producer("out").await.unwrap();
    world.faulty.times(Call::Append, Fault::Late, 1);
    let error = producer
        .send(next(&mut consumer).await.into_message())
        .await
        .unwrap_err();
    assert!(error.in_doubt());
    drop(producer);
    let mut producer = world.flow.producer("out").await.unwrap();
    producer
        .send(next(&mut consumer).await.into_message())
        .await
        .unwrap();
    let waiting = tokio::spawn(async move {
        let again = next(&mut consumer).await;
        producer.send(again.into_message()).await.unwrap();
        consumer
    });
    world.pass(after * 2).await;
    let _consumer = soon("the message again", waiting).await.unwrap();
    world.faulty.heal();
    quiet().await;
    let mut bodies = world.bodies("out").await;
    bodies.sort();
    assert_eq!(bodies, ["0", "1"]);
}

/// A batch in doubt is given back after so many appends that the storage has forgotten its id.
#[tokio::test]
async fn a_batch_in_doubt_is_not_doubled_however_late_it_is_given_back() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    world.faulty.times(Call::Append, Fault::Lose, 1);
    let error = producer.append(Message::new("once")).await.unwrap_err();
    let batch = error.unsent;
    assert!(batch.in_doubt());
    for _ in 0..5000 {
        producer.append(Message::new("other")).await.unwrap();
    }
    // An error that says that nobody knows would do as well.
    let _ = producer.append(batch).await;
    let bodies = world.bodies("orders").await;
    assert_eq!(bodies.iter().filter(|body| *body == "once").count(), 1);
}

/// An error that nobody was told belongs to messages that were taken back.
#[tokio::test]
async fn what_was_taken_back_leaves_no_error_behind() {
    let world = world().await;
    let mut producer = world
        .flow
        .producer("orders")
        .batch_messages(1)
        .await
        .unwrap();
    world.faulty.set(Call::Append, Fault::Fail);
    producer.feed("one".into()).await.unwrap();
    producer.feed("two".into()).await.unwrap();
    producer.feed("three".into()).await.unwrap();
    let ready = std::future::poll_fn(|cx| producer.poll_ready_unpin(cx));
    soon("ready", ready).await.unwrap();
    assert_eq!(producer.take_unsent().await.len(), 3);
    world.faulty.heal();
    producer.send("four".into()).await.unwrap();
    assert_eq!(world.bodies("orders").await, ["four"]);
}

/// `Closed` is the last status: whoever waits for another one waits for ever.
#[tokio::test]
async fn waiting_for_a_status_ends_with_the_consumer() {
    let world = world().await;
    let consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let control = consumer.control();
    control.shutdown().await;
    let status = soon(
        "the status",
        control.wait_for(flowstream::Status::is_active),
    )
    .await;
    assert_eq!(status, flowstream::Status::Closed);
}

/// The cancellation matrix, strictly: however early it goes, it leaves no lease behind.
#[tokio::test]
async fn a_consumer_that_is_dropped_at_any_poll_hands_over_at_once() {
    let mut late = Vec::new();
    for polls in 0..30 {
        let world = world().await;
        world.fill("orders", 1).await;
        world.faulty.hesitate(3);
        let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
        drop(poll_at_most(polls, consumer.next()).await);
        let stopped = consumer.control().shutdown();
        drop(consumer);
        soon("the shutdown", stopped).await;
        let mut successor = world.flow.consumer("orders", "billing").await.unwrap();
        if poll_at_most(200, successor.next()).await.is_none() {
            late.push(polls);
        }
    }
    assert!(
        late.is_empty(),
        "no hand-over after so many polls: {late:?}"
    );
}

/// The owner has handled everything, but its commits do not get through: a standby takes over, and
/// the owner still shows as active.
#[tokio::test]
async fn an_owner_whose_commits_do_not_get_through_lapses_before_a_standby_claims() {
    let world = world().await;
    world.fill("orders", 1).await;
    let cut = Faulty::new(world.faulty.inner().clone());
    let flow = open(&cut, &world.clock, |options| options);
    let mut owner = flow
        .consumer("orders", "billing")
        .lease(LEASE)
        .await
        .unwrap();
    let mut standby = world
        .flow
        .consumer("orders", "billing")
        .lease(LEASE)
        .await
        .unwrap();
    let delivery = next(&mut owner).await;
    let (first, second) = (owner.control(), standby.control());
    let mut coming = Box::pin(standby.next());
    assert!(stays_pending(&mut coming).await);
    cut.set_all(Fault::Fail);
    delivery.ack();
    for _ in 0..300 {
        world.pass_in(LEASE / 100, 1).await;
        if second.status().is_active() {
            assert!(!first.status().is_active(), "two at once");
            return;
        }
    }
    panic!("nobody took over");
}

/// A message that was dropped at the end of the log came never again while nothing later was done.
#[tokio::test]
async fn the_last_message_that_was_dropped_comes_again() {
    let world = world().await;
    world.fill("orders", 2).await;
    let after = Duration::from_secs(5);
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(after)
        .await
        .unwrap();
    drop(next(&mut consumer).await);
    let second = next(&mut consumer).await;
    world.pass_in(after * 4, 40).await;
    assert!(
        consumer.next().now_or_never().is_none(),
        "who has the second may still commit through it"
    );
    drop(second);
    for attempt in 2..5 {
        world.pass_in(after - after / 20, 20).await;
        assert!(consumer.next().now_or_never().is_none(), "not yet");
        world.pass_in(after / 4, 5).await;
        for offset in [0, 1] {
            let again = next(&mut consumer).await;
            assert_eq!((again.offset(), again.attempt()), (offset, attempt));
        }
    }
    // One that comes has the last word on those before it.
    world.pass_in(after * 2, 40).await;
    drop(next(&mut consumer).await);
    next(&mut consumer).await.commit_through().await.unwrap();
    world.pass_in(after * 4, 40).await;
    assert!(consumer.next().now_or_never().is_none());
    assert_eq!(world.position("orders", "billing").await, 2);
}

/// A message waits to be delivered again when a `commit_through` of a later one says that it is
/// done: it still comes.
#[tokio::test]
async fn what_was_committed_through_while_it_waits_to_come_again_does_not_come() {
    let world = world().await;
    world.fill("orders", 3).await;
    let after = Duration::from_secs(5);
    let build = world
        .flow
        .consumer("orders", "billing")
        .redeliver_after(after);
    let mut consumer = build.await.unwrap();
    drop(next(&mut consumer).await);
    let second = next(&mut consumer).await;
    next(&mut consumer).await.commit().await.unwrap();
    // Nobody polls: the first waits in the slot.
    world.pass(after * 2).await;
    second.commit_through().await.unwrap();
    assert_eq!(world.position("orders", "billing").await, 3);
    assert_eq!(take_all(&mut consumer, drop).await, 0);
}

/// The keeper dies with a driver that panics; commits that come later have nobody to write them.
#[tokio::test]
async fn a_driver_that_panics_in_a_commit_leaves_nobody_waiting() {
    let world = world().await;
    world.fill("orders", 3).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let first = next(&mut consumer).await;
    let second = next(&mut consumer).await;
    world.faulty.times(Call::Commit, Fault::Panic, 1);
    for delivery in [first, second] {
        let answer = soon("the commit's answer", delivery.commit()).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Closed);
    }
    let ended = soon("the error", consumer.next()).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Closed);
    assert!(soon("the end", consumer.next()).await.is_none());
}

/// A consumer forgot what it had read when the storage could not say whether that was still there.
#[tokio::test]
async fn a_loss_is_told_also_if_the_storage_fails_while_it_is_looked_for() {
    let world = world().await;
    for _ in 0..2 {
        world.fill("orders", 3).await;
    }
    let mut consumer = world
        .flow
        .consumer("orders", "billing")
        .lease(LEASE)
        .await
        .unwrap();
    let first = next(&mut consumer).await;
    // Its successor lacks the tail.
    let successor = memory(world.clock.clone());
    let there = Options::new().clock(world.clock.clone());
    let there = there.open_storage(successor.clone());
    fill(&there, "orders", 1).await;
    drop(there.consumer("orders", "billing").await.unwrap());
    world.faulty.fail_over(successor);
    world.faulty.times(Call::Read, Fault::Fail, 2);
    let fenced = soon("an answer", first.commit()).await.unwrap_err();
    assert!(fenced.is_fenced(), "{fenced}");
    let mut told = Vec::new();
    while told.last() != Some(&ErrorKind::Data) {
        let polled = consumer.next().now_or_never();
        match polled.flatten() {
            Some(Ok(delivery)) => panic!("before the loss is told: {delivery:?}"),
            Some(Err(error)) => told.push(error.kind()),
            None => world.pass(Duration::from_millis(100)).await,
        }
        assert!(world.clock.now() < LEASE, "the loss is told: {told:?}");
    }
    let unavailable = ErrorKind::Unavailable;
    assert_eq!(told, [unavailable, unavailable, ErrorKind::Data]);
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(next(&mut consumer).await.offset(), 0);
}

/// The answer of a commit got lost, and the storage was away for longer than the lease is trusted: the
/// error said that it was fenced, and nothing of a doubt, though the commit was durable.
#[tokio::test]
async fn a_commit_whose_answer_got_lost_is_in_doubt_when_its_lease_lapses() {
    let world = world_with(|options| options).await;
    world.fill("orders", 2).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let first = next(&mut consumer).await;
    world.faulty.set_all(Fault::Fail);
    world.faulty.times(Call::Commit, Fault::Lose, 1);
    let commit = tokio::spawn(first.commit());
    eventually("the commit", || world.faulty.count(Call::Commit) == 1).await;
    world.faulty.set(Call::Commit, Fault::Fail);
    world.pass(Duration::from_secs(40)).await;
    let error = soon("the answer", commit).await.unwrap().unwrap_err();
    assert!(error.is_fenced() && error.in_doubt(), "{error}");
    assert_eq!(
        world.position("orders", "billing").await,
        1,
        "it is durable"
    );
}

/// The same where another one took the lease over, and the second attempt is refused.
#[tokio::test]
async fn a_commit_that_is_refused_after_a_lost_answer_is_in_doubt() {
    let world = world_with(|options| options).await;
    world.fill("orders", 2).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    let first = next(&mut consumer).await;
    world.faulty.times(Call::Commit, Fault::Lose, 1);
    let commit = tokio::spawn(first.commit());
    eventually("the commit", || world.faulty.count(Call::Commit) == 1).await;
    world.take_over("orders", "billing").await;
    world.pass(Duration::from_secs(1)).await;
    let error = soon("the answer", commit).await.unwrap().unwrap_err();
    assert!(error.is_fenced() && error.in_doubt(), "{error}");
    // What was refused at once is not.
    let second = next(&mut consumer).now_or_never();
    assert!(second.is_none_or(|delivery| delivery.epoch() > 1));
}

/// A driver that panics in a call of the lane: the stream said `None`, as after a shutdown; and with
/// two partitions one of them was silent for ever.
#[tokio::test]
async fn a_stream_whose_driver_panics_ends_with_an_error() {
    for (call, partitions) in [
        (Call::Read, 1),
        (Call::Read, 2),
        (Call::Claim, 2),
        (Call::Observe, 1),
    ] {
        let world = world().await;
        world
            .flow
            .create_stream("orders", partitions)
            .await
            .unwrap();
        let messages = (0..20).map(|i| Message::new("m").with_key(i.to_string()));
        let mut producer = world.flow.producer("orders").await.unwrap();
        producer.append(messages.collect::<Batch>()).await.unwrap();
        world.faulty.times(call, Fault::Panic, 1);
        let builder = world.flow.consumer("orders", "billing");
        let mut consumer = builder.redeliver_after(Duration::ZERO).await.unwrap();
        let (mut errors, mut dropped) = (0, 0);
        while let Some(next) = soon("an answer", consumer.next()).await {
            match next {
                Ok(delivery) if dropped == 0 => {
                    dropped += 1;
                    drop(delivery);
                }
                Ok(delivery) => delivery.ack(),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Internal, "{call:?}: {error}");
                    errors += 1;
                }
            }
            quiet().await;
            world.clock.advance(Duration::from_millis(1));
        }
        assert_eq!(errors, 1, "{call:?}");
        soon("the end", consumer.control().shutdown()).await;
        // Another one goes on, without waiting for a lease.
        let mut second = world.flow.consumer("orders", "billing").await.unwrap();
        assert!(take_all(&mut second, Delivery::ack).await > 0, "{call:?}");
    }
}

/// Messages that were read ahead and never handed out counted as begun when their lease was lost.
#[tokio::test]
async fn what_was_not_handed_out_is_not_counted_when_the_own_lease_comes_back() {
    let world = world().await;
    world.fill("orders", 2).await;
    let builder = world.flow.consumer("orders", "billing").max_attempts(1);
    let mut consumer = builder.lease(LEASE).await.unwrap();
    let outage = async || {
        world.faulty.set_all(Fault::Fail);
        world.pass(LEASE * 2).await;
        world.faulty.heal();
    };
    let next = async |consumer: &mut flowstream::Consumer| {
        for _ in 0..100 {
            match consumer.next().now_or_never() {
                Some(next) => match next.unwrap() {
                    Ok(delivery) => return delivery,
                    Err(error) => assert!(error.is_transient(), "{error}"),
                },
                None => world.pass(LEASE / 100).await,
            }
        }
        panic!("nothing comes");
    };
    // They are read, and not handed out.
    assert!(consumer.next().now_or_never().is_none());
    quiet().await;
    outage().await;
    let first = next(&mut consumer).await;
    assert_eq!((first.offset(), first.attempt()), (0, 1));
    assert!(first.epoch() > 1, "the lease was lost");
    // What was handed out is.
    outage().await;
    assert_eq!(next(&mut consumer).await.offset(), 1);
    world.pass(LEASE / 10).await;
    assert_eq!(world.bodies("orders.billing.dead").await, ["0"]);
}

/// The storage is an older state of itself, with the same lease: the commits went on, and what the
/// group had not done there was skipped without a word.
#[tokio::test]
async fn a_commit_that_is_answered_with_less_than_was_done_is_told() {
    let world = world().await;
    world.fill("orders", 20).await;
    let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
    for _ in 0..9 {
        drop(next(&mut consumer).await);
    }
    next(&mut consumer).await.commit_through().await.unwrap();
    let after = next(&mut consumer).await;
    // A copy of before the commit: the same owner and epoch.
    let state = world.group("orders", "billing").await;
    let copy = memory(world.clock.clone());
    let older = Options::new().clock(world.clock.clone());
    let older = older.open_storage(copy.clone());
    fill(&older, "orders", 20).await;
    drop(older.consumer("orders", "billing").await.unwrap());
    let group = Group {
        partition: Partition {
            stream: Name::new("orders").unwrap(),
            index: 0,
        },
        name: Name::new("billing").unwrap(),
    };
    let owner = state.owner.unwrap();
    let over = None;
    let claimed = copy.claim(Claim { group, owner, over }).await.unwrap();
    assert_eq!((claimed.owner, claimed.epoch), (Some(owner), state.epoch));
    world.faulty.fail_over(copy);
    after.commit().await.unwrap();
    let error = soon("the loss", consumer.next()).await.unwrap();
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    world.pass(Duration::from_secs(1)).await;
    let mut offsets = Vec::new();
    take_all(&mut consumer, |delivery| {
        offsets.push(delivery.offset());
        delivery.ack();
    })
    .await;
    let left: Vec<u64> = (0..20).filter(|offset| *offset != 10).collect();
    assert_eq!(offsets, left, "all that is not done there");
}

/// A waker is somebody else's code: its drop shut the consumer down, under the lock that it needs.
#[tokio::test]
async fn a_waker_whose_drop_shuts_the_consumer_down_blocks_nobody() {
    struct Ends(flowstream::Control);

    impl futures::task::ArcWake for Ends {
        fn wake_by_ref(_: &std::sync::Arc<Self>) {}
    }

    impl Drop for Ends {
        fn drop(&mut self) {
            drop(self.0.shutdown());
        }
    }

    let done = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let world = world().await;
            let mut consumer = world.flow.consumer("orders", "billing").await.unwrap();
            let waker = || futures::task::waker(std::sync::Arc::new(Ends(consumer.control())));
            let (first, second) = (waker(), waker());
            for waker in [first, second] {
                let mut next = Box::pin(consumer.next());
                let mut cx = std::task::Context::from_waker(&waker);
                let _ = next.as_mut().poll(&mut cx);
                drop(waker);
            }
            assert!(consumer.next().await.is_none());
        });
    });
    soon("its end", async {
        while !done.is_finished() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    done.join().unwrap();
}
