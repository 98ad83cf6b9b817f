//! Reads and bounds.

use std::sync::Arc;

use super::Harness;
use super::build::{name, read};
use super::support::Subject;
use crate::storage::{Fetched, Read};

pub(super) async fn a_read_gives_whole_batches(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a"]).await;
    subject.write(&orders, &["b", "c", "d"]).await;
    subject.write(&orders, &["e", "f"]).await;
    let bases = |fetched: &Fetched| -> Vec<_> {
        let batches = fetched.batches.iter();
        batches.map(|batch| batch.offsets()).collect()
    };
    for (from, expected) in [
        (0, vec![0..1, 1..4, 4..6]),
        (1, vec![1..4, 4..6]),
        (2, vec![1..4, 4..6]),
        (3, vec![1..4, 4..6]),
        (4, vec![4..6]),
        (5, vec![4..6]),
    ] {
        let fetched = subject.fetch(&orders, from).await;
        assert_eq!(
            bases(&fetched),
            expected,
            "a read from {from} begins with the batch that contains it"
        );
        assert_eq!(fetched.bounds, 0..6, "a read tells the bounds of the log");
    }
    let middle = subject.fetch(&orders, 2).await;
    let bodies: Vec<_> = (0..3)
        .map(|index| middle.batches[0].records.message(index).body().clone())
        .collect();
    assert_eq!(bodies, ["b", "c", "d"], "a batch is never cut");
}

pub(super) async fn a_read_stops_at_its_limit_of_bytes(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let kilobyte = "x".repeat(1000);
    for _ in 0..8 {
        subject.write(&orders, &[&kilobyte]).await;
    }
    for (max_bytes, most) in [(0, 1), (1, 1), (900, 1), (2_500, 3), (1 << 20, 8)] {
        for from in [0, 3, 7] {
            let fetched = subject.read(read(&orders, from, max_bytes)).await;
            let batches = fetched.expect("a read").batches;
            assert!(
                (1..=most).contains(&batches.len()),
                "a read of {max_bytes} bytes gives at least one batch and no more than {most} of \
                 1,000 bytes, and not {}",
                batches.len()
            );
            assert_eq!(batches[0].base_offset, from);
        }
    }
}

pub(super) async fn a_read_from_the_end_gives_nothing(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let fetched = subject.fetch(&orders, 0).await;
    assert!(fetched.batches.is_empty(), "nothing is in a new log");
    assert_eq!(fetched.bounds, 0..0);
    subject.write(&orders, &["a", "b"]).await;
    for from in [2, 3, 1_000, u64::MAX] {
        let fetched = subject.fetch(&orders, from).await;
        assert!(fetched.batches.is_empty(), "nothing is there from {from}");
        assert_eq!(fetched.bounds, 0..2);
    }
}

pub(super) async fn a_read_tells_the_epoch_of_its_group(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a"]).await;
    let epoch = async || {
        let read = Read {
            group: Some(name("billing")),
            ..read(&orders, 0, 1)
        };
        subject.read(read).await.expect("a read").epoch
    };
    assert_eq!(epoch().await, 0, "of a group that is not known");
    let billing = subject.group(&orders, "billing").await;
    assert_eq!(epoch().await, 0, "before the first owner");
    let first = subject.lease(&billing).await;
    assert_eq!(epoch().await, first.epoch);
    let second = subject.takeover(&billing).await;
    assert_eq!(epoch().await, second.epoch, "after a takeover");
    subject.released(&second).await;
    assert_eq!(epoch().await, second.epoch, "of the last owner");
    assert_eq!(
        subject.fetch(&orders, 0).await.epoch,
        0,
        "a read that names no group"
    );
}

pub(super) async fn bounds_are_given_in_the_order_asked(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 3).await;
    let audit = subject.partition("audit").await;
    subject.write(&orders[1], &["a", "b"]).await;
    subject.write(&audit, &["c"]).await;
    let asked = [
        audit.clone(),
        orders[2].clone(),
        orders[1].clone(),
        orders[0].clone(),
        audit,
    ];
    let bounds = subject.bounds(&asked).await.expect("bounds");
    assert_eq!(bounds, [0..1, 0..0, 0..2, 0..0, 0..1]);
    assert!(subject.bounds(&[]).await.expect("no bounds").is_empty());
}
