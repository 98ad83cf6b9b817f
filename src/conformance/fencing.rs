//! Fencing: what a former owner still writes is not accepted.

use std::sync::Arc;
use std::time::Duration;

use super::Harness;
use super::build::{append_with, row};
use super::support::{Subject, assert_fenced};
use crate::storage::{Appended, Id, Lease, Progress, Verdicts};

/// A group with four messages before it, and the lease of it.
async fn owned(subject: &Subject, stream: &str) -> Lease {
    let orders = subject.partition(stream).await;
    subject.write(&orders, &["a", "b", "c", "d"]).await;
    let billing = subject.group(&orders, "billing").await;
    subject.lease(&billing).await
}

pub(super) async fn a_fenced_owner_commits_nothing(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lost = owned(&subject, "orders").await;
    subject.done(&lost, 0..1).await;
    let now = subject.takeover(&lost.group).await;
    let before = subject.state(&lost.group).await;
    let committed = subject.commit(&lost, &Verdicts::from(1..3)).await;
    assert_fenced(&committed, "a commit of a former owner");
    let again = subject.commit(&lost, &Verdicts::from(0..1)).await;
    assert_fenced(&again, "a commit of what was done already");
    let renewed = subject.commit(&lost, &Verdicts::default()).await;
    assert_fenced(&renewed, "a renewal of a former owner");
    assert_eq!(
        subject.state(&lost.group).await,
        before,
        "nothing is written"
    );
    let progress = subject.done(&now, 2..3).await;
    assert_eq!(
        progress.position(),
        1,
        "the owner goes on from what is done"
    );
}

pub(super) async fn a_fenced_owner_appends_nothing(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lost = owned(&subject, "orders").await;
    let out = subject.partitions("out", 2).await;
    subject.takeover(&lost.group).await;
    let before = subject.state(&lost.group).await;
    let rows = [row(&out[1], &["A"]), row(&out[0], &["B"])];
    let relayed = append_with(rows, [(&lost, 0..2)]);
    for _ in 0..2 {
        let appended = subject.append(relayed.clone()).await;
        let appended = appended.expect("fenced commits are an answer, not an error");
        assert_eq!(appended, Appended::Fenced(vec![0]));
    }
    for partition in &out {
        assert_eq!(subject.range(partition).await, 0..0, "no row is written");
    }
    assert_eq!(subject.state(&lost.group).await, before, "no commit either");
    let settled = subject.settle(relayed).await.expect("an outcome");
    assert_eq!(settled, None, "it is not in the log");
    assert_eq!(subject.write(&out[0], &["next"]).await, 0);
}

pub(super) async fn the_fenced_commits_of_an_append_are_named(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let mut leases = Vec::new();
    for stream in ["one", "two", "three", "four"] {
        leases.push(owned(&subject, stream).await);
    }
    let out = subject.partition("out").await;
    subject.takeover(&leases[1].group).await;
    subject.takeover(&leases[3].group).await;
    let mut before = Vec::new();
    for lease in &leases {
        before.push(subject.state(&lease.group).await);
    }
    let all = append_with(
        [row(&out, &["A"])],
        [
            (&leases[0], 0..1),
            (&leases[1], 0..1),
            (&leases[2], 0..1),
            (&leases[3], 0..1),
        ],
    );
    let appended = subject.append(all).await.expect("an answer");
    assert_eq!(
        appended,
        Appended::Fenced(vec![1, 3]),
        "exactly the fenced ones are named"
    );
    assert_eq!(subject.range(&out).await, 0..0, "no row is written");
    for (lease, before) in leases.iter().zip(before) {
        assert_eq!(
            subject.state(&lease.group).await,
            before,
            "nor a commit that goes along, of {}",
            lease.group
        );
    }
    let rest = append_with(
        [row(&out, &["A"])],
        [(&leases[0], 0..1), (&leases[2], 0..2)],
    );
    assert_eq!(subject.written(&rest).await, [0], "the others go without");
    for (lease, position) in leases.iter().zip([1, 0, 2, 0]) {
        let progress = subject.state(&lease.group).await.progress;
        assert_eq!(progress, Progress::at(position), "{}", lease.group);
    }
}

pub(super) async fn owner_and_epoch_have_to_fit(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lease = owned(&subject, "orders").await;
    let out = subject.partition("out").await;
    let before = subject.state(&lease.group).await;
    let impostor = Lease {
        owner: Id::random(),
        ..lease.clone()
    };
    let early = Lease {
        epoch: lease.epoch - 1,
        ..lease.clone()
    };
    let late = Lease {
        epoch: lease.epoch + 1,
        ..lease.clone()
    };
    for wrong in [impostor, early, late] {
        let committed = subject.commit(&wrong, &Verdicts::from(0..1)).await;
        assert_fenced(&committed, "a commit that names another owner or epoch");
        let relayed = append_with([row(&out, &["A"])], [(&wrong, 0..1)]);
        let appended = subject.append(relayed).await.expect("an answer");
        assert_eq!(appended, Appended::Fenced(vec![0]));
    }
    assert_eq!(subject.state(&lease.group).await, before);
    assert_eq!(subject.range(&out).await, 0..0);
}

pub(super) async fn a_released_lease_is_fenced(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lease = owned(&subject, "orders").await;
    let out = subject.partition("out").await;
    subject.released(&lease).await;
    let committed = subject.commit(&lease, &Verdicts::from(0..1)).await;
    assert_fenced(&committed, "a commit after the release");
    let renewed = subject.commit(&lease, &Verdicts::default()).await;
    assert_fenced(&renewed, "a renewal after the release");
    let relayed = append_with([row(&out, &["A"])], [(&lease, 0..1)]);
    let appended = subject.append(relayed).await.expect("an answer");
    assert_eq!(appended, Appended::Fenced(vec![0]), "after the release");
    let state = subject.state(&lease.group).await;
    assert_eq!(state.progress, Progress::at(0));
    assert_eq!(state.owner, None, "a renewal does not claim");
}

pub(super) async fn time_alone_fences_nobody(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let lease = owned(&subject, "orders").await;
    let before = subject.state(&lease.group).await;
    subject.harness.pass(Duration::from_secs(2)).await;
    let after = subject.state(&lease.group).await;
    assert_eq!(after.owner, before.owner, "time never ends a lease");
    assert_eq!(after.generation, before.generation);
    assert_eq!(subject.done(&lease, 0..1).await, Progress::at(1));
}

pub(super) async fn a_fence_outlives_a_restart(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let lost = owned(&subject, "orders").await;
    let now = subject.takeover(&lost.group).await;
    if !subject.reopen().await {
        return;
    }
    let committed = subject.commit(&lost, &Verdicts::from(0..1)).await;
    assert_fenced(&committed, "a commit of a former owner");
    let state = subject.state(&lost.group).await;
    assert_eq!(state.owner, Some(now.owner), "a lease outlives a restart");
    assert_eq!(subject.done(&now, 0..1).await, Progress::at(1));
}
