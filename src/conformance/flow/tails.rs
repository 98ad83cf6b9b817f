//! Consumers at the end of the log, in the process of the producer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::rig::Rig;
use super::sink::send;
use crate::conformance::Harness;
use crate::conformance::support::{assert_fenced, poll_once};
use crate::message::Message;

pub(crate) async fn what_comes_from_memory_is_what_a_read_gives(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let happened = SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567_890_123_456);
    let traced = |header: &str| {
        let traced = Message::new("traced").with_header(header, &b"\x00\xff"[..]);
        traced.expect("a header")
    };
    let batches = [
        vec![Message::new(""), Message::new(vec![0, 159, 146, 150])],
        vec![Message::new("keyed").with_key("table 7")],
        vec![Message::new("timed").with_timestamp(happened)],
        vec![traced("a"), Message::new("plain"), traced("b")],
        vec![Message::new("empty key").with_key("")],
    ];
    let count = batches.iter().map(Vec::len).sum();
    let mut near = rig.takes("orders", "near").await;
    assert!(poll_once(near.next()).is_none());
    let mut producer = rig.makes("orders").await;
    let mut got = Vec::new();
    for batch in batches {
        let len = batch.len();
        producer.append(batch).await.expect("an append");
        for _ in 0..len {
            got.push(rig.next(&mut near).await);
        }
        rig.subject.harness.pass(Duration::from_millis(3)).await;
    }
    let another = rig.another();
    let mut far = another.takes("orders", "far").await;
    for near in &got {
        let far = another.next(&mut far).await;
        assert_eq!(near.offset(), far.offset());
        assert_eq!(near.timestamp(), far.timestamp(), "at {}", far.offset());
        let (near, far) = (near.message(), far.message());
        assert_eq!(near.body(), far.body());
        assert_eq!(near.key(), far.key());
        assert_eq!(near.headers(), far.headers());
        assert_eq!(near.timestamp(), far.timestamp());
    }
    assert_eq!(got.len(), count);
}

/// Nobody told it, and no time has passed: it may be given messages, and can do nothing with them.
pub(crate) async fn a_zombie_at_the_tail_commits_nothing(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut zombie = rig.takes("orders", "billing").await;
    rig.fill("orders", 0..1).await;
    let held = rig.expect(&mut zombie, 0..1).await.remove(0);
    let owner = rig.takes_over("orders", "billing").await;
    let mut producer = rig.makes("orders").await;
    let sent = send(&mut producer, "1".to_owned()).await;
    sent.expect("a send");
    let fenced = held.commit().await;
    assert_fenced(&fenced, "a commit of the lease that was taken over");
    if let Some(next) = poll_once(zombie.next()) {
        let delivery = next.expect("it goes on").expect("no error");
        assert_fenced(&delivery.commit().await, "what it was given all the same");
    }
    let state = rig.state("orders", "billing").await;
    assert_eq!((state.epoch, state.position()), (owner.epoch, 0));
    let progress = rig.subject.done(&owner, 0..2u64).await;
    assert_eq!(progress.position(), 2);
}
