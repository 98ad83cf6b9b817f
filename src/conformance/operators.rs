//! What operators do to groups.

use std::sync::Arc;

use super::Harness;
use super::build::{append_with, name, row};
use super::support::{Subject, assert_fenced, assert_kind};
use crate::error::ErrorKind;
use crate::storage::{Group, GroupState, Progress, Reset, Start, Storage, Verdicts};

fn reset(group: &Group, to: Option<Start>, is_forced: bool) -> Reset {
    Reset {
        group: group.clone(),
        to,
        is_forced,
    }
}

impl Subject {
    async fn forced(&self, group: &Group, to: Option<Start>) -> GroupState {
        let state = Storage::reset(&**self, reset(group, to, true)).await;
        state.unwrap_or_else(|error| panic!("{group} is reset by force: {error}"))
    }
}

pub(super) async fn all_groups_are_listed(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    assert_eq!(subject.groups(None).await.expect("no groups"), []);
    let mut partitions = subject.partitions("letters", 1).await;
    partitions.extend(subject.partitions("orders", 2).await);
    let mut groups = Vec::new();
    for partition in partitions {
        for group in ["billing", "shipping"] {
            groups.push(subject.group(&partition, group).await);
        }
    }
    let all = subject.groups(None).await.expect("all groups");
    assert_eq!(all, groups, "of all streams, by their names");
    let orders = subject.groups(Some(&name("orders"))).await;
    assert_eq!(orders.expect("some groups"), groups[2..], "of one stream");
    let others = subject.groups(Some(&name("order"))).await;
    assert_eq!(others.expect("no groups"), [], "of a stream without any");
}

pub(super) async fn a_reset_moves_the_position_in_a_new_epoch(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    for bodies in [["a", "b"], ["c", "d"]] {
        subject.write(&orders, &bodies).await;
    }
    let billing = subject.group(&orders, "billing").await;
    for (to, position) in [
        (Start::Offset(1), 1),
        (Start::Latest, 4),
        (Start::Earliest, 0),
        (Start::Offset(9), 9),
        (Start::Offset(3), 3),
    ] {
        let lease = subject.lease(&billing).await;
        subject.done(&lease, 2..3).await;
        let lease = subject.takeover(&billing).await;
        let before = subject.state(&billing).await;
        let after = subject.forced(&billing, Some(to)).await;
        assert_eq!(
            after,
            subject.state(&billing).await,
            "it says how it stands"
        );
        assert_eq!(after.owner, None, "the lease is free");
        assert_eq!(after.progress, Progress::at(position), "{to:?}");
        assert!(after.attempts.is_empty(), "nothing was begun there");
        assert!(after.epoch > before.epoch && after.generation > before.generation);

        let late = subject.commit(&lease, &Verdicts::from(0..2)).await;
        assert_fenced(&late, "the commit of the former owner");
        let out = subject.partition("out").await;
        let relayed = append_with([row(&out, &["A"])], [(&lease, 0..1)]);
        let relayed = subject.append(relayed).await.expect("an answer");
        assert_eq!(relayed, crate::storage::Appended::Fenced(vec![0]));
        assert_eq!(subject.state(&billing).await, after);
        if subject.reopen().await {
            let state = subject.state(&billing).await;
            assert_eq!(state.progress, after.progress, "it outlives a restart");
        }
    }
}

pub(super) async fn a_reset_of_an_active_group_has_to_be_forced(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a", "b"]).await;
    let billing = subject.group(&orders, "billing").await;
    let lease = subject.lease(&billing).await;
    subject.done(&lease, 0..2).await;
    let held = subject.state(&billing).await;
    for to in [None, Some(Start::Earliest)] {
        let answer = Storage::reset(&*subject, reset(&billing, to, false)).await;
        assert_kind(&answer, ErrorKind::Invalid, "the reset of an active group");
        assert_eq!(subject.state(&billing).await, held, "nothing has changed");
    }
    subject.released(&lease).await;
    let answer = Storage::reset(&*subject, reset(&billing, Some(Start::Earliest), false)).await;
    let state = answer.expect("nobody has the lease");
    assert_eq!(state.progress, Progress::at(0));
    let unknown = Group {
        name: name("unknown"),
        ..billing
    };
    let answer = Storage::reset(&*subject, reset(&unknown, None, true)).await;
    assert_kind(&answer, ErrorKind::NotFound, "the reset of no group");
}

pub(super) async fn a_lease_that_was_taken_away_is_free(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a", "b", "c"]).await;
    let billing = subject.group(&orders, "billing").await;
    let lease = subject.lease(&billing).await;
    subject.done(&lease, 1..2).await;
    let before = subject.state(&billing).await;
    let after = subject.forced(&billing, None).await;
    assert_eq!(after.owner, None);
    assert_eq!(after.progress, before.progress, "its progress stays");
    let renewed = subject.commit(&lease, &Verdicts::default()).await;
    assert_fenced(&renewed, "the renewal of the former owner");
    let next = subject.lease(&billing).await;
    assert!(next.epoch > lease.epoch);
}
