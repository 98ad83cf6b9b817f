//! Pipelines that are torn down at any point, and started again until all is done.

use std::sync::Arc;

use super::rig::{Rig, made, partition, patient};
use super::sink::{Forward, polls};
use crate::conformance::Harness;
use crate::conformance::generator::Random;
use crate::conformance::support::pause;
use crate::storage::{MemoryStorage, Progress};

const MESSAGES: u64 = 120;

pub(crate) async fn a_torn_relay_writes_each_message_once(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("in", 0..MESSAGES).await;
    rig.fill("out", 0..0).await;
    let out = partition("out");
    let mut random = Random(11);
    for round in 0.. {
        if rig.subject.range(&out).await.end >= MESSAGES {
            break;
        }
        let builder = patient(rig.consumer("in", "relay"));
        let consumer = made(builder.prefetch(random.below(200) as usize)).await;
        let builder = rig.producer("out");
        let producer = builder.batch_messages(1 + random.below(8) as usize).await;
        let forward = Forward::new(consumer, producer.expect("a producer"));
        // The longer it takes, the more polls it gets, so that it ends.
        let times = 1 + random.below(6 + round / 8) as usize;
        let all = || async { rig.subject.range(&out).await.end >= MESSAGES };
        tokio::select! {
            done = polls(times, forward) => assert!(done.is_none(), "{done:?}"),
            () = rig.subject.eventually("all is relayed", all) => {}
        }
    }
    settle(&rig, "relay").await;
    let numbers = rig.numbers("out").await;
    assert!(
        numbers.iter().copied().eq(0..MESSAGES),
        "each once, in order: {numbers:?}"
    );
    let state = rig.state("in", "relay").await;
    assert_eq!(state.progress, Progress::at(MESSAGES));
}

pub(crate) async fn a_torn_relay_to_another_storage_loses_nothing(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let memory = MemoryStorage::new(rig.subject.harness.clock());
    let memory = rig.on(Arc::new(memory));
    rig.fill("in", 0..MESSAGES).await;
    drop(rig.takes("in", "relay").await);
    let mut random = Random(13);
    for round in 0.. {
        if rig.state("in", "relay").await.progress == Progress::at(MESSAGES) {
            break;
        }
        let consumer = rig.takes("in", "relay").await;
        let builder = memory.producer("out");
        let producer = builder.batch_messages(1 + random.below(8) as usize).await;
        let forward = Forward::new(consumer, producer.expect("a producer"));
        let times = 1 + random.below(6 + round / 8) as usize;
        let all = || async {
            let state = rig.state("in", "relay").await;
            state.progress == Progress::at(MESSAGES)
        };
        tokio::select! {
            done = polls(times, forward) => assert!(done.is_none(), "{done:?}"),
            () = rig.subject.eventually("all is relayed", all) => {}
        }
    }
    let mut reader = memory.consumer("out", "reader").await.expect("a consumer");
    let mut next = 0;
    while next < MESSAGES {
        let delivery = rig.next(&mut reader).await;
        let number = super::rig::number_of(delivery.body());
        assert!(number <= next, "{number} comes where {next} is missing");
        next = next.max(number + 1);
    }
}

pub(crate) async fn a_torn_consumer_leaves_what_is_not_done(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..40).await;
    let mut done = 0;
    for times in (0..6).cycle() {
        if done == 40 {
            break;
        }
        let mut consumer = rig.takes("orders", "billing").await;
        let commits = async {
            while let Ok(Some(delivery)) = consumer.try_next().await {
                assert_eq!(delivery.offset(), done, "what is done comes no more");
                delivery.commit().await.expect("a commit");
                done += 1;
                if done == 40 {
                    return;
                }
            }
        };
        polls(times * 3, commits).await;
        drop(consumer);
        // A commit that was torn after its first poll is written; nobody was told.
        settle(&rig, "billing of orders").await;
        let state = rig.state("orders", "billing").await;
        let position = state.progress.position();
        assert!(
            (done..=done + 1).contains(&position),
            "{position} and {done}"
        );
        done = position;
    }
}

/// Waits until the lease of a group is given back, and so all that its owner had under way is done.
async fn settle(rig: &Rig, group: &str) {
    let (stream, group) = match group {
        "relay" => ("in", "relay"),
        _ => ("orders", "billing"),
    };
    let free = || async {
        pause().await;
        rig.state(stream, group).await.owner.is_none()
    };
    rig.subject.eventually("a lease is given back", free).await;
}
