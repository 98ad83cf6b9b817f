//! Ids: what makes a retry safe.

use std::sync::Arc;

use super::Harness;
use super::build::{append, append_with, name, row};
use super::support::{Subject, assert_kind};
use crate::error::ErrorKind;
use crate::storage::{Append, Appended, Partition};

pub(super) async fn the_same_id_is_written_once(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 2).await;
    subject.write(&orders[1], &["before"]).await;
    let both = append([row(&orders[1], &["a", "b"]), row(&orders[0], &["c"])]);
    assert_eq!(subject.written(&both).await, [1, 0]);
    subject.write(&orders[0], &["after"]).await;
    for _ in 0..3 {
        assert_eq!(
            subject.written(&both).await,
            [1, 0],
            "a retry is answered with the offsets given then"
        );
    }
    assert_eq!(subject.text(&orders[0]).await, "c after", "one copy");
    assert_eq!(subject.text(&orders[1]).await, "before a b", "one copy");
}

pub(super) async fn the_same_id_is_written_once_after_a_restart(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let once = append([row(&orders, &["a", "b"])]);
    subject.written(&once).await;
    subject.write(&orders, &["c"]).await;
    if !subject.reopen().await {
        return;
    }
    assert_eq!(subject.written(&once).await, [0], "a retry after a restart");
    assert_eq!(subject.text(&orders).await, "a b c");
}

pub(super) async fn a_replay_does_not_write_its_commits_again(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a", "b"]).await;
    let lease = subject
        .lease(&subject.group(&orders, "billing").await)
        .await;
    let out = subject.partition("out").await;
    let once = append_with([row(&out, &["A"])], [(&lease, 0..1)]);
    subject.written(&once).await;
    let before = subject.state(&lease.group).await;
    assert_eq!(subject.written(&once).await, [0]);
    let after = subject.state(&lease.group).await;
    assert_eq!(
        before, after,
        "an append that is in the log changes nothing"
    );
}

pub(super) async fn an_id_is_looked_for_before_the_leases(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let out = subject.partition("out").await;
    subject.write(&orders, &["a", "b"]).await;
    let billing = subject.group(&orders, "billing").await;
    let lost = subject.lease(&billing).await;
    let once = append_with([row(&out, &["A"])], [(&lost, 0..1)]);
    subject.written(&once).await;
    subject.takeover(&billing).await;
    let before = subject.state(&billing).await;
    for restart in [false, true] {
        if restart {
            subject.reopen().await;
        }
        assert_eq!(
            subject.written(&once).await,
            [0],
            "a retry of what was written is no error, though the lease was lost since"
        );
        assert_eq!(subject.text(&out).await, "A");
        let after = subject.state(&billing).await;
        assert_eq!(after.progress, before.progress);
        assert_eq!(after.generation, before.generation);
    }
}

pub(super) async fn an_id_is_known_for_a_thousand_appends(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let once = append([row(&orders, &["once"])]);
    assert_eq!(subject.written(&once).await, [0]);
    subject.write_many(&orders, 999).await;
    assert_eq!(
        subject.written(&once).await,
        [0],
        "an id is remembered over the last thousand appends"
    );
    assert_eq!(subject.range(&orders).await, 0..1000);
    if subject.reopen().await {
        assert_eq!(subject.written(&once).await, [0], "after a restart too");
        assert_eq!(subject.range(&orders).await, 0..1000);
    }
}

pub(super) async fn an_append_that_failed_may_come_again(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let later = Partition {
        stream: name("later"),
        index: 0,
    };
    let early = append([row(&orders, &["a"]), row(&later, &["b"])]);
    let appended = subject.append(early.clone()).await;
    assert_kind(&appended, ErrorKind::NotFound, "a row without a stream");
    subject.partition("later").await;
    assert_eq!(
        subject.written(&early).await,
        [0, 0],
        "the id of an append that was not applied is still free"
    );
    assert_eq!(subject.text(&orders).await, "a");
}

pub(super) async fn settling_gives_the_offsets_of_what_is_there(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partitions("orders", 2).await;
    subject.write(&orders[1], &["before"]).await;
    let both = append([row(&orders[1], &["a"]), row(&orders[0], &["b", "c"])]);
    subject.written(&both).await;
    for restart in [false, false, true] {
        if restart {
            subject.reopen().await;
        }
        let settled = subject.settle(both.clone()).await.expect("an outcome");
        assert_eq!(settled, Some(vec![1, 0]), "it is in the log");
        assert_eq!(subject.written(&both).await, [1, 0], "and stays there");
    }
    assert_eq!(subject.text(&orders[1]).await, "before a");
}

pub(super) async fn settling_refuses_what_is_not_there(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let never = append([row(&orders, &["never"])]);
    for _ in 0..2 {
        let settled = subject.settle(never.clone()).await.expect("an outcome");
        assert_eq!(settled, None, "it is not in the log");
        assert_refused(&subject, &never).await;
    }
    assert_eq!(subject.range(&orders).await, 0..0);
    // The same messages are welcome under another id.
    assert_eq!(subject.write(&orders, &["never"]).await, 0);
}

pub(super) async fn a_refusal_is_for_ever(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let never = append([row(&orders, &["never"])]);
    subject.settle(never.clone()).await.expect("an outcome");
    subject.write_many(&orders, 1100).await;
    for _ in 0..100 {
        let other = append([row(&orders, &["never"])]);
        let settled = subject.settle(other).await.expect("an outcome");
        assert_eq!(settled, None);
    }
    assert_refused(&subject, &never).await;
    subject.trim(&orders, 1100).await.expect("a trim");
    assert_refused(&subject, &never).await;
    if subject.reopen().await {
        assert_refused(&subject, &never).await;
    }
    assert_eq!(subject.range(&orders).await, 1100..1100);
}

pub(super) async fn a_refused_append_writes_no_commits(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a"]).await;
    let billing = subject.group(&orders, "billing").await;
    let lease = subject.lease(&billing).await;
    let never = append_with([row(&orders, &["never"])], [(&lease, 0..1)]);
    let settled = subject.settle(never.clone()).await.expect("an outcome");
    assert_eq!(settled, None);
    let before = subject.state(&billing).await;
    assert_refused(&subject, &never).await;
    assert_eq!(subject.state(&billing).await, before, "nothing is written");
    subject.takeover(&billing).await;
    // The id comes first: whoever retries has to learn that it is refused, not that it is fenced.
    assert_refused(&subject, &never).await;
    assert_eq!(subject.text(&orders).await, "a");
}

async fn assert_refused(subject: &Subject, append: &Arc<Append>) {
    let appended = subject.append(append.clone()).await;
    let appended = appended.expect("a refusal is an answer, not an error");
    assert_eq!(appended, Appended::Refused, "its id was settled as absent");
}
