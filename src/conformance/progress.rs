//! Progress: what a group has done only grows.

use std::sync::Arc;

use super::Harness;
use super::build::{append_with, row};
use super::support::Subject;
use crate::storage::{Lease, Progress, Ranges};

/// The lease of a group with ten messages before it.
async fn owned(subject: &Subject) -> Lease {
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["x"; 10]).await;
    let billing = subject.group(&orders, "billing").await;
    subject.lease(&billing).await
}

fn progress(position: u64, acked: &[std::ops::Range<u64>]) -> Progress {
    let mut progress = Progress::at(position);
    progress.merge(&acked.iter().cloned().collect());
    progress
}

pub(super) async fn commits_are_merged(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lease = owned(&subject).await;
    for (done, expected) in [
        (0..2, progress(2, &[])),
        (4..5, progress(2, &[4..5])),
        (7..9, progress(2, &[4..5, 7..9])),
        (5..6, progress(2, &[4..6, 7..9])),
        (2..3, progress(3, &[4..6, 7..9])),
        (3..4, progress(6, &[7..9])),
        (5..10, progress(10, &[])),
    ] {
        let answer = subject.done(&lease, done.clone()).await;
        assert_eq!(answer, expected, "after {done:?} was done");
        let stored = subject.state(&lease.group).await.progress;
        assert_eq!(stored, expected, "stored after {done:?} was done");
    }
}

pub(super) async fn commits_have_no_order(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lease = owned(&subject).await;
    for at in [9, 3, 0, 5, 7, 1, 8, 2] {
        subject.done(&lease, at..at + 1).await;
    }
    let several: Ranges = [8..9, 0..2, 3..4].into_iter().collect();
    let answer = subject.done(&lease, several).await;
    assert_eq!(answer, progress(4, &[5..6, 7..10]), "twice is once");
    let renewed = subject.done(&lease, Ranges::new()).await;
    assert_eq!(renewed, answer, "a renewal tells what is done");
    let several: Ranges = [4..5, 6..7].into_iter().collect();
    assert_eq!(subject.done(&lease, several).await, Progress::at(10));
}

pub(super) async fn a_thousand_ranges_are_merged(harness: Arc<dyn Harness>) {
    const END: u64 = 2_000;
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["x"; END as usize]).await;
    let billing = subject.group(&orders, "billing").await;
    let lease = subject.lease(&billing).await;
    let mut expected = Progress::at(0);
    let odd: Ranges = (1..END).step_by(2).map(|at| at..at + 1).collect();
    for done in [
        odd.clone(),
        Ranges::from(1_000..1_001),
        Ranges::from(0..1),
        odd,
        // Below the position, across gaps, and at the end.
        [0..1, 500..507, 1_998..1_999].into_iter().collect(),
        Ranges::new(),
        [1..20, 40..41].into_iter().collect(),
    ] {
        expected.merge(&done);
        let answer = subject.done(&lease, done).await;
        assert_eq!(answer, expected);
        let stored = subject.state(&lease.group).await.progress;
        assert_eq!(stored, expected, "as it is stored");
    }
    let out = subject.partition("out").await;
    for done in [700..750, 20..30] {
        expected.merge(&Ranges::from(done.clone()));
        subject
            .written(&append_with([row(&out, &["A"])], [(&lease, done)]))
            .await;
        let stored = subject.state(&lease.group).await.progress;
        assert_eq!(stored, expected, "after an append with a commit");
    }
    assert_eq!(subject.done(&lease, 0..END).await, Progress::at(END));
}

pub(super) async fn a_position_never_goes_back(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lease = owned(&subject).await;
    subject.done(&lease, 0..8).await;
    for done in [0..1, 2..5, 7..8] {
        assert_eq!(subject.done(&lease, done).await, Progress::at(8));
    }
    assert_eq!(subject.state(&lease.group).await.progress, Progress::at(8));
}

pub(super) async fn commits_of_appends_are_merged(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lease = owned(&subject).await;
    let out = subject.partition("out").await;
    subject.done(&lease, 0..1).await;
    for (done, expected) in [
        (3..4, progress(1, &[3..4])),
        (1..2, progress(2, &[3..4])),
        (3..4, progress(2, &[3..4])),
        (0..1, progress(2, &[3..4])),
        (2..3, progress(4, &[])),
    ] {
        let relayed = append_with([row(&out, &["A"])], [(&lease, done)]);
        subject.written(&relayed).await;
        assert_eq!(subject.state(&lease.group).await.progress, expected);
    }
    assert_eq!(subject.done(&lease, 5..6).await, progress(4, &[5..6]));
    assert_eq!(subject.range(&out).await, 0..5);
}

pub(super) async fn an_append_of_commits_alone_writes_them(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lease = owned(&subject).await;
    let other = subject.group(&lease.group.partition, "other").await;
    let other = subject.lease(&other).await;
    let commits = append_with([], [(&other, 0..3), (&lease, 1..2)]);
    assert!(subject.written(&commits).await.is_empty(), "no rows");
    let state = subject.state(&lease.group).await;
    assert_eq!(state.progress, progress(0, &[1..2]));
    let state = subject.state(&other.group).await;
    assert_eq!(state.progress, Progress::at(3));
}

pub(super) async fn progress_outlives_its_owner(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let first = owned(&subject).await;
    subject.done(&first, 0..2).await;
    subject.done(&first, 4..5).await;
    let second = subject.takeover(&first.group).await;
    let state = subject.state(&first.group).await;
    assert_eq!(state.progress, progress(2, &[4..5]), "after a takeover");
    subject.done(&second, 6..7).await;
    subject.released(&second).await;
    subject.lease(&first.group).await;
    let state = subject.state(&first.group).await;
    assert_eq!(state.progress, progress(2, &[4..5, 6..7]), "and a release");
}

pub(super) async fn progress_outlives_a_restart(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let lease = owned(&subject).await;
    let out = subject.partition("out").await;
    subject.done(&lease, 0..2).await;
    let relayed = append_with([row(&out, &["A"])], [(&lease, 4..5)]);
    subject.written(&relayed).await;
    let before = subject.state(&lease.group).await;
    if !subject.reopen().await {
        return;
    }
    let after = subject.state(&lease.group).await;
    assert_eq!(after.progress, progress(2, &[4..5]));
    assert_eq!(after.generation, before.generation);
    assert_eq!(subject.done(&lease, 2..4).await, Progress::at(5));
}
