//! Messages that cannot be done are moved away, once, with where they come from.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::rig::{Rig, delivered, made, patient};
use super::sink::send;
use crate::conformance::Harness;
use crate::consumer::Consumer;
use crate::consumer::Delivery;
use crate::message::Message;
use crate::storage::Progress;

const LATER: Duration = Duration::from_millis(300);

async fn consumer(rig: &Rig, max_attempts: u32) -> Consumer {
    let builder = patient(rig.consumer("orders", "billing")).redeliver_after(LATER);
    made(builder.max_attempts(max_attempts)).await
}

async fn later(rig: &Rig, consumer: &mut Consumer) -> Delivery {
    let what = "the next message comes";
    delivered(rig.passing(LATER, what, consumer.next()).await)
}

/// The header of a dead letter, as text.
fn header<'a>(letter: &'a Delivery, name: &str) -> &'a str {
    let value = letter.headers().get(&format!("dead-letter-{name}"));
    let value = value.unwrap_or_else(|| panic!("a dead letter tells its {name}"));
    std::str::from_utf8(value).expect("text")
}

pub(crate) async fn a_dead_letter_tells_where_it_comes_from(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..1).await;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    let message = Message::new("poison").with_key("k").with_timestamp(at);
    let message = message.with_header("h", "v").expect("a header");
    let sent = send(&mut rig.makes("orders").await, message).await;
    sent.expect("a send");
    let mut consumer = rig.takes("orders", "billing").await;
    rig.next(&mut consumer).await.commit().await.expect("done");
    rig.next(&mut consumer).await.retry_after(Duration::ZERO);
    let buried = later(&rig, &mut consumer)
        .await
        .dead_letter("it makes no sense");
    buried.await.expect("it is moved");
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(2), "in one transaction");
    assert!(state.attempts.is_empty(), "{state:?}");

    let mut dead = rig.takes("orders.billing.dead", "undertaker").await;
    let letter = rig.next(&mut dead).await;
    assert_eq!(letter.body(), "poison");
    assert_eq!(letter.key().map(|key| &key[..]), Some(&b"k"[..]));
    assert_eq!(letter.headers().get("h"), Some(&b"v"[..]));
    assert_eq!(letter.timestamp(), at);
    for (name, value) in [
        ("stream", "orders"),
        ("partition", "0"),
        ("offset", "1"),
        ("group", "billing"),
        ("attempts", "2"),
        ("reason", "it makes no sense"),
    ] {
        assert_eq!(header(&letter, name), value, "{name}");
    }
    header(&letter, "time").parse::<i64>().expect("a time");
    // It dies once more: it tells where it was last.
    let buried = letter.dead_letter("still none");
    buried.await.expect("it is moved");
    let of_the_dead = "orders.billing.dead.undertaker.dead";
    let mut last = rig.takes(of_the_dead, "undertaker").await;
    let letter = rig.next(&mut last).await;
    assert_eq!(header(&letter, "stream"), "orders.billing.dead");
    assert_eq!(header(&letter, "reason"), "still none");
    assert_eq!(letter.headers().iter().count(), 8, "none of them twice");
}

pub(crate) async fn a_message_without_a_time_keeps_that_of_its_append(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..1).await;
    let builder = patient(rig.consumer("orders", "billing")).dead_letters("graves");
    let mut consumer = made(builder).await;
    let delivery = rig.next(&mut consumer).await;
    let at = delivery.timestamp();
    rig.subject.harness.pass(Duration::from_secs(1)).await;
    delivery.dead_letter("no").await.expect("it is moved");
    let letter = rig.next(&mut rig.takes("graves", "undertaker").await).await;
    assert_eq!(letter.timestamp(), at);
}

pub(crate) async fn a_message_is_moved_after_its_last_attempt(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..4).await;
    let mut consumer = consumer(&rig, 3).await;
    let mut seen = Vec::new();
    // One is retried, one forgotten: each three times.
    for _ in 0..8 {
        let delivery = later(&rig, &mut consumer).await;
        seen.push((delivery.offset(), delivery.attempt()));
        match delivery.offset() {
            0 => delivery.retry_after(Duration::ZERO),
            2 => drop(delivery),
            _ => delivery.commit().await.expect("a commit"),
        }
    }
    let moved = async {
        while rig.state("orders", "billing").await.position() < 4 {
            crate::conformance::support::pause().await;
        }
    };
    rig.passing(LATER, "they are moved", moved).await;
    seen.sort_unstable();
    let thrice = |offset| [(offset, 1), (offset, 2), (offset, 3)];
    let expected = [&thrice(0)[..], &[(1, 1)], &thrice(2)[..], &[(3, 1)]].concat();
    assert_eq!(seen, expected);
    let mut dead = rig.takes("orders.billing.dead", "undertaker").await;
    let mut buried = Vec::new();
    for _ in 0..2 {
        let letter = rig.next(&mut dead).await;
        assert_eq!(header(&letter, "attempts"), "3");
        buried.push(header(&letter, "offset").to_owned());
    }
    buried.sort_unstable();
    assert_eq!(buried, ["0", "2"]);
    assert_eq!(rig.numbers("orders.billing.dead").await.len(), 2);
}

pub(crate) async fn one_that_kills_its_owners_is_moved(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..2).await;
    // It dies of the first message, again and again.
    let mut lease = None;
    drop(consumer(&rig, 2).await);
    rig.subject
        .lease(&super::rig::of("orders", "billing"))
        .await;
    for _ in 0..2 {
        lease = Some(rig.takes_over("orders", "billing").await);
    }
    rig.subject.released(&lease.expect("a lease")).await;
    let mut consumer = consumer(&rig, 2).await;
    let next = rig.next(&mut consumer).await;
    assert_eq!((next.offset(), next.attempt()), (1, 1), "without the first");
    next.commit().await.expect("a commit");
    let moved = || async { rig.state("orders", "billing").await.position() == 2 };
    rig.subject.eventually("the first is moved", moved).await;
    assert_eq!(rig.numbers("orders.billing.dead").await, [0]);
    let state = rig.state("orders", "billing").await;
    assert_eq!((state.position(), state.attempts), (2, vec![]));
}

pub(crate) async fn a_fenced_owner_moves_nothing(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..2).await;
    let mut consumer = rig.takes("orders", "billing").await;
    let mut held = rig.expect(&mut consumer, 0..2).await;
    let lease = rig.takes_over("orders", "billing").await;
    let refused = held.remove(0).dead_letter("too late").await;
    let refused = refused.expect_err("a dead letter of a former owner");
    assert!(refused.is_fenced(), "{refused}");
    assert_eq!(refused.unsent.len(), 1);
    let state = rig.state("orders", "billing").await;
    assert_eq!(state.progress, Progress::at(0));
    let dead = super::rig::partition("orders.billing.dead");
    assert_eq!(rig.subject.range(&dead).await, 0..0, "nothing is there");
    rig.subject.released(&lease).await;
    let what = "the next owner gets it";
    let next = delivered(rig.passing(LATER, what, consumer.next()).await);
    assert_eq!(next.offset(), 0);
    next.dead_letter("in time").await.expect("it is moved");
    assert_eq!(rig.numbers("orders.billing.dead").await, [0]);
}
