//! The log: offsets, atomicity, and what comes out of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::Harness;
use super::build::{append, append_with, name, records, row};
use super::support::{Subject, assert_kind};
use crate::error::ErrorKind;
use crate::message::Message;
use crate::storage::{Append, Appended, Id, Partition, RecordsBuilder, Row};

pub(super) async fn offsets_begin_at_zero_and_have_no_gaps(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    assert_eq!(subject.range(&orders).await, 0..0, "a new log is empty");
    let mut next = 0;
    for batch in [&["a"][..], &["b", "c", "d"], &["e", "f"], &["g"]] {
        let offset = subject.write(&orders, batch).await;
        assert_eq!(offset, next, "a batch begins where the last one ended");
        next += batch.len() as u64;
        assert_eq!(subject.range(&orders).await, 0..next);
    }
    assert_eq!(subject.text(&orders).await, "a b c d e f g");
}

pub(super) async fn each_partition_counts_for_itself(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let mut all = subject.partitions("orders", 3).await;
    all.extend(subject.partitions("invoices", 2).await);
    for round in 0..3 {
        for (index, partition) in all.iter().enumerate() {
            // The first partition gets one message a round, the second two …
            let bodies = vec!["x"; index + 1];
            let offset = subject.write(partition, &bodies).await;
            assert_eq!(offset, round * (index as u64 + 1), "of {partition}");
        }
    }
    for (index, partition) in all.iter().enumerate() {
        assert_eq!(subject.log(partition).await.len(), 3 * (index + 1));
    }
}

pub(super) async fn the_rows_of_an_append_are_written_together(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 3).await;
    let audit = subject.partition("audit").await;
    subject.write(&orders[2], &["first"]).await;
    // Not in any order that a storage could sort by.
    let both = append([
        row(&orders[2], &["a", "b"]),
        row(&audit, &["c"]),
        row(&orders[0], &["d", "e", "f"]),
    ]);
    assert_eq!(
        subject.written(&both).await,
        [1, 0, 0],
        "the offsets are in the order of the rows"
    );
    for (partition, text) in [
        (&orders[0], "d e f"),
        (&orders[1], ""),
        (&orders[2], "first a b"),
        (&audit, "c"),
    ] {
        assert_eq!(subject.text(partition).await, text, "in {partition}");
    }
}

pub(super) async fn many_rows_are_written_in_their_order(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 300).await;
    // Neither as they are numbered, nor as they are named.
    let places: Vec<usize> = (0..300).map(|n| n * 7 % 300).collect();
    for round in 0..2 {
        let messages = |place: usize| vec!["x"; 1 + place % 3];
        let rows = places
            .iter()
            .map(|place| row(&orders[*place], &messages(*place)));
        let append = Arc::new(Append {
            id: Id::random(),
            after: None,
            rows: rows.collect(),
            commits: Vec::new(),
        });
        let bases: Vec<u64> = places
            .iter()
            .map(|place| round * messages(*place).len() as u64)
            .collect();
        assert_eq!(subject.written(&append).await, bases);
        assert_eq!(subject.written(&append).await, bases, "once more");
        let settled = subject.settle(append).await.expect("an outcome");
        assert_eq!(settled, Some(bases));
    }
    let bounds = subject.bounds(&orders).await.expect("the bounds");
    for (place, bounds) in bounds.into_iter().enumerate() {
        assert_eq!(bounds, 0..2 * (1 + place as u64 % 3));
    }
}

pub(super) async fn nothing_is_written_where_one_row_has_no_stream(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 2).await;
    let missing = Partition {
        stream: name("missing"),
        index: 0,
    };
    let rows = [
        row(&orders[0], &["a"]),
        row(&missing, &["b"]),
        row(&orders[1], &["c"]),
    ];
    let appended = subject.append(append(rows)).await;
    assert_kind(&appended, ErrorKind::NotFound, "a row without a stream");
    for partition in &orders {
        assert_eq!(
            subject.range(partition).await,
            0..0,
            "no row of an append that failed is written"
        );
        assert_eq!(subject.write(partition, &["next"]).await, 0);
    }
}

pub(super) async fn messages_come_back_as_they_were(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
    let before = SystemTime::UNIX_EPOCH - Duration::from_micros(1);
    let with = |message: Message, header: &str, value: &[u8]| {
        message.with_header(header, value).expect("a header")
    };
    let messages = [
        Message::new(""),
        Message::new(every_byte.clone()),
        Message::new("keyed").with_key(every_byte.clone()),
        Message::new("empty key").with_key(""),
        Message::new("timed").with_timestamp(time),
        Message::new("long ago").with_timestamp(before),
        with(Message::new("traced"), "trace", &every_byte),
        with(with(Message::new("twice"), "via", b"a"), "via", b""),
        with(Message::new("ünïcødé 🦀"), "ключ", b"\0"),
        Message::new(""),
    ];
    // All in one batch, and each in a batch of its own.
    let whole: RecordsBuilder = messages.iter().collect();
    let single = messages.iter().map(|one| [one].into_iter().collect());
    for batch in std::iter::once(whole).chain(single) {
        let records = batch.build().expect("a batch has a message");
        let partition = orders.clone();
        subject.written(&append([Row { partition, records }])).await;
    }
    let mut stored = Vec::new();
    for batch in subject.fetch(&orders, 0).await.batches {
        stored.extend((0..batch.records.len()).map(|index| batch.records.message(index)));
    }
    assert_eq!(stored.len(), 2 * messages.len());
    for (stored, given) in stored.iter().zip(messages.iter().chain(&messages)) {
        assert_eq!(stored.body(), given.body(), "the body");
        assert_eq!(stored.key(), given.key(), "the key of {:?}", given.body());
        assert_eq!(stored.headers(), given.headers(), "{:?}", given.body());
        assert_eq!(stored.timestamp(), given.timestamp(), "{:?}", given.body());
    }
}

pub(super) async fn a_large_message_comes_back_as_it_was(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let large: Bytes = (0..1u32 << 20).map(|at| (at % 251) as u8).collect();
    let bodies = [large.clone(), Bytes::from_static(b"small"), large];
    let records = records(bodies.clone());
    let partition = orders.clone();
    subject.written(&append([Row { partition, records }])).await;
    let stored = subject.log(&orders).await;
    assert_eq!(stored.len(), 3);
    for ((offset, body), given) in stored.iter().zip(&bodies) {
        assert!(body == given, "the body at {offset} is what was given");
    }
}

pub(super) async fn the_time_of_appends_never_goes_back(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    for _ in 0..5 {
        subject.write(&orders, &["a"]).await;
        subject.write(&orders, &["b"]).await;
        subject.harness.pass(Duration::from_millis(3)).await;
    }
    let batches = subject.fetch(&orders, 0).await.batches;
    assert!(
        batches.is_sorted_by_key(|batch| batch.appended_at),
        "a later batch has no earlier time"
    );
    // A storage that writes no times at all would have passed so far.
    let (first, last) = (&batches[0], &batches[batches.len() - 1]);
    assert!(
        first.appended_at < last.appended_at,
        "time passed meanwhile"
    );
}

pub(super) async fn an_append_tells_what_a_read_gives(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 2).await;
    let billing = subject.group(&orders[0], "billing").await;
    let lease = subject.lease(&billing).await;
    for round in 0..6 {
        let first = row(&orders[0], &["a", "b"]);
        let both = match round % 3 {
            0 => append([first]),
            1 => append([row(&orders[1], &["c"]), first]),
            _ => append_with([first], [(&lease, round..round + 1)]),
        };
        let answer = subject.append(both.clone()).await.expect("an answer");
        let Appended::Written(written) = answer else {
            panic!("what this call wrote is not {answer:?}");
        };
        assert_eq!(written.len(), both.rows.len());
        for (row, written) in both.rows.iter().zip(&written) {
            let fetched = subject.fetch(&row.partition, written.base_offset).await;
            let batch = fetched.batches.last().expect("the batch");
            let read = (batch.base_offset, batch.appended_at);
            let told = (written.base_offset, written.appended_at);
            assert_eq!(told, read, "the place in {}", row.partition);
            assert_eq!(batch.records, row.records, "what is in {}", row.partition);
        }
        let bases = written.iter().map(|row| row.base_offset).collect();
        let again = subject.append(both).await.expect("an answer");
        assert_eq!(again, Appended::Known(bases), "it was there before");
        subject.harness.pass(Duration::from_millis(3)).await;
    }
}

pub(super) async fn the_log_outlives_a_restart(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partitions("orders", 2).await;
    subject.write(&orders[0], &["a", "b"]).await;
    subject.write(&orders[1], &["c"]).await;
    subject.write(&orders[0], &["d"]).await;
    let before = subject.fetch(&orders[0], 0).await.batches;
    if !subject.reopen().await {
        return;
    }
    assert_eq!(subject.text(&orders[0]).await, "a b d");
    assert_eq!(subject.text(&orders[1]).await, "c");
    assert_eq!(subject.write(&orders[0], &["e"]).await, 3);
    let after = subject.fetch(&orders[0], 0).await.batches;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.appended_at, after.appended_at);
    }
    assert!(after.is_sorted_by_key(|batch| batch.appended_at));
}
