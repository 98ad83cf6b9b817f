//! Attempts: how often a message was begun and not done.

use std::sync::Arc;

use super::Harness;
use super::build::{append_with, claim, row, verdicts};
use super::support::{Subject, assert_fenced, attempts};
use crate::storage::{Claim, Group, Over, Progress, Start, Verdicts};

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

pub(super) async fn an_attempt_is_counted_only_where_the_claim_says_so(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    subject.lease(&billing).await;
    for counted in [0, 0, 1, 1, 2] {
        let seen = subject.state(&billing).await;
        let counts_attempt = counted > attempts(&seen, 0);
        let over = Some(Over {
            counts_attempt,
            ..Over::another(seen.epoch, seen.generation)
        });
        let claim = Claim {
            over,
            ..claim(&billing, None)
        };
        let state = subject.claim(claim).await.expect("a claim");
        assert_eq!(state.epoch, seen.epoch + 1, "it takes over all the same");
        assert_eq!(attempts(&state, 0), counted);
        assert_eq!(attempts(&subject.state(&billing).await, 0), counted);
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

pub(super) async fn a_commit_raises_attempts(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let lease = subject.lease(&billing).await;
    let before = subject.state(&billing).await.generation;
    for (counts, expected) in [
        ([(0, 1), (2, 3)], [1, 0, 3]),
        // Twice is once, and less is nothing.
        ([(0, 1), (2, 3)], [1, 0, 3]),
        ([(1, 2), (2, 1)], [1, 2, 3]),
        ([(0, 4), (2, 3)], [4, 2, 3]),
    ] {
        let progress = subject.done(&lease, verdicts(0..0, &counts)).await;
        assert_eq!(progress, Progress::at(0), "nothing is done");
        let state = subject.state(&billing).await;
        let stored = [0, 1, 2].map(|at| attempts(&state, at));
        assert_eq!(stored, expected, "after {counts:?}");
        assert!(state.attempts.is_sorted(), "in order: {state:?}");
    }
    let after = subject.state(&billing).await.generation;
    assert!(after >= before + 4, "each is a write of the owner");
    // What dies with it counts on top of that.
    subject.takeover(&billing).await;
    let state = subject.state(&billing).await;
    assert_eq!([0, 1, 2].map(|at| attempts(&state, at)), [5, 2, 3]);
}

pub(super) async fn attempts_of_what_is_done_go(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let lease = subject.lease(&billing).await;
    // Of one that becomes done by the same commit, too.
    let all = verdicts(1..2, &[(0, 1), (1, 1), (2, 1)]);
    subject.done(&lease, all).await;
    let state = subject.state(&billing).await;
    assert_eq!(state.attempts, [(0, 1), (2, 1)]);
    let out = subject.partition("out").await;
    let relayed = append_with([row(&out, &["A"])], [(&lease, 0..1)]);
    subject.written(&relayed).await;
    let state = subject.state(&billing).await;
    assert_eq!(state.attempts, [(2, 1)], "done by an append");
    subject.done(&lease, verdicts(2..3, &[(0, 7)])).await;
    let state = subject.state(&billing).await;
    assert!(state.attempts.is_empty(), "all is done: {state:?}");
}

pub(super) async fn a_fenced_owner_raises_no_attempts(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let lost = subject.lease(&billing).await;
    let lease = subject.takeover(&billing).await;
    let refused = subject.commit(&lost, &verdicts(0..0, &[(1, 9)])).await;
    assert_fenced(&refused, "the count of a former owner");
    let state = subject.state(&billing).await;
    assert_eq!([0, 1, 2].map(|at| attempts(&state, at)), [1, 0, 0]);
    // And a release takes none back.
    subject.done(&lease, verdicts(0..0, &[(1, 2)])).await;
    subject.released(&lease).await;
    let lease = subject.lease(&billing).await;
    let renewed = subject.done(&lease, Verdicts::default()).await;
    assert_eq!(renewed, Progress::at(0));
    let state = subject.state(&billing).await;
    assert_eq!([0, 1, 2].map(|at| attempts(&state, at)), [1, 2, 0]);
}

pub(super) async fn the_first_thousand_attempts_are_kept(harness: Arc<dyn Harness>) {
    const MANY: u64 = 1_500;
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["x"; MANY as usize]).await;
    let billing = subject.group(&orders, "billing").await;
    let lease = subject.lease(&billing).await;
    // From behind, so that those in front are not the oldest.
    for part in (0..MANY / 100).rev() {
        let start = part * 100;
        let counts: Vec<(u64, u32)> = (start..start + 100).map(|at| (at, 2)).collect();
        subject.done(&lease, verdicts(0..0, &counts)).await;
    }
    subject.takeover(&billing).await;
    let state = subject.state(&billing).await;
    assert_eq!(attempts(&state, 0), 3);
    let kept = (1..1_000).filter(|at| attempts(&state, *at) == 2).count();
    assert_eq!(kept, 999, "the first thousand are kept");
}

pub(super) async fn attempts_outlive_a_restart(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let billing = billing(&subject).await;
    subject.lease(&billing).await;
    let lease = subject.takeover(&billing).await;
    subject.done(&lease, verdicts(0..0, &[(1, 6)])).await;
    if !subject.reopen().await {
        return;
    }
    let state = subject.state(&billing).await;
    assert_eq!(state.attempts, [(0, 1), (1, 6)]);
    subject.takeover(&billing).await;
    let state = subject.state(&billing).await;
    assert_eq!(state.attempts, [(0, 2), (1, 6)]);
}
