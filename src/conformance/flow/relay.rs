//! From a consumer into a producer: the output and the position are written as one.

use std::sync::Arc;

use super::rig::{Rig, partition};
use super::sink::{Forward, feed, flush, send};
use crate::conformance::Harness;
use crate::message::Message;
use crate::storage::{MemoryStorage, Progress};

pub(crate) async fn a_relayed_message_is_written_once(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("in", 0..150).await;
    let consumer = rig.takes("in", "relay").await;
    let control = consumer.control();
    let relay = tokio::spawn(Forward::new(consumer, rig.makes("out").await));
    rig.fill("in", 150..300).await;
    let out = partition("out");
    let all = || async { rig.subject.range(&out).await.end >= 300 };
    rig.subject.eventually("all is relayed", all).await;
    rig.shut_down(&control).await;
    let ended = rig.subject.within("a pipeline ends", relay).await;
    ended.expect("a task").expect("a clean end");
    let numbers = rig.numbers("out").await;
    assert!(numbers.into_iter().eq(0..300), "each once, in order");
    let state = rig.state("in", "relay").await;
    assert_eq!((state.progress, state.owner), (Progress::at(300), None));
}

pub(crate) async fn a_relayed_message_is_as_it_was(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let message = Message::new("a").with_key("k").with_header("h", "v");
    let message = message.expect("a header");
    let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7);
    let sent = send(&mut rig.makes("in").await, message.with_timestamp(at)).await;
    sent.expect("a send");
    let mut consumer = rig.takes("in", "relay").await;
    let message = rig.next(&mut consumer).await.into_message();
    assert_eq!(message.stream(), None, "or it would go back to its source");
    // A copy carries the data only.
    let copy = message.clone();
    let mut producer = rig.makes("out").await;
    send(&mut producer, copy).await.expect("a send");
    let state = rig.state("in", "relay").await;
    assert_eq!(state.progress, Progress::at(0), "a commit has one owner");
    send(&mut producer, message).await.expect("a send");
    let state = rig.state("in", "relay").await;
    assert_eq!(state.progress, Progress::at(1));
    let mut consumer = rig.takes("out", "reader").await;
    for _ in 0..2 {
        let relayed = rig.next(&mut consumer).await;
        assert_eq!(relayed.body(), "a");
        assert_eq!(relayed.key().map(|key| &key[..]), Some(&b"k"[..]));
        assert_eq!(relayed.headers().get("h"), Some(&b"v"[..]));
        assert_eq!(relayed.timestamp(), at);
    }
}

pub(crate) async fn many_inputs_may_become_one_output(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("in", 0..9).await;
    rig.fill("more", 0..3).await;
    let mut consumer = rig.takes("in", "relay").await;
    let mut more = rig.takes("more", "relay").await;
    let mut producer = rig.makes("out").await;
    for round in 0..3 {
        let mut sum = 0;
        let mut commits = Vec::new();
        let mut inputs = rig.expect(&mut consumer, round * 3..round * 3 + 3).await;
        inputs.extend(rig.expect(&mut more, round..round + 1).await);
        for input in inputs {
            let (message, commit) = input.into_parts();
            sum += super::rig::number_of(message.body());
            commits.push(commit);
        }
        let mut output = Message::new(sum.to_string());
        commits.into_iter().for_each(|commit| output.attach(commit));
        match round {
            0 => drop(producer.append(output).await.expect("an append")),
            _ => send(&mut producer, output).await.expect("a send"),
        }
        let state = rig.state("in", "relay").await;
        assert_eq!(state.progress, Progress::at(round * 3 + 3));
        let state = rig.state("more", "relay").await;
        assert_eq!(state.progress, Progress::at(round + 1));
    }
    assert_eq!(rig.numbers("out").await, [3, 13, 23]);
}

pub(crate) async fn one_input_may_become_many_outputs(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("in", 0..4).await;
    let mut consumer = rig.takes("in", "relay").await;
    let mut producer = rig.makes("out").await;
    for delivery in rig.expect(&mut consumer, 0..3).await {
        let offset = delivery.offset();
        let outputs = vec![
            Message::new(offset.to_string()),
            Message::new("copy").with_stream("audit").expect("a name"),
            delivery.into_message(),
        ];
        producer.append(outputs).await.expect("an append");
        let state = rig.state("in", "relay").await;
        assert_eq!(state.progress, Progress::at(offset + 1));
    }
    assert_eq!(rig.text("out").await, "0 0 1 1 2 2");
    assert_eq!(rig.text("audit").await, "copy copy copy");

    // One whose lease was lost writes nothing of it, and gives it back.
    let held = rig.expect(&mut consumer, 3..4).await.remove(0);
    rig.takes_over("in", "relay").await;
    let outputs = [Message::new("late"), held.into_message()];
    let refused = producer.append(outputs).await;
    let refused = refused.expect_err("an append of a former owner");
    assert!(refused.is_fenced(), "{refused}");
    assert_eq!(refused.unsent.len(), 2);
    assert_eq!(rig.text("out").await, "0 0 1 1 2 2");
    let state = rig.state("in", "relay").await;
    assert_eq!(state.progress, Progress::at(3));
}

pub(crate) async fn what_was_fenced_is_not_relayed(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("lost", 0..3).await;
    rig.fill("kept", 0..3).await;
    let mut lost = rig.takes("lost", "relay").await;
    let mut kept = rig.takes("kept", "relay").await;
    let mut producer = rig.makes("out").await;
    let pairs = rig.expect(&mut lost, 0..3).await.into_iter();
    let pairs: Vec<_> = pairs.zip(rig.expect(&mut kept, 0..3).await).collect();
    let lease = rig.takes_over("lost", "relay").await;
    for (lost, kept) in pairs {
        let (message, commit) = kept.into_parts();
        let body = format!("{}", 10 + super::rig::number_of(message.body()));
        let mut message = message.with_body(body);
        message.attach(commit);
        for message in [lost.into_message(), message, Message::new("99")] {
            feed(&mut producer, message).await.expect("taken");
        }
    }
    flush(&mut producer).await.expect("the others do not fail");
    assert_eq!(rig.numbers("out").await, [10, 99, 11, 99, 12, 99]);
    let state = rig.state("kept", "relay").await;
    assert_eq!(state.progress, Progress::at(3));
    let state = rig.state("lost", "relay").await;
    assert_eq!(state.progress, Progress::at(0), "the new owner gets them");
    rig.subject.released(&lease).await;
    let forward = Forward::new(lost, producer);
    let relay = tokio::spawn(forward);
    let out = partition("out");
    let all = || async { rig.subject.range(&out).await.end >= 9 };
    rig.subject.eventually("the rest is relayed", all).await;
    assert_eq!(rig.numbers("out").await[6..], [0, 1, 2]);
    relay.abort();
}

pub(crate) async fn between_storages_nothing_is_lost(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let memory = MemoryStorage::new(rig.subject.harness.clock());
    let memory = rig.on(Arc::new(memory));
    rig.fill("in", 0..100).await;
    // There and back again: each as source and as target.
    let there = rig.takes("in", "there").await;
    let controls = [there.control()];
    let producer = memory.producer("between").await.expect("a producer");
    let there = tokio::spawn(Forward::new(there, producer));
    let back = super::rig::patient(memory.consumer("between", "back"));
    let back = super::rig::made(back).await;
    let controls = [controls[0].clone(), back.control()];
    let back = tokio::spawn(Forward::new(back, rig.makes("out").await));
    let mut consumer = rig.takes("out", "reader").await;
    rig.expect(&mut consumer, 0..100).await;
    for control in &controls {
        rig.shut_down(control).await;
    }
    for relay in [there, back] {
        let ended = rig.subject.within("a pipeline ends", relay).await;
        ended.expect("a task").expect("a clean end");
    }
    let state = rig.state("in", "there").await;
    assert_eq!(state.progress, Progress::at(100), "written, then committed");
    let states = memory.group("between", "back").await.expect("the group");
    assert_eq!(states[0].progress, Progress::at(100));
}
