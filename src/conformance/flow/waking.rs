//! What lets consumers sleep.

use std::sync::Arc;

use super::rig::{LEASE, Rig, delivered};
use super::sink::send;
use crate::conformance::Harness;
use crate::conformance::support::{pause, poll_once};

pub(crate) async fn a_waiting_consumer_is_woken(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut consumer = rig.takes("orders", "billing").await;
    let control = consumer.control();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let waiting = tokio::spawn(async move {
        while let Some(next) = consumer.next().await {
            let delivery = delivered(Some(next));
            let _ = told.send(delivery.offset());
            delivery.ack();
        }
    });
    // Written by another process.
    let another = rig.another();
    let mut producer = another.makes("orders").await;
    for number in 0..30u64 {
        if number % 3 == 0 {
            // Likely asleep by now; if not, it has to see the message all the same.
            pause().await;
        }
        let sent = send(&mut producer, number.to_string()).await;
        sent.expect("a send");
        let what = "a consumer that waits is woken by an append";
        let offset = rig.subject.within(what, heard.recv()).await;
        assert_eq!(offset, Some(number));
    }
    rig.shut_down(&control).await;
    waiting.await.expect("the consumer");
}

pub(crate) async fn a_waiting_standby_is_woken(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.fill("orders", 0..1).await;
    for round in 0..10 {
        let mut first = rig.takes("orders", "billing").await;
        let delivery = rig.expect(&mut first, round..round + 1).await.remove(0);
        let another = rig.another();
        let mut second = another.takes("orders", "billing").await;
        assert!(poll_once(second.next()).is_none());
        let (control, waiting) = (second.control(), second.next());
        let standby = control.wait_for(|status| status == crate::Status::Standby);
        rig.subject.within("a second one stands by", standby).await;
        rig.fill("orders", round + 1..round + 2).await;
        delivery.commit().await.expect("a commit");
        // By an end of each kind.
        match round % 2 {
            0 => drop(first),
            _ => drop(first.control().shutdown()),
        }
        let what = "a standby is woken when the lease is given back";
        let next = rig.subject.within(what, waiting).await;
        assert_eq!(delivered(next).offset(), round + 1);
        rig.shut_down(&control).await;
    }
}

pub(crate) async fn the_end_of_a_runtime_stops_nobody_else(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    rig.makes("orders").await;
    // All that this flow starts first, it starts there.
    let (done, ended) = tokio::sync::oneshot::channel();
    let there = rig.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            there.fill("orders", 0..1).await;
            let mut consumer = there.takes("orders", "audit").await;
            there.expect(&mut consumer, 0..1).await;
            let _ = done.send(consumer);
        });
    });
    let what = "what runs elsewhere is done";
    let _audit = rig.subject.within(what, ended).await.expect("a consumer");
    let others = async {
        let mut consumer = rig.takes("orders", "billing").await;
        rig.expect(&mut consumer, 0..1).await;
        for number in 1..10 {
            let next = tokio::spawn(async move {
                let next = delivered(consumer.next().await).offset();
                (next, consumer)
            });
            pause().await;
            rig.fill("orders", number..number + 1).await;
            let woken = next.await.expect("the consumer");
            assert_eq!(woken.0, number);
            consumer = woken.1;
        }
    };
    // What broke off there is tried again a little later.
    let what = "producers and consumers go on whatever runtime has ended";
    rig.passing(LEASE / 20, what, others).await;
}
