//! Attempts: how often a message was begun and not done.

use std::sync::Arc;

use super::Harness;
use super::build::claim;
use super::support::{Subject, attempts};
use crate::storage::{Group, Progress, Start};

/// A group with three messages before it.
async fn billing(subject: &Subject) -> Group {
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a", "b", "c"]).await;
    subject.group(&orders, "billing").await
}

pub(super) async fn an_unclean_takeover_counts_an_attempt(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    subject.lease(&billing).await;
    let state = subject.state(&billing).await;
    assert!(
        state.attempts.is_empty(),
        "the first claim takes from nobody"
    );
    for count in 1..=3 {
        let seen = subject.state(&billing).await;
        let over = claim(&billing, Some((seen.epoch, seen.generation)));
        let state = subject.claim(over).await.expect("a claim");
        assert_eq!(
            attempts(&state, 0),
            count,
            "the claim that takes over answers the attempt"
        );
        assert_eq!(attempts(&subject.state(&billing).await, 0), count);
        assert_eq!([attempts(&state, 1), attempts(&state, 2)], [0, 0]);
    }
}

pub(super) async fn an_attempt_counts_for_the_first_message_not_done(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let lease = subject.lease(&billing).await;
    subject.done(&lease, 0..1).await;
    subject.done(&lease, 2..3).await;
    let lease = subject.takeover(&billing).await;
    let state = subject.state(&billing).await;
    assert_eq!(attempts(&state, 1), 1, "message 1 is the first not done");
    assert_eq!([attempts(&state, 0), attempts(&state, 2)], [0, 0]);
    // Done at last: the next one to suffer is another.
    subject.done(&lease, 1..2).await;
    subject.write(&billing.partition, &["d"]).await;
    subject.takeover(&billing).await;
    let state = subject.state(&billing).await;
    assert_eq!(attempts(&state, 3), 1, "message 3 is the first not done");
}

pub(super) async fn a_clean_handover_counts_no_attempt(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    for _ in 0..2 {
        let lease = subject.lease(&billing).await;
        subject.released(&lease).await;
    }
    // A claim that names what it saw finds the lease free: nobody died.
    let lease = subject.takeover(&billing).await;
    let state = subject.state(&billing).await;
    assert!(state.attempts.is_empty(), "nobody died: {state:?}");
    // An attempt that was counted stays counted through a clean handover.
    subject.takeover(&billing).await;
    let state = subject.state(&billing).await;
    assert_eq!(attempts(&state, 0), 1);
    let refused = subject.claim(claim(&billing, Some((lease.epoch, 0)))).await;
    assert_eq!(
        attempts(&refused.expect("an answer"), 0),
        1,
        "a claim that got nothing counts nothing"
    );
}

pub(super) async fn no_attempt_is_counted_where_nothing_is_pending(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let lease = subject.lease(&billing).await;
    subject.done(&lease, 0..3).await;
    subject.takeover(&billing).await;
    let state = subject.state(&billing).await;
    assert!(state.attempts.is_empty(), "all was done: {state:?}");
    subject.write(&billing.partition, &["d"]).await;
    let state = subject.state(&billing).await;
    assert_eq!(state.progress, Progress::at(3));
    assert_eq!(attempts(&state, 3), 0, "what came later was never begun");
    let waiting = Group {
        name: super::build::name("waiting"),
        ..billing
    };
    let created = subject.create_group(&waiting, Start::Offset(100)).await;
    created.expect("a group that waits for the log");
    subject.lease(&waiting).await;
    subject.takeover(&waiting).await;
    let state = subject.state(&waiting).await;
    assert!(
        state.attempts.is_empty(),
        "the log is not so far: {state:?}"
    );
}

pub(super) async fn attempts_outlive_a_restart(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let billing = billing(&subject).await;
    subject.lease(&billing).await;
    subject.takeover(&billing).await;
    if !subject.reopen().await {
        return;
    }
    assert_eq!(attempts(&subject.state(&billing).await, 0), 1);
    subject.takeover(&billing).await;
    assert_eq!(attempts(&subject.state(&billing).await, 0), 2);
}
