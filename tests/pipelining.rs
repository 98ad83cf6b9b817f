//! Two appends of one producer under way at once: their order holds whatever happens to either.

mod support;

use std::time::Duration;

use flowstream::{ErrorKind, Message, Producer};
use futures::SinkExt;
use support::*;
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok};

const BUDGET: Duration = Duration::from_secs(10);

/// Retries last, and two appends may be under way.
async fn deep() -> World {
    let world = world_with(|options| options.retry_for(BUDGET)).await;
    world.faulty.deepen(2);
    world
}

/// A producer whose batches have two messages.
async fn pairs(world: &World) -> Producer {
    let producer = world.flow.producer("orders").batch_messages(2);
    producer.await.unwrap()
}

/// Gives messages to the sink, which has room for them; each batch leaves before the next is full.
async fn give(sink: &mut Spawn<Producer>, bodies: &[&str]) {
    for body in bodies {
        quiet().await;
        let message = Message::new(body.to_string());
        assert_ready_ok!(sink.enter(|cx, sink| futures::Sink::poll_ready(sink, cx)));
        sink.enter(|_, sink| futures::Sink::start_send(sink, message))
            .unwrap();
    }
}

async fn flush(sink: &mut Spawn<Producer>) -> flowstream::Result<()> {
    soon("a flush", SinkExt::flush(&mut **sink)).await
}

#[tokio::test]
async fn the_second_batch_leaves_while_the_first_is_under_way() {
    let world = deep().await;
    let mut sink = spawn(pairs(&world).await);
    world.faulty.set(Call::Append, Fault::Hold);
    give(&mut sink, &["0", "1", "2", "3", "4", "5"]).await;
    quiet().await;
    assert_eq!(world.faulty.held(), 2, "two are under way, and no third");
    assert_pending!(sink.enter(|cx, sink| futures::Sink::poll_ready(sink, cx)));
    world.faulty.heal();
    quiet().await;
    assert!(sink.is_woken());
    assert_ready_ok!(sink.enter(|cx, sink| futures::Sink::poll_ready(sink, cx)));
    flush(&mut sink).await.expect("all written");
    assert_eq!(world.bodies("orders").await, numbers(6));
}

#[tokio::test]
async fn the_second_waits_for_the_first_that_is_tried_again() {
    for (fault, times) in [(Fault::Fail, 3), (Fault::Lose, 1), (Fault::Doubt, 1)] {
        let world = deep().await;
        let mut sink = spawn(pairs(&world).await);
        world.faulty.times(Call::Append, fault, times);
        give(&mut sink, &["0", "1", "2", "3", "4"]).await;
        assert_pending!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
        world.pass_in(BUDGET, 100).await;
        flush(&mut sink).await.expect("all written");
        assert_eq!(world.bodies("orders").await, numbers(5), "{fault:?}");
        let looks = world.faulty.count(Call::Settle);
        assert_eq!(looks, 0, "{fault:?}: it knew that the first was written");
    }
}

/// The first is broken, so no budget is waited for; the second would have been written.
#[tokio::test]
async fn none_is_written_behind_one_that_failed() {
    let world = deep().await;
    let mut sink = spawn(pairs(&world).await);
    world
        .faulty
        .times(Call::Append, Fault::Break(ErrorKind::Data), 1);
    give(&mut sink, &["0", "1", "2", "3", "4"]).await;
    let error = flush(&mut sink).await.expect_err("the first one failed");
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(world.bodies("orders").await.is_empty());
    flush(&mut sink).await.expect("the error was told");
    assert_eq!(world.bodies("orders").await, numbers(5));
}

#[tokio::test]
async fn what_failed_and_what_was_behind_it_come_back_in_order() {
    for (fault, in_doubt) in [(Fault::Fail, false), (Fault::Doubt, true)] {
        let world = deep().await;
        let mut sink = spawn(pairs(&world).await);
        world.faulty.set(Call::Append, fault);
        give(&mut sink, &["0", "1", "2", "3", "4"]).await;
        assert_pending!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
        world.pass_in(BUDGET * 2, 100).await;
        let error = assert_ready!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
        assert_eq!(error.unwrap_err().in_doubt(), in_doubt);
        let batches = sink.take_unsent().await;
        let sizes: Vec<usize> = batches.iter().map(|batch| batch.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
        let bodies = batches.iter().flat_map(|batch| batch.messages()).map(text);
        assert_eq!(bodies.collect::<Vec<_>>(), numbers(5));
        world.faulty.heal();
        let mut producer = sink.into_inner();
        for batch in batches {
            producer.append(batch).await.unwrap();
        }
        assert_eq!(world.bodies("orders").await, numbers(5));
    }
}

/// Both attempts are still on their way when their batches are taken back and given again.
#[tokio::test]
async fn what_lands_late_doubles_nothing() {
    let world = deep().await;
    let mut sink = spawn(pairs(&world).await);
    world.faulty.set(Call::Append, Fault::Late);
    give(&mut sink, &["0", "1", "2", "3"]).await;
    assert_pending!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
    world.pass_in(BUDGET * 2, 100).await;
    let error = assert_ready!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
    assert!(error.unwrap_err().in_doubt());
    let mut producer = sink.into_inner();
    let batches = producer.take_unsent().await;
    assert!(batches.iter().all(|batch| batch.in_doubt()));
    world.faulty.clear(Call::Append);
    for batch in batches {
        producer.append(batch).await.unwrap();
    }
    world.faulty.heal();
    quiet().await;
    producer.send("4".into()).await.unwrap();
    assert_eq!(world.bodies("orders").await, numbers(5));
}

/// The first fails for certain; of the second, an attempt is still on its way. It is given again
/// with what another producer added, and the late attempt must not land.
#[tokio::test]
async fn a_second_that_lands_late_does_not_outlive_the_first() {
    let world = deep().await;
    let mut sink = spawn(pairs(&world).await);
    world.faulty.set(Call::Append, Fault::Hold);
    give(&mut sink, &["0", "1"]).await;
    quiet().await;
    assert_eq!(world.faulty.held(), 1);
    world.faulty.times(Call::Append, Fault::Late, 1);
    give(&mut sink, &["2", "3"]).await;
    let mut other = world.flow.producer("orders").await.unwrap();
    other.feed("other".into()).await.unwrap();
    let mut sending = spawn(other.send("other".into()));
    assert_pending!(sending.poll());
    quiet().await;
    assert_eq!(world.faulty.held(), 2);
    world.faulty.heal();
    world.pass(BUDGET).await;
    assert_ready_ok!(sink.enter(|cx, sink| futures::Sink::poll_flush(sink, cx)));
    assert_ready_ok!(sending.poll());
    let bodies = world.bodies("orders").await;
    assert_eq!(bodies.len(), 6, "{bodies:?}");
    let own: Vec<_> = bodies.iter().filter(|body| *body != "other").collect();
    assert_eq!(own, ["0", "1", "2", "3"]);
}

#[tokio::test]
async fn the_batches_of_others_do_not_fail_with_the_first() {
    let world = deep().await;
    let mut sink = spawn(pairs(&world).await);
    world.faulty.set(Call::Append, Fault::Hold);
    give(&mut sink, &["0", "1"]).await;
    quiet().await;
    // What the first waits for fails; the second has a batch of this producer and one of another.
    let mut other = world.flow.producer("orders").await.unwrap();
    let mut sending = spawn(other.send("other".into()));
    assert_pending!(sending.poll());
    give(&mut sink, &["2", "3"]).await;
    world
        .faulty
        .set(Call::Append, Fault::Break(ErrorKind::Data));
    world.faulty.let_go();
    quiet().await;
    world.faulty.heal();
    eventually("the other is done", || sending.is_woken()).await;
    let failed = flush(&mut sink).await.expect_err("the first one failed");
    assert_eq!(failed.kind(), ErrorKind::Data);
    flush(&mut sink).await.expect("the error was told");
    let bodies = world.bodies("orders").await;
    let own: Vec<_> = bodies.iter().filter(|body| *body != "other").collect();
    assert_eq!(own, ["0", "1", "2", "3"], "{bodies:?}");
}

#[tokio::test]
async fn an_append_goes_behind_all_that_is_under_way() {
    let world = deep().await;
    let mut producer = pairs(&world).await;
    world.faulty.times(Call::Append, Fault::Fail, 2);
    for body in ["0", "1", "2", "3", "4"] {
        producer.feed(body.into()).await.unwrap();
    }
    let mut appending = spawn(producer.append(Message::new("5")));
    assert_pending!(appending.poll());
    world.pass_in(BUDGET, 100).await;
    soon("the append", appending).await.expect("all written");
    assert_eq!(world.bodies("orders").await, numbers(6));
}

/// The runtime ends that the appends run on, with two of them under way.
#[test]
fn batches_keep_their_order_from_one_runtime_to_the_next() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let (world, mut sink) = first.block_on(async {
        let world = deep().await;
        let mut sink = spawn(pairs(&world).await);
        world.faulty.set(Call::Append, Fault::Hold);
        give(&mut sink, &["0", "1", "2", "3", "4"]).await;
        quiet().await;
        assert_eq!(world.faulty.held(), 2);
        (world, sink)
    });
    drop(first);
    second.block_on(async {
        world.faulty.heal();
        give(&mut sink, &["5"]).await;
        flush(&mut sink).await.expect("the other runtime goes on");
        assert_eq!(world.bodies("orders").await, numbers(6));
    });
}

/// Each of many producers has one message: they are better written together than one behind the other.
#[tokio::test]
async fn single_messages_gather_until_the_write_before_has_landed() {
    let world = deep().await;
    world.faulty.set(Call::Append, Fault::Hold);
    let producer = world.flow.producer("orders").await.unwrap();
    let mut sending = Vec::new();
    for body in numbers(4) {
        let mut producer = producer.clone();
        sending.push(tokio::spawn(
            async move { producer.send(body.into()).await },
        ));
        quiet().await;
    }
    assert_eq!(world.faulty.held(), 1);
    world.faulty.heal();
    for sending in sending {
        soon("a send", sending).await.unwrap().unwrap();
    }
    assert_eq!(world.faulty.count(Call::Append), 2);
    assert_eq!(world.bodies("orders").await, numbers(4));
}

/// Both are handed in before the first leaves.
#[tokio::test]
async fn long_batches_of_one_producer_go_one_behind_the_other_and_all_others_together() {
    for (depth, bytes, is_one_producer, writes) in [
        (2, 100 << 10, true, 2),
        (2, 100, true, 1),
        (2, 100 << 10, false, 1),
        (1, 100 << 10, true, 1),
    ] {
        let world = world().await;
        world.faulty.deepen(depth);
        let mut one = pairs(&world).await;
        let mut other = one.clone();
        for at in 0..4 {
            let producer = match at < 2 || is_one_producer {
                true => &mut one,
                false => &mut other,
            };
            let fed = producer.feed(Message::new(vec![7; bytes / 2]));
            futures::FutureExt::now_or_never(fed).unwrap().unwrap();
        }
        soon("a flush", one.flush()).await.unwrap();
        soon("a flush", other.flush()).await.unwrap();
        let case = (depth, bytes, is_one_producer);
        assert_eq!(world.faulty.count(Call::Append), writes, "{case:?}");
        assert_eq!(world.bodies("orders").await.len(), 4);
    }
}

/// The second was handed in while the first was tried again, and the first fails in the end.
#[tokio::test]
async fn none_that_gathered_behind_one_that_failed_is_written() {
    let world = world_with(|options| options.retry_for(BUDGET)).await;
    let mut sink = spawn(pairs(&world).await);
    world.faulty.times(Call::Append, Fault::Fail, 1);
    give(&mut sink, &["0", "1", "2", "3"]).await;
    quiet().await;
    let broken = Fault::Break(ErrorKind::Data);
    world.faulty.times(Call::Append, broken, 1);
    world.pass(BUDGET).await;
    assert!(world.bodies("orders").await.is_empty());
    let error = flush(&mut sink).await.expect_err("the first one failed");
    assert_eq!(error.kind(), ErrorKind::Data);
    flush(&mut sink).await.expect("the error was told");
    assert_eq!(world.bodies("orders").await, numbers(4));
}
