//! Calls whose futures are dropped after the first poll: they run to their end all the same.

use std::sync::Arc;

use super::Harness;
use super::build::{append, append_with, claim, name, row};
use super::support::{Subject, known, poll_once};
use crate::storage::{Appended, Group, Lease, Partition, Progress, Start, Verdicts};

pub(super) async fn a_dropped_append_is_written_all_the_same(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let audit = subject.partition("audit").await;
    let both = append([row(&orders, &["a", "b"]), row(&audit, &["c"])]);
    poll_once(subject.append(both.clone()));
    subject
        .eventually("a dropped append is written", || async {
            subject.range(&orders).await == (0..2)
        })
        .await;
    assert_eq!(subject.range(&audit).await, 0..1, "with all its rows");
    assert_eq!(subject.written(&both).await, [0, 0], "a retry finds it");
    assert_eq!(subject.write(&orders, &["d"]).await, 2, "the log goes on");
    assert_eq!(subject.text(&orders).await, "a b d");
}

pub(super) async fn a_dropped_write_of_an_owner_is_written_all_the_same(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let out = subject.partition("out").await;
    subject.write(&orders, &["a", "b", "c", "d"]).await;
    let billing = subject.group(&orders, "billing").await;
    let claim = claim(&billing, None);
    poll_once(subject.claim(claim.clone()));
    subject
        .eventually("a dropped claim is written", || async {
            subject.state(&billing).await.owner == Some(claim.owner)
        })
        .await;
    let lease = subject.claimed(claim).await;
    poll_once(subject.commit(&lease, &Verdicts::from(1..2)));
    subject
        .eventually("a dropped commit is written", || async {
            subject.state(&billing).await.progress.is_done(1)
        })
        .await;
    let relayed = append_with([row(&out, &["A"])], [(&lease, 0..1)]);
    poll_once(subject.append(relayed.clone()));
    subject
        .eventually("a dropped append with a commit is written", || async {
            subject.range(&out).await == (0..1)
        })
        .await;
    let state = subject.state(&billing).await;
    assert_eq!(state.progress, Progress::at(2), "its commit came with it");
    let before = state.generation;
    poll_once(subject.commit(&lease, &Verdicts::default()));
    subject
        .eventually("a dropped renewal is written", || async {
            subject.state(&billing).await.generation > before
        })
        .await;
    assert_eq!(subject.done(&lease, 2..3).await, Progress::at(3));
    poll_once(subject.release(&lease));
    subject
        .eventually("a dropped release is written", || async {
            subject.state(&billing).await.owner.is_none()
        })
        .await;
    subject.lease(&billing).await;
}

pub(super) async fn other_dropped_calls_run_to_their_end(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let stream = name("orders");
    poll_once(subject.create_stream(&stream, Some(2)));
    let orders = [0, 1].map(|index| Partition {
        stream: stream.clone(),
        index,
    });
    subject
        .eventually("a dropped creation of a stream is done", || async {
            subject.bounds(&orders).await.is_ok()
        })
        .await;
    subject.write(&orders[0], &["a", "b"]).await;
    subject.write(&orders[0], &["c"]).await;
    let billing = Group {
        partition: orders[0].clone(),
        name: name("billing"),
    };
    poll_once(subject.create_group(&billing, Start::Offset(1)));
    subject
        .eventually("a dropped creation of a group is done", || async {
            let states = subject.observe(std::slice::from_ref(&billing)).await;
            states.expect("how a group stands")[0].is_some()
        })
        .await;
    assert_eq!(subject.state(&billing).await.progress, Progress::at(1));
    poll_once(subject.trim(&orders[0], 2));
    subject
        .eventually("a dropped trim is done", || async {
            subject.range(&orders[0]).await == (2..3)
        })
        .await;
    // Reads have nothing to finish, but leave nothing behind either.
    for _ in 0..100 {
        poll_once(subject.read(super::build::read(&orders[0], 0, 1)));
        poll_once(subject.bounds(&orders));
        poll_once(subject.observe(std::slice::from_ref(&billing)));
    }
    assert_eq!(subject.write(&orders[0], &["d"]).await, 3);
    assert_eq!(subject.text(&orders[0]).await, "c d");
}

pub(super) async fn a_dropped_settle_leaves_one_truth(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    for round in 0..20 {
        let append = append([row(&orders, &["a"])]);
        // Either may come first, and nobody hears its answer.
        if round % 2 == 0 {
            poll_once(subject.append(append.clone()));
            poll_once(subject.settle(append.clone()));
        } else {
            poll_once(subject.settle(append.clone()));
            poll_once(subject.append(append.clone()));
        }
        let settled = subject.settle(append.clone()).await.expect("an outcome");
        let expected = settled.map_or(Appended::Refused, Appended::Known);
        for _ in 0..2 {
            let appended = subject.append(append.clone()).await.expect("an answer");
            assert_eq!(known(appended), expected, "what was settled stays so");
        }
    }
}

pub(super) async fn dropped_calls_leave_no_gap(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let out = subject.partition("out").await;
    let appends = 100;
    let billing = subject.group(&orders, "billing").await;
    let lease: Lease = subject.lease(&billing).await;
    for at in 0..appends {
        poll_once(subject.append(append([row(&orders, &["a", "b"])])));
        if at % 10 == 0 {
            subject.write(&out, &["between"]).await;
        }
    }
    subject
        .eventually("all dropped appends are written", || async {
            subject.range(&orders).await == (0..2 * appends)
        })
        .await;
    for at in 0..2 * appends {
        poll_once(subject.commit(&lease, &Verdicts::from(at..at + 1)));
    }
    subject
        .eventually("all dropped commits are written", || async {
            subject.state(&billing).await.progress == Progress::at(2 * appends)
        })
        .await;
    // Reading them checks that there is no gap.
    assert_eq!(subject.log(&orders).await.len() as u64, 2 * appends);
}
