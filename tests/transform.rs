//! A message that carries a commit is changed, split, merged and left out; the commit stays with it.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use flowstream::{Batch, Delivery, Headers, Message, Producer};
use futures::SinkExt;
use support::*;

#[tokio::test]
async fn whatever_is_set_on_a_message_its_commit_stays() {
    type Change = fn(Message) -> Message;
    let changes: [(&str, Change); 9] = [
        ("nothing", |message| message),
        ("body", |message| message.with_body("new")),
        ("key", |message| message.with_key("key")),
        ("no key", |message| message.with_key("key").without_key()),
        ("a header", |message| message.with_header("a", "b").unwrap()),
        ("headers", |message| message.with_headers(Headers::new())),
        ("timestamp", |message| {
            message.with_timestamp(SystemTime::UNIX_EPOCH)
        }),
        ("stream", |message| message.with_stream("other").unwrap()),
        ("compact", Message::compact),
    ];
    for (what, change) in changes {
        let world = world().await;
        world.fill("in", 2).await;
        let mut consumer = world.flow.consumer("in", "relay").await.unwrap();
        let mut producer = world.flow.producer("out").await.unwrap();
        let message = change(next(&mut consumer).await.into_message());
        producer.send(message).await.unwrap();
        assert_eq!(world.position("in", "relay").await, 1, "{what}");
        // And one that was attached to a message that has all of it already.
        let (message, commit) = next(&mut consumer).await.into_parts();
        let mut message = change(change(message));
        message.attach(commit);
        let message = change(message);
        producer.append(message).await.unwrap();
        assert_eq!(world.position("in", "relay").await, 2, "{what}");
        assert_eq!(world.faulty.count(Call::Commit), 0, "{what}: both rode");
    }
}

#[tokio::test]
async fn many_commits_stay_with_a_message_that_is_changed() {
    let world = world().await;
    world.fill("in", 5).await;
    let mut consumer = world.flow.consumer("in", "relay").await.unwrap();
    let mut producer = world.flow.producer("out").await.unwrap();
    let mut message = next(&mut consumer).await.into_message();
    for _ in 1..5 {
        message.attach(next(&mut consumer).await.into_parts().1);
    }
    let message = message.with_body("all").with_key("k").compact();
    let message = message.with_header("n", "5").unwrap();
    let message = message.with_stream("other").unwrap();
    producer.send(message).await.unwrap();
    assert_eq!(world.position("in", "relay").await, 5);
    assert_eq!(world.bodies("other").await, ["all"]);
    assert!(world.bodies("out").await.is_empty());
}

/// What becomes of five inputs: one is left out, one becomes two outputs, and three become one.
#[derive(Default)]
struct Pipeline {
    /// The epoch and the deliveries of those that become one, by their five.
    parts: BTreeMap<u64, Vec<Delivery>>,
}

impl Pipeline {
    fn outputs(&mut self, delivery: Delivery) -> Option<Batch> {
        let five = delivery.offset() / 5;
        match delivery.offset() % 5 {
            0 => {
                delivery.ack();
                None
            }
            1 => {
                let last = delivery.into_message().with_body(format!("b{five}"));
                Some([Message::new(format!("a{five}")), last].into())
            }
            _ => {
                let parts = self.parts.entry(five).or_default();
                // Those of an epoch that is over come again, all of them that are not done.
                let epoch = delivery.epoch();
                let offset = delivery.offset();
                parts.retain(|part| part.epoch() == epoch && part.offset() != offset);
                parts.push(delivery);
                if parts.len() < 3 {
                    return None;
                }
                let mut sum = Message::new(format!("sum{five}"));
                for part in self.parts.remove(&five)? {
                    sum.attach(part.into_parts().1);
                }
                Some(sum.into())
            }
        }
    }
}

/// Appends until it is written, or its lease is lost, or nobody waits any more.
async fn append(producer: &mut Producer, mut batch: Batch) {
    loop {
        let Err(error) = producer.append(batch).await else {
            return;
        };
        if error.is_fenced() {
            return;
        }
        assert!(error.is_transient(), "{error}");
        batch = error.unsent;
    }
}

async fn transform(seed: u64, faults: &[Fault]) {
    const FIVES: u64 = 30;
    let mut random = Random::new(seed);
    let world = world().await;
    world.fill("in", FIVES * 5).await;
    for round in 0.. {
        assert!(round < 2000, "seed {seed}: it does not get through");
        world.faulty.hesitate(random.below(3));
        if random.below(2) == 0 && !faults.is_empty() {
            let fault = faults[random.below(faults.len())];
            world
                .faulty
                .after(Call::Append, random.below(4), fault, 1 + random.below(2));
        }
        let consumer = world.flow.consumer("in", "relay");
        let mut consumer = consumer
            .redeliver_after(Duration::from_secs(1))
            .await
            .unwrap();
        let mut producer = world.flow.producer("out").await.unwrap();
        let pipeline = async {
            let mut pipeline = Pipeline::default();
            while let Some(delivery) = consumer.next().await {
                if let Some(batch) = pipeline.outputs(delivery.unwrap()) {
                    append(&mut producer, batch).await;
                }
            }
        };
        let _ = poll_at_most(1 + random.below(150), pipeline).await;
        if random.below(4) == 0 {
            let usurper = world.take_over("in", "relay").await;
            if random.below(2) == 0 {
                quiet().await;
            }
            world.faulty.inner().release(&usurper).await.unwrap();
        }
        drop((consumer, producer));
        quiet().await;
        world.faulty.let_go();
        world.pass_in(Duration::from_secs(1), 2).await;
        if world.position("in", "relay").await == FIVES * 5 {
            break;
        }
    }
    world.faulty.heal();
    quiet().await;
    let mut outputs = world.bodies("out").await;
    // The two outputs of one input are neighbours.
    for (at, body) in outputs.iter().enumerate() {
        if let Some(five) = body.strip_prefix('a') {
            assert_eq!(outputs[at + 1], format!("b{five}"), "seed {seed}");
        }
    }
    let all = |five| [format!("a{five}"), format!("b{five}"), format!("sum{five}")];
    let mut expected: Vec<String> = (0..FIVES).flat_map(all).collect();
    outputs.sort_unstable();
    expected.sort_unstable();
    assert_eq!(outputs, expected, "seed {seed}");
}

#[tokio::test]
async fn a_transformation_that_is_killed_at_any_poll_writes_each_output_once() {
    for seed in 0..20 {
        transform(seed, &[]).await;
    }
}

#[tokio::test]
async fn lost_answers_neither_lose_nor_double_its_outputs() {
    for seed in 100..130 {
        transform(seed, &[Fault::Fail, Fault::Lose, Fault::Doubt, Fault::Hold]).await;
    }
}

#[tokio::test]
async fn writes_that_land_late_neither_lose_nor_double_its_outputs() {
    for seed in 200..230 {
        transform(seed, &[Fault::Late, Fault::Lose]).await;
    }
}

#[tokio::test]
async fn a_retry_after_a_lost_answer_that_is_fenced_meanwhile_writes_once() {
    for (fault, is_written) in [
        (Fault::Lose, true),
        (Fault::Doubt, false),
        (Fault::Fail, false),
    ] {
        let world = world().await;
        world.fill("in", 3).await;
        let mut consumer = world.flow.consumer("in", "relay").await.unwrap();
        let mut producer = world.flow.producer("out").await.unwrap();
        // 1 to 2, and 2 to 1, in one append.
        let first = next(&mut consumer).await.into_message().with_body("b");
        let mut sum = next(&mut consumer).await.into_message().with_body("sum");
        sum.attach(next(&mut consumer).await.into_parts().1);
        world.faulty.times(Call::Append, fault, 1);
        let outputs = [Message::new("a"), first, sum];
        let error = producer.append(outputs).await.unwrap_err();
        let batch = error.unsent;
        let usurper = world.take_over("in", "relay").await;
        let again = producer.append(batch).await;
        let outputs = world.bodies("out").await;
        let position = world.position("in", "relay").await;
        if is_written {
            again.unwrap();
            assert_eq!((outputs.len(), position), (3, 3), "{fault:?}");
        } else {
            assert!(again.unwrap_err().is_fenced(), "{fault:?}");
            assert_eq!((outputs.len(), position), (0, 0), "{fault:?}");
        }
        world.faulty.inner().release(&usurper).await.unwrap();
    }
}
