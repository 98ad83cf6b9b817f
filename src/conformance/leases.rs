//! Leases: who gets one, and what epochs and generations say.

use std::sync::Arc;

use super::Harness;
use super::build::{append_with, claim, name, row};
use super::support::{Subject, assert_kind};
use crate::error::ErrorKind;
use crate::storage::{Claim, Group, Lease, Over, Ranges};

/// A group with two messages before it.
async fn billing(subject: &Subject) -> Group {
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a", "b"]).await;
    subject.group(&orders, "billing").await
}

pub(super) async fn a_free_lease_is_claimed(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    assert_eq!(subject.state(&billing).await.owner, None, "free at first");
    let claim = claim(&billing, None);
    let state = subject.claim(claim.clone()).await.expect("a claim");
    assert_eq!(state.owner, Some(claim.owner));
    assert_eq!(state.epoch, 1, "the first epoch is 1");
    assert_eq!(state.bounds, 0..2);
    assert_eq!(
        subject.state(&billing).await,
        state,
        "a claim answers how the group stands"
    );
}

pub(super) async fn a_held_lease_is_not_claimed(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    subject.lease(&billing).await;
    let held = subject.state(&billing).await;
    let (epoch, generation) = (held.epoch, held.generation);
    for over in [
        None,
        Some((epoch, generation + 1)),
        Some((epoch + 1, generation)),
        Some((epoch - 1, generation)),
        Some((epoch, generation - 1)),
        Some((0, 0)),
    ] {
        let state = subject
            .claim(claim(&billing, over))
            .await
            .expect("an answer");
        assert_eq!(
            state, held,
            "a claim over {over:?} gets and changes nothing"
        );
        assert_eq!(subject.state(&billing).await, held);
    }
}

pub(super) async fn a_claim_whose_answer_got_lost_keeps_its_epoch(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let before = subject.state(&billing).await;
    let over = Some(Over::another(before.epoch, before.generation));
    let claim = Claim {
        over,
        ..claim(&billing, None)
    };
    let lease = subject.claimed(claim.clone()).await;
    let first = subject.state(&billing).await;
    for restart in [false, true] {
        if restart {
            subject.reopen().await;
        }
        let state = subject.claim(claim.clone()).await.expect("a claim");
        assert_eq!(state.owner, Some(claim.owner));
        assert_eq!(state.epoch, lease.epoch, "the owner keeps its epoch");
        assert!(state.generation >= first.generation);
        assert!(state.attempts.is_empty(), "nobody else had begun anything");
        subject.done(&lease, Ranges::new()).await;
    }
}

pub(super) async fn a_lease_that_stood_still_is_claimed_over(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let first = subject.lease(&billing).await;
    let seen = subject.state(&billing).await;
    let over = claim(&billing, Some((seen.epoch, seen.generation)));
    let second = subject.claimed(over).await;
    assert!(second.epoch > first.epoch, "another owner is another epoch");
    let state = subject.state(&billing).await;
    assert_eq!(state.owner, Some(second.owner));
    assert!(state.generation > seen.generation, "a claim is a write");
    // What was seen before the takeover is worth nothing after it.
    let late = claim(&billing, Some((seen.epoch, seen.generation)));
    let answer = subject.claim(late).await.expect("an answer");
    assert_eq!(answer.owner, Some(second.owner), "only one takes it over");
}

pub(super) async fn a_renewed_lease_is_not_claimed_over(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let lease = subject.lease(&billing).await;
    let out = subject.partition("out").await;
    for write in ["renewal", "commit", "append"] {
        let seen = subject.state(&billing).await;
        match write {
            "renewal" => drop(subject.done(&lease, Ranges::new()).await),
            "commit" => drop(subject.done(&lease, 0..1).await),
            _ => drop(
                subject
                    .written(&append_with([row(&out, &["A"])], [(&lease, 1..2)]))
                    .await,
            ),
        }
        let stale = claim(&billing, Some((seen.epoch, seen.generation)));
        let answer = subject.claim(stale).await.expect("an answer");
        assert_eq!(
            answer.owner,
            Some(lease.owner),
            "a {write} since then shows that the owner lives"
        );
        subject.done(&lease, Ranges::new()).await;
    }
}

pub(super) async fn epochs_grow_with_each_owner(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let mut last = 0;
    for round in 0..12 {
        let lease = match round % 3 {
            0 => subject.lease(&billing).await,
            _ => subject.takeover(&billing).await,
        };
        assert!(lease.epoch > last, "{} after {last}", lease.epoch);
        last = lease.epoch;
        if round % 3 == 2 {
            subject.released(&lease).await;
            let state = subject.state(&billing).await;
            assert_eq!(state.epoch, last, "the epoch of the last owner");
        }
        if round == 5 {
            subject.reopen().await;
        }
    }
}

pub(super) async fn each_write_is_a_new_generation(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let out = subject.partition("out").await;
    let generation = async || subject.state(&billing).await.generation;
    let mut seen = vec![("nothing yet", generation().await)];
    let lease = subject.lease(&billing).await;
    seen.push(("a claim", generation().await));
    subject.done(&lease, 0..1).await;
    seen.push(("a commit", generation().await));
    subject.done(&lease, 0..1).await;
    seen.push(("a commit of what was done already", generation().await));
    subject.done(&lease, Ranges::new()).await;
    seen.push(("a renewal", generation().await));
    let relayed = append_with([row(&out, &["A"])], [(&lease, 1..2)]);
    subject.written(&relayed).await;
    seen.push(("an append with a commit", generation().await));
    let lease = subject.takeover(&billing).await;
    seen.push(("a takeover", generation().await));
    subject.released(&lease).await;
    seen.push(("a release", generation().await));
    for pair in seen.windows(2) {
        let [(_, before), (write, after)] = pair else {
            unreachable!("windows of two");
        };
        assert!(after > before, "{write} is a new generation: {seen:?}");
    }
}

pub(super) async fn a_release_frees_the_lease(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let first = subject.lease(&billing).await;
    subject.released(&first).await;
    assert_eq!(subject.state(&billing).await.owner, None, "it is free");
    let second = subject.lease(&billing).await;
    assert!(second.epoch > first.epoch, "another owner is another epoch");
    subject.released(&second).await;
    if subject.reopen().await {
        let state = subject.state(&billing).await;
        assert_eq!(state.owner, None, "a release outlives a restart");
        subject.lease(&billing).await;
    }
}

pub(super) async fn a_former_owner_releases_nothing(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let billing = billing(&subject).await;
    let first = subject.lease(&billing).await;
    let second = subject.takeover(&billing).await;
    let held = subject.state(&billing).await;
    let wrong_epoch = Lease {
        epoch: first.epoch,
        ..second.clone()
    };
    for former in [&first, &wrong_epoch] {
        let released = subject.release(former).await;
        released.expect("to release what was lost is no error");
        let state = subject.state(&billing).await;
        assert_eq!(state, held, "a former owner changes nothing");
    }
    subject.released(&second).await;
    let free = subject.state(&billing).await;
    subject.released(&second).await;
    assert_eq!(subject.state(&billing).await, free, "nor does it twice");
}

pub(super) async fn a_claim_needs_a_group(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let known = billing(&subject).await;
    let unknown = Group {
        name: name("unknown"),
        ..known
    };
    let claimed = subject.claim(claim(&unknown, None)).await;
    assert_kind(&claimed, ErrorKind::NotFound, "the claim of no group");
}
