//! What a producer keeps, reports and gives back when the storage fails.

mod support;

use std::time::Duration;

use flowstream::{Batch, ErrorKind, Message};
use futures::SinkExt;
use support::*;
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok};

#[tokio::test]
async fn an_invalid_message_comes_back_and_nothing_is_written() {
    let world = world_with(|options| options.max_message_bytes(10)).await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    producer.feed("before".into()).await.unwrap();
    let error = producer.send("x".repeat(11).into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!error.in_doubt());
    let refused = producer.take_refused().unwrap();
    assert_eq!(refused.body().len(), 11);
    assert!(producer.take_refused().is_none());
    let error = producer.append(refused).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.unsent.len(), 1);
    assert_eq!(world.faulty.count(Call::Append), 0);
    producer.send("after".into()).await.unwrap();
    assert_eq!(world.bodies("orders").await, ["before", "after"]);
}

#[tokio::test]
async fn each_budget_is_reported_once_and_the_next_poll_starts_another() {
    let budget = Duration::from_secs(10);
    let world = world_with(|options| options.retry_for(budget)).await;
    let mut sink = spawn(world.flow.producer("orders").await.unwrap());
    world.faulty.set(Call::Append, Fault::Fail);
    sink.enter(|_, sink| futures::Sink::start_send(sink, "0".into()))
        .unwrap();
    for round in 0..3 {
        assert_pending!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
        quiet().await;
        assert!(!sink.is_woken(), "round {round}");
        let before = world.faulty.count(Call::Append);
        world.pass_in(budget, 100).await;
        assert!(sink.is_woken());
        assert!(
            world.faulty.count(Call::Append) > before + 3,
            "it was tried again"
        );
        let error = assert_ready!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
        assert!(error.unwrap_err().is_transient());
        let calls = world.faulty.count(Call::Append);
        world.pass_in(budget, 10).await;
        assert_eq!(
            world.faulty.count(Call::Append),
            calls,
            "nobody polls: nothing is tried"
        );
    }
    assert_pending!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
    world.faulty.heal();
    world.pass(Duration::from_secs(1)).await;
    assert_ready_ok!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
    assert_eq!(world.bodies("orders").await, ["0"]);
}

#[tokio::test]
async fn what_failed_is_given_back_in_order() {
    for (fault, in_doubt) in [(Fault::Fail, false), (Fault::Doubt, true)] {
        let world = world().await;
        let mut producer = world
            .flow
            .producer("orders")
            .batch_messages(2)
            .await
            .unwrap();
        world.faulty.set(Call::Append, fault);
        for body in numbers(5) {
            // The message is taken, whatever this says.
            let _ = producer.feed(body.into()).await;
        }
        producer.flush().await.expect_err("a failure");
        let batches = producer.take_unsent().await;
        let doubts: Vec<bool> = batches.iter().map(|batch| batch.in_doubt()).collect();
        assert_eq!(doubts, [in_doubt, in_doubt, false]);
        let bodies = batches.iter().flat_map(|batch| batch.messages()).map(text);
        assert_eq!(bodies.collect::<Vec<_>>(), numbers(5));
        assert!(producer.take_unsent().await.is_empty());
        world.faulty.heal();
        for batch in batches {
            producer.append(batch).await.unwrap();
        }
        assert_eq!(world.bodies("orders").await, numbers(5));
    }
}

/// Whether the first attempt landed, did not, or lands later.
const DOUBTS: [Fault; 3] = [Fault::Lose, Fault::Doubt, Fault::Late];

#[tokio::test]
async fn a_batch_in_doubt_is_never_doubled_by_append() {
    for fault in DOUBTS {
        let world = world().await;
        let mut producer = world.flow.producer("orders").await.unwrap();
        world.faulty.times(Call::Append, fault, 1);
        let batch = [Message::new("0"), Message::new("1")];
        let error = producer.append(batch).await.unwrap_err();
        assert!(error.in_doubt() && error.is_transient());
        let batch = error.unsent;
        assert!(batch.in_doubt());
        // Others write meanwhile, and finding out fails once as well.
        producer.append(Message::new("other")).await.unwrap();
        world.faulty.times(Call::Settle, Fault::Lose, 1);
        let error = producer.append(batch).await.unwrap_err();
        assert!(error.in_doubt());
        let batch = error.unsent;
        assert!(batch.in_doubt());
        let appended = producer.append(batch).await.unwrap();
        world.faulty.heal();
        quiet().await;
        let offsets = appended.offsets()[0].offsets.clone();
        let bodies = world.bodies("orders").await;
        assert_eq!(bodies.len(), 3, "{fault:?}: {bodies:?}");
        assert_eq!(
            bodies[offsets.start as usize..offsets.end as usize],
            ["0", "1"]
        );
    }
}

/// Without a key each statement goes to another partition: the retry must not.
#[tokio::test]
async fn a_batch_in_doubt_is_looked_for_where_it_was_sent() {
    for fault in DOUBTS {
        let world = world().await;
        world.flow.create_stream("orders", 4).await.unwrap();
        let mut producer = world.flow.producer("orders").await.unwrap();
        world.faulty.times(Call::Append, fault, 1);
        let error = producer.append(Message::new("0")).await.unwrap_err();
        let batch = error.unsent;
        for _ in 0..3 {
            producer.append(Message::new("other")).await.unwrap();
        }
        let appended = producer.append(batch).await.unwrap();
        world.faulty.heal();
        quiet().await;
        let mut found = Vec::new();
        for partition in 0..4 {
            let page = world.flow.read("orders", partition, 0).await.unwrap();
            let ours = page
                .into_iter()
                .filter(|(_, message)| message.body() == "0");
            found.extend(ours.map(|(offset, _)| (partition, offset)));
        }
        let row = &appended.offsets()[0];
        assert_eq!(found, [(row.partition, row.offsets.start)], "{fault:?}");
    }
}

#[tokio::test]
async fn a_batch_in_doubt_is_never_doubled_by_the_sink() {
    for fault in DOUBTS {
        let world = world().await;
        let mut producer = world.flow.producer("orders").await.unwrap();
        world.faulty.times(Call::Append, fault, 1);
        assert!(producer.send("0".into()).await.unwrap_err().in_doubt());
        producer.feed("1".into()).await.unwrap();
        producer.flush().await.unwrap();
        world.faulty.heal();
        quiet().await;
        assert_eq!(world.bodies("orders").await, ["0", "1"], "{fault:?}");
    }
}

#[tokio::test]
async fn a_lost_answer_within_the_budget_is_settled_inside() {
    for fault in [Fault::Lose, Fault::Doubt, Fault::Fail] {
        let world = world_with(|options| options).await;
        let mut producer = world.flow.producer("orders").await.unwrap();
        world.faulty.times(Call::Append, fault, 3);
        let sending = tokio::spawn(async move { producer.send("0".into()).await });
        quiet().await;
        world.pass(Duration::from_secs(1)).await;
        soon("the send", sending).await.unwrap().unwrap();
        assert_eq!(world.bodies("orders").await, ["0"], "{fault:?}");
    }
}

#[tokio::test]
async fn many_producers_in_one_doubtful_write_are_each_settled() {
    for fault in DOUBTS {
        let world = world().await;
        let producer = world.flow.producer("orders").await.unwrap();
        // The first occupies the storage, so that the others share the next write.
        world.faulty.times(Call::Append, Fault::Hold, 1);
        let mut first = producer.clone();
        let first = tokio::spawn(async move { first.send("first".into()).await });
        eventually("the first", || world.faulty.held() == 1).await;
        let others: Vec<_> = numbers(20)
            .into_iter()
            .map(|body| {
                let mut producer = producer.clone();
                tokio::spawn(async move {
                    let error = producer.send(body.into()).await.unwrap_err();
                    assert!(error.in_doubt());
                    producer.flush().await.unwrap();
                })
            })
            .collect();
        quiet().await;
        world.faulty.times(Call::Append, fault, 1);
        world.faulty.let_go();
        first.await.unwrap().unwrap();
        for other in others {
            soon("the send", other).await.unwrap();
        }
        world.faulty.heal();
        quiet().await;
        let mut bodies = world.bodies("orders").await;
        bodies.sort_by_key(|body| body.parse().unwrap_or(0));
        assert_eq!(bodies.len(), 21, "{fault:?}");
        bodies.retain(|body| body != "first");
        assert_eq!(bodies, numbers(20));
    }
}

#[tokio::test]
async fn an_error_that_is_not_transient_is_reported_at_once_and_keeps_the_messages() {
    let world = world_with(|options| options).await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    world
        .faulty
        .times(Call::Append, Fault::Break(ErrorKind::Data), 1);
    let error = producer.send("0".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    producer.send("1".into()).await.unwrap();
    assert_eq!(world.bodies("orders").await, ["0", "1"]);
}

#[tokio::test]
async fn what_is_in_flight_when_the_producer_goes_is_written_and_what_fills_is_not() {
    let world = world().await;
    world.faulty.set(Call::Append, Fault::Hold);
    let mut producer = world
        .flow
        .producer("orders")
        .batch_messages(2)
        .await
        .unwrap();
    for body in numbers(3) {
        producer.feed(body.into()).await.unwrap();
    }
    drop(producer);
    eventually("the write", || world.faulty.held() == 1).await;
    world.faulty.heal();
    quiet().await;
    assert_eq!(world.bodies("orders").await, ["0", "1"]);
}

/// The first attempt may have been written, whatever the later ones say.
#[tokio::test]
async fn doubt_of_an_earlier_attempt_outlives_a_later_one() {
    let budget = Duration::from_secs(10);
    let world = world_with(|options| options.retry_for(budget)).await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    world.faulty.times(Call::Append, Fault::Late, 1);
    let mut appending = spawn(producer.append(Message::new("0")));
    assert_pending!(appending.poll());
    quiet().await;
    world.faulty.set(Call::Append, Fault::Fail);
    world.pass(budget * 2).await;
    let error = assert_ready!(appending.poll()).unwrap_err();
    drop(appending);
    assert!(error.in_doubt());
    // It lands, and is not doubled.
    world.faulty.heal();
    quiet().await;
    let batch = error.unsent;
    assert!(batch.in_doubt());
    producer.append(batch).await.unwrap();
    assert_eq!(world.bodies("orders").await, ["0"]);
}

/// Both share a write, and the stream of one is gone.
#[tokio::test]
async fn a_stream_that_is_gone_fails_nobody_elses_batch_and_is_made_again() {
    let world = world().await;
    let mut first = world.flow.producer("there").await.unwrap();
    let mut gone = world.flow.producer("gone").await.unwrap();
    let mut there = world.flow.producer("there").await.unwrap();
    world.faulty.times(Call::Append, Fault::Hold, 1);
    let first = tokio::spawn(async move { first.append(Message::new("0")).await });
    eventually("the first", || world.faulty.held() == 1).await;
    let gone = tokio::spawn(async move {
        let error = gone.append(Message::new("1")).await.unwrap_err();
        (error, gone)
    });
    let there = tokio::spawn(async move { there.append(Message::new("2")).await });
    quiet().await;
    // The write of both, and then that of the first of them alone.
    let is_gone = Fault::Break(ErrorKind::NotFound);
    world.faulty.times(Call::Append, is_gone, 2);
    world.faulty.let_go();
    soon("the first", first).await.unwrap().unwrap();
    soon("what is there", there).await.unwrap().unwrap();
    let (error, mut gone) = soon("what is gone", gone).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(world.bodies("there").await, ["0", "2"]);
    assert_eq!(world.faulty.count(Call::Append), 4);

    let created = world.faulty.count(Call::CreateStream);
    gone.append(error.unsent).await.unwrap();
    gone.append(Message::new("3")).await.unwrap();
    assert_eq!(world.faulty.count(Call::CreateStream), created + 1);
    assert_eq!(world.bodies("gone").await, ["1", "3"]);
}

#[tokio::test]
async fn a_storage_is_closed_after_what_is_under_way() {
    let world = world().await;
    let mut producer = world.flow.producer("orders").await.unwrap();
    world.faulty.times(Call::Append, Fault::Hold, 1);
    let appending = tokio::spawn(async move { producer.append(Message::new("0")).await });
    eventually("the append", || world.faulty.held() == 1).await;
    let mut closing = Box::pin(world.flow.close());
    assert!(stays_pending(&mut closing).await);
    world.faulty.let_go();
    soon("the close", closing).await.unwrap();
    soon("the append", appending).await.unwrap().unwrap();
}

/// A bug of the driver, in each call that an append may need: the messages come back.
#[tokio::test]
async fn a_driver_that_panics_loses_nothing() {
    for call in [Call::CreateStream, Call::Append, Call::Settle] {
        let world = world().await;
        let mut producer = world.flow.producer("orders").await.unwrap();
        let mut batch = Batch::from(Message::new("0").with_stream("new").unwrap());
        if call == Call::Settle {
            world.faulty.times(Call::Append, Fault::Doubt, 1);
            batch = producer.append(batch).await.unwrap_err().unsent;
        }
        world.faulty.times(call, Fault::Panic, 1);
        let error = soon("an answer", producer.append(batch)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{call:?}: {error}");
        assert!(error.to_string().contains("panicked"), "{error}");
        assert_eq!(error.in_doubt(), call != Call::CreateStream, "{call:?}");
        let (error, batch) = (error.error, error.unsent);
        assert_eq!((batch.len(), batch.in_doubt()), (1, error.in_doubt()));
        soon("the same again", producer.append(batch))
            .await
            .unwrap();
        assert_eq!(world.bodies("new").await, ["0"], "{call:?}");
    }
}

#[tokio::test]
async fn a_sink_keeps_its_messages_when_the_driver_panics() {
    for call in [Call::CreateStream, Call::Append, Call::Settle] {
        for takes_back in [false, true] {
            let world = world().await;
            let mut producer = world.flow.producer("orders").await.unwrap();
            let message = Message::new("0").with_stream("new").unwrap();
            if call == Call::Settle {
                world.faulty.times(Call::Append, Fault::Doubt, 1);
                producer.send(message).await.unwrap_err();
            } else {
                producer.feed(message).await.unwrap();
            }
            world.faulty.times(call, Fault::Panic, 1);
            let error = soon("an answer", producer.flush()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Internal, "{call:?}: {error}");
            if takes_back {
                let batches = producer.take_unsent().await;
                assert_eq!(batches.len(), 1, "{call:?}");
                for batch in batches {
                    producer.append(batch).await.unwrap();
                }
            }
            soon("the same again", producer.flush()).await.unwrap();
            assert_eq!(world.bodies("new").await, ["0"], "{call:?}");
        }
    }
}

/// They wait behind the call that panics, or beside it.
#[tokio::test]
async fn a_driver_that_panics_fails_nobody_elses_batch() {
    for call in [Call::CreateStream, Call::Append] {
        let world = world().await;
        let producer = world.flow.producer("orders").await.unwrap();
        world.faulty.times(call, Fault::Panic, 1);
        let sends = (0..20).map(|number| {
            let mut producer = producer.clone();
            async move {
                let message = Message::new(number.to_string());
                let first = message.clone().with_stream("new").unwrap();
                let message = if number == 0 { first } else { message };
                let batch = Batch::from(message);
                // The first gets into a statement of its own.
                for _ in 0..number.min(1) {
                    quiet_once().await;
                }
                producer.append(batch).await
            }
        });
        let answers = soon("answers", futures::future::join_all(sends)).await;
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        assert_eq!(failed, 1, "{call:?}");
    }
}

async fn quiet_once() {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

/// One failed, and the one behind it is not answered yet: what is taken back is all, in order.
#[tokio::test]
async fn all_is_given_back_in_order_while_the_last_is_not_answered() {
    let world = world_with(|options| options).await;
    world.faulty.deepen(2);
    let builder = world.flow.producer("orders").batch_messages(2);
    let mut producer = builder.await.unwrap();
    world.faulty.times(Call::Append, Fault::Fail, 1);
    for body in numbers(5) {
        producer.feed(body.into()).await.unwrap();
        quiet().await;
    }
    // The next attempt of the first breaks; the second is settled then, and that takes its time.
    let broken = Fault::Break(ErrorKind::Data);
    world.faulty.times(Call::Append, broken, 1);
    world.faulty.set(Call::Settle, Fault::Hold);
    let mut flushing = Box::pin(producer.flush());
    assert!(stays_pending(&mut flushing).await);
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(world.faulty.held(), 1);
    assert!(stays_pending(&mut flushing).await);
    drop(flushing);
    let mut taking = Box::pin(producer.take_unsent());
    assert!(stays_pending(&mut taking).await, "one is not answered yet");
    drop(taking);
    world.faulty.heal();
    let batches = soon("what comes back", producer.take_unsent()).await;
    let bodies = batches.iter().flat_map(|batch| batch.messages()).map(text);
    assert_eq!(bodies.collect::<Vec<_>>(), numbers(5));
    for batch in batches {
        producer.append(batch).await.unwrap();
    }
    assert_eq!(world.bodies("orders").await, numbers(5));
}
