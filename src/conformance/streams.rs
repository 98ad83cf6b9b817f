//! Streams and their settings.

use std::sync::Arc;

use super::Harness;
use super::build::{append, name, read, row};
use super::support::{Subject, assert_kind};
use crate::error::ErrorKind;
use crate::storage::{Group, Partition, Start};

pub(super) async fn a_stream_keeps_its_first_settings(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = name("orders");
    for asked in [Some(3), Some(3), Some(5), None, Some(1)] {
        let settings = subject.create_stream(&orders, asked).await;
        let settings = settings.expect("creating a stream again is no error");
        assert_eq!(settings.partitions, 3, "asked for {asked:?} partitions");
    }
    if subject.reopen().await {
        let settings = subject.create_stream(&orders, Some(7)).await;
        let settings = settings.expect("a stream that outlived a restart");
        assert_eq!(settings.partitions, 3, "settings outlive a restart");
    }
}

pub(super) async fn a_stream_has_one_partition_unless_told(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let settings = subject.create_stream(&name("orders"), None).await;
    assert_eq!(settings.expect("a new stream").partitions, 1);
}

pub(super) async fn names_are_compared_byte_for_byte(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let long = "x".repeat(255);
    // "é" in one character and in two are different names, and so are the others.
    let names = [
        "orders",
        "Orders",
        "orders ",
        "order",
        "'; DROP TABLE orders --",
        "a/b",
        "a%_\\b",
        "\u{e9}",
        "e\u{301}",
        "🦀",
        long.as_str(),
    ];
    let mut partitions = Vec::new();
    for name in names {
        let partition = subject.partition(name).await;
        assert_eq!(
            subject.write(&partition, &[name]).await,
            0,
            "{name:?} is a stream of its own"
        );
        partitions.push((partition, name));
    }
    for (partition, name) in partitions {
        assert_eq!(subject.text(&partition).await, name);
    }
}

pub(super) async fn what_is_not_there_is_not_found(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let there = subject.partition("orders").await;
    let beyond = Partition {
        index: 1,
        ..there.clone()
    };
    let unknown = Partition {
        stream: name("unknown"),
        index: 0,
    };
    for missing in [beyond, unknown] {
        let appended = subject.append(append([row(&missing, &["a"])])).await;
        assert_kind(&appended, ErrorKind::NotFound, "an append");
        let fetched = subject.read(read(&missing, 0, 1)).await;
        assert_kind(&fetched, ErrorKind::NotFound, "a read");
        let bounds = subject.bounds(&[there.clone(), missing.clone()]).await;
        assert_kind(&bounds, ErrorKind::NotFound, "asking for bounds");
        let trimmed = subject.trim(&missing, 1).await;
        assert_kind(&trimmed, ErrorKind::NotFound, "trimming");
        let group = Group {
            partition: missing,
            name: name("billing"),
        };
        let created = subject.create_group(&group, Start::Earliest).await;
        assert_kind(&created, ErrorKind::NotFound, "creating a group");
        let observed = subject.observe(std::slice::from_ref(&group)).await;
        assert_eq!(
            observed.expect("observing a group that is not there"),
            [None]
        );
    }
}
