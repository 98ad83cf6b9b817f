//! The end of a storage.

use std::sync::Arc;

use super::Harness;
use super::build::{append, claim, read, row};
use super::support::{Subject, assert_kind, poll_once};
use crate::error::ErrorKind::Closed;
use crate::storage::{Start, Verdicts};

pub(super) async fn a_closed_storage_says_so(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a"]).await;
    let billing = subject.group(&orders, "billing").await;
    let lease = subject.lease(&billing).await;
    subject.close().await.expect("a storage is closed");

    let written = append([row(&orders, &["b"])]);
    let groups = std::slice::from_ref(&billing);
    let created = subject.create_stream(&orders.stream, None).await;
    assert_kind(&created, Closed, "create_stream");
    assert_kind(&subject.append(written.clone()).await, Closed, "append");
    assert_kind(&subject.settle(written).await, Closed, "settle");
    assert_kind(&subject.read(read(&orders, 0, 1)).await, Closed, "read");
    let bounds = subject.bounds(std::slice::from_ref(&orders)).await;
    assert_kind(&bounds, Closed, "bounds");
    let created = subject.create_group(&billing, Start::Earliest).await;
    assert_kind(&created, Closed, "create_group");
    assert_kind(&subject.observe(groups).await, Closed, "observe");
    let claimed = subject.claim(claim(&billing, None)).await;
    assert_kind(&claimed, Closed, "claim");
    let committed = subject.commit(&lease, &Verdicts::from(0..1)).await;
    assert_kind(&committed, Closed, "commit");
    assert_kind(&subject.release(&lease).await, Closed, "release");
    assert_kind(&subject.trim(&orders, 1).await, Closed, "trim");
}

pub(super) async fn closing_finishes_what_is_under_way(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    for _ in 0..50 {
        poll_once(subject.append(append([row(&orders, &["a", "b"])])));
    }
    if !subject.reopen().await {
        subject
            .within("closing comes to an end", subject.close())
            .await
            .expect("a storage is closed");
        return;
    }
    assert_eq!(
        subject.range(&orders).await,
        0..100,
        "what was begun before the close is written"
    );
    assert_eq!(subject.log(&orders).await.len(), 100);
}
