//! Trimming.

use std::sync::Arc;

use super::Harness;
use super::build::{append, row};
use super::support::Subject;
use crate::storage::{Partition, Progress};

/// Batches of one, three, and two messages.
async fn orders(subject: &Subject) -> Partition {
    let orders = subject.partition("orders").await;
    for bodies in [&["a"][..], &["b", "c", "d"], &["e", "f"]] {
        subject.write(&orders, bodies).await;
    }
    orders
}

pub(super) async fn whole_batches_are_trimmed(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = orders(&subject).await;
    for (before, start, text) in [
        (0, 0, "a b c d e f"),
        (1, 1, "b c d e f"),
        (2, 1, "b c d e f"),
        (3, 1, "b c d e f"),
        (4, 4, "e f"),
        (2, 4, "e f"),
        (5, 4, "e f"),
        (6, 6, ""),
        (6, 6, ""),
    ] {
        let trimmed = subject.trim(&orders, before).await.expect("a trim");
        assert_eq!(trimmed, start, "the start after trimming before {before}");
        assert_eq!(subject.range(&orders).await, start..6);
        assert_eq!(subject.text(&orders).await, text);
    }
}

pub(super) async fn offsets_are_never_used_again(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = orders(&subject).await;
    // Far beyond the end: all there is, and nothing that is not there yet.
    let start = subject.trim(&orders, 100).await.expect("a trim");
    assert_eq!(start, 6, "all was trimmed");
    assert_eq!(subject.range(&orders).await, 6..6);
    assert_eq!(subject.write(&orders, &["g"]).await, 6);
    assert_eq!(subject.text(&orders).await, "g");
    subject.trim(&orders, 7).await.expect("a trim");
    if subject.reopen().await {
        assert_eq!(subject.range(&orders).await, 7..7);
    }
    assert_eq!(subject.write(&orders, &["h", "i"]).await, 7);
    assert_eq!(subject.range(&orders).await, 7..9);
}

pub(super) async fn the_start_outlives_a_restart(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = orders(&subject).await;
    subject.trim(&orders, 4).await.expect("a trim");
    if !subject.reopen().await {
        return;
    }
    assert_eq!(subject.range(&orders).await, 4..6);
    assert_eq!(subject.text(&orders).await, "e f");
    assert_eq!(subject.trim(&orders, 1).await.expect("a trim"), 4);
}

pub(super) async fn a_read_below_the_start_begins_there(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = orders(&subject).await;
    subject.trim(&orders, 4).await.expect("a trim");
    for from in 0..6 {
        let fetched = subject.fetch(&orders, from).await;
        assert_eq!(fetched.bounds, 4..6);
        let offsets: Vec<_> = fetched
            .batches
            .iter()
            .map(|batch| batch.offsets())
            .collect();
        assert_eq!(offsets, [4..6], "a read from {from}");
    }
    subject.trim(&orders, 6).await.expect("a trim");
    let fetched = subject.fetch(&orders, 0).await;
    assert!(fetched.batches.is_empty(), "nothing is left");
    assert_eq!(fetched.bounds, 6..6);
}

pub(super) async fn a_new_group_begins_after_what_was_trimmed(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = orders(&subject).await;
    subject.trim(&orders, 4).await.expect("a trim");
    let early = subject.group(&orders, "early").await;
    let state = subject.state(&early).await;
    assert_eq!((state.progress, state.bounds), (Progress::at(4), 4..6));
    subject.trim(&orders, 6).await.expect("a trim");
    let later = subject.group(&orders, "later").await;
    let state = subject.state(&later).await;
    assert_eq!((state.progress, state.bounds), (Progress::at(6), 6..6));
    subject.write(&orders, &["g"]).await;
    assert!(subject.state(&later).await.is_pending());
}

pub(super) async fn a_trimmed_id_is_still_known(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = orders(&subject).await;
    let once = append([row(&orders, &["g"])]);
    subject.written(&once).await;
    subject.trim(&orders, 7).await.expect("a trim");
    for restart in [false, true] {
        if restart {
            subject.reopen().await;
        }
        assert_eq!(
            subject.written(&once).await,
            [6],
            "a retry is answered, though its batch was trimmed since"
        );
        assert_eq!(subject.range(&orders).await, 7..7, "and writes nothing");
        let settled = subject.settle(once.clone()).await.expect("an outcome");
        assert_eq!(settled, Some(vec![6]));
    }
}

pub(super) async fn trimming_leaves_other_partitions_alone(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let parts = subject.partitions("orders", 3).await;
    for partition in &parts {
        subject.write(partition, &["a", "b"]).await;
        subject.write(partition, &["c"]).await;
    }
    subject.trim(&parts[1], 3).await.expect("a trim");
    let bounds = subject.bounds(&parts).await.expect("bounds");
    assert_eq!(bounds, [0..3, 3..3, 0..3]);
    assert_eq!(subject.text(&parts[0]).await, "a b c");
    assert_eq!(subject.text(&parts[2]).await, "a b c");
}
