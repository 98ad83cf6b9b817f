//! The sink.

use std::collections::HashMap;
use std::sync::Arc;

use super::rig::{Rig, partition};
use super::sink::{close, feed, flush, send};
use crate::conformance::Harness;
use crate::error::ErrorKind;
use crate::message::Message;

pub(crate) async fn what_was_flushed_is_in_the_log(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let builder = rig.producer("orders").batch_messages(7);
    let mut producer = builder.await.expect("a producer");
    let mut sent = 0;
    // Less than a buffer, a full one, and more than both.
    for count in [1, 6, 7, 8, 14, 15, 40, 0] {
        for number in sent..sent + count {
            feed(&mut producer, number.to_string())
                .await
                .expect("taken");
        }
        flush(&mut producer).await.expect("a flush");
        sent += count;
        // Reading checks that the offsets have no gap.
        let all: Vec<u64> = (0..sent).collect();
        assert_eq!(rig.numbers("orders").await, all, "all of it, in order");
    }
    let ends = rig.bounds("orders").await.expect("where the log ends");
    assert_eq!(ends, [0..sent]);
}

pub(crate) async fn a_full_buffer_leaves_without_a_flush(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let builder = rig.producer("orders").batch_messages(4);
    let mut producer = builder.await.expect("a producer");
    for number in 0..4u64 {
        feed(&mut producer, number.to_string())
            .await
            .expect("taken");
    }
    let orders = partition("orders");
    rig.subject
        .eventually("a full buffer is written by itself", || async {
            rig.subject.range(&orders).await == (0..4)
        })
        .await;
}

pub(crate) async fn an_append_tells_its_offsets(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut producer = rig.makes("orders").await;
    for body in ["a", "b"] {
        feed(&mut producer, body).await.expect("taken");
    }
    let appended = producer.append([Message::new("c"), Message::new("d")]);
    let appended = appended.await.expect("an append");
    let [row] = appended.offsets() else {
        panic!("one row for one partition, and not {appended:?}");
    };
    assert_eq!((row.stream.as_str(), row.partition), ("orders", 0));
    assert_eq!(row.offsets, 2..4, "behind what the sink had accepted");
    assert_eq!(rig.text("orders").await, "a b c d");
    let nothing = producer.append(Vec::new()).await.expect("nothing is done");
    assert!(nothing.offsets().is_empty());
}

pub(crate) async fn an_append_over_several_streams_is_one(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut producer = rig.makes("orders").await;
    let to = |stream, body| Message::new(body).with_stream(stream).expect("a name");
    let batch = [to("audit", "A"), Message::new("a"), to("audit", "B")];
    let appended = producer.append(batch).await.expect("an append");
    let rows = appended.offsets().iter();
    let mut rows: Vec<_> = rows
        .map(|row| (row.stream.as_str(), row.offsets.clone()))
        .collect();
    rows.sort_by_key(|row| row.0);
    assert_eq!(rows, [("audit", 0..2), ("orders", 0..1)]);

    let small = rig.subject.harness.clone();
    let limited = Rig::limited(small, 100);
    let mut producer = limited.producer("orders").await.expect("a producer");
    let large = Message::new(vec![b'x'; 101]);
    let batch = [to("audit", "C"), Message::new("b"), large];
    let error = producer.append(batch).await.expect_err("a large message");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let unsent = error.unsent;
    assert_eq!(unsent.len(), 3, "all of them");
    assert_eq!(unsent.messages()[1].body(), "b");
    assert_eq!(rig.text("orders").await, "a", "nothing of it is written");
    assert_eq!(rig.text("audit").await, "A B", "to no stream");
}

pub(crate) async fn a_message_over_the_limit_comes_back(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness.clone());
    let flow = Rig::limited(harness, 10);
    let mut producer = flow.producer("orders").await.expect("a producer");
    feed(&mut producer, "0123456789").await.expect("just right");
    let refused = feed(&mut producer, "0123456789a").await;
    let error = refused.expect_err("one byte over the limit");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    send(&mut producer, "next").await.expect("the sink goes on");
    let unsent = producer.take_unsent().await;
    assert_eq!(unsent.len(), 1, "what was refused stays");
    assert_eq!(unsent[0].messages()[0].body(), "0123456789a");
    assert_eq!(rig.text("orders").await, "0123456789 next");
}

pub(crate) async fn a_closed_producer_says_so(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let mut producer = rig.makes("orders").await;
    let mut clone = producer.clone();
    feed(&mut producer, "a").await.expect("taken");
    close(&mut producer).await.expect("closing flushes");
    assert_eq!(rig.text("orders").await, "a", "closing flushes");
    let error = feed(&mut producer, "b").await.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    let append = producer.append(Message::new("c")).await;
    let error = append.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert_eq!(error.unsent.len(), 1);
    send(&mut clone, "d").await.expect("a clone stays open");
    assert_eq!(rig.text("orders").await, "a d");
}

pub(crate) async fn clones_write_each_message_once(harness: Arc<dyn Harness>) {
    let rig = Rig::new(harness);
    let producer = rig.makes("orders").await;
    let mut tasks = tokio::task::JoinSet::new();
    for clone in 0..16u64 {
        let mut producer = producer.clone();
        tasks.spawn(async move {
            for number in 0..20 {
                let message = (clone * 1000 + number).to_string();
                match clone % 3 {
                    0 => send(&mut producer, message).await.expect("a send"),
                    1 => feed(&mut producer, message).await.expect("taken"),
                    _ => drop(
                        producer
                            .append(Message::new(message))
                            .await
                            .expect("an append"),
                    ),
                }
            }
            flush(&mut producer).await.expect("a flush");
        });
    }
    let all = async {
        while tasks
            .join_next()
            .await
            .transpose()
            .expect("a clone")
            .is_some()
        {}
    };
    rig.subject.within("all clones are done", all).await;
    let mut next: HashMap<u64, u64> = HashMap::new();
    for number in rig.numbers("orders").await {
        let (clone, number) = (number / 1000, number % 1000);
        let next = next.entry(clone).or_default();
        assert_eq!(
            number, *next,
            "each message of clone {clone} once, in order"
        );
        *next += 1;
    }
    assert!(
        (0..16).all(|clone| next.get(&clone) == Some(&20)),
        "{next:?}"
    );
}

pub(crate) async fn a_close_ends_while_others_append(harness: Arc<dyn Harness>) {
    let mut rig = Rig::new(harness);
    let producer = rig.makes("orders").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut producer = producer.clone();
        tasks.spawn(async move {
            let mut written = 0;
            loop {
                let appended = producer.append(Message::new("m")).await;
                let Err(error) = appended else {
                    written += 1;
                    continue;
                };
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                assert!(!error.in_doubt(), "what was taken is written: {error}");
                let unsent = error.unsent.len();
                assert_eq!(unsent, 1, "what was refused comes back");
                return written;
            }
        });
    }
    let orders = partition("orders");
    rig.subject
        .eventually("some are written", || async {
            rig.subject.range(&orders).await.end >= 20
        })
        .await;
    let what = "a close ends while others append";
    let closed = rig.subject.within(what, rig.close()).await;
    closed.expect("a close");
    let mut written = 0;
    while let Some(task) = rig.subject.within(what, tasks.join_next()).await {
        written += task.expect("a task");
    }
    if rig.reopen().await {
        let range = rig.subject.range(&partition("orders")).await;
        assert_eq!(range.end, written, "all that was acknowledged, and no more");
    }
}
