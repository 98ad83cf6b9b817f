//! Many claims and writes of owners at once.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Harness;
use super::build::{append_with, claim, row};
use super::support::Subject;
use crate::storage::{Appended, Lease, Progress, Verdicts};

const TASKS: u64 = 8;
const ROUNDS: u64 = 20;

pub(super) async fn one_of_many_claims_wins(harness: Arc<dyn Harness>) {
    race(Subject::new(harness), false).await;
}

pub(super) async fn one_of_many_takeovers_wins(harness: Arc<dyn Harness>) {
    race(Subject::new(harness), true).await;
}

/// Lets many claim at once, one free lease after the other, or over the same state.
async fn race(subject: Subject, over: bool) {
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a"]).await;
    let billing = subject.group(&orders, "billing").await;
    if over {
        subject.lease(&billing).await;
    }
    let mut last = subject.state(&billing).await.epoch;
    for _ in 0..10 {
        let seen = subject.state(&billing).await;
        let over = over.then_some((seen.epoch, seen.generation));
        let mut claims = JoinSet::new();
        for _ in 0..TASKS {
            let (subject, claim) = (subject.clone(), claim(&billing, over));
            claims.spawn(async move {
                let owner = claim.owner;
                let state = subject.claim(claim).await.expect("an answer");
                (state.owner == Some(owner), state)
            });
        }
        let answers = claims.join_all().await;
        let winners: Vec<_> = answers.iter().filter(|(won, _)| *won).collect();
        assert_eq!(winners.len(), 1, "exactly one of many claims succeeds");
        let won = &winners[0].1;
        assert!(won.epoch > last, "with an epoch of its own");
        last = won.epoch;
        let owner = won.owner.expect("the winner");
        let now = subject.state(&billing).await;
        assert_eq!(now.owner, Some(owner), "and stays the owner");
        if over.is_none() {
            let lease = Lease {
                group: billing.clone(),
                owner,
                epoch: last,
            };
            subject.released(&lease).await;
        }
    }
}

pub(super) async fn concurrent_commits_lose_nothing(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let out = subject.partition("out").await;
    subject
        .write(&orders, &vec!["x"; (TASKS * ROUNDS) as usize])
        .await;
    let billing = subject.group(&orders, "billing").await;
    let lease = subject.lease(&billing).await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (subject, lease, out) = (subject.clone(), lease.clone(), out.clone());
        tasks.spawn(async move {
            for round in 0..ROUNDS {
                // Each task does every eighth, so that acked ranges come and go.
                let at = round * TASKS + task;
                if task == 0 {
                    let relayed = append_with([row(&out, &["A"])], [(&lease, at..at + 1)]);
                    subject.written(&relayed).await;
                } else {
                    let progress = subject.done(&lease, at..at + 1).await;
                    assert!(progress.is_done(at), "a commit answers what is done");
                }
                let state = subject.state(&lease.group).await;
                assert!(state.progress.is_done(at), "what was answered stays done");
            }
        });
    }
    tasks.join_all().await;
    let state = subject.state(&billing).await;
    assert_eq!(state.progress, Progress::at(TASKS * ROUNDS), "all are done");
}

pub(super) async fn a_takeover_and_commits_exclude_each_other(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let out = subject.partition("out").await;
    subject.write(&orders, &vec!["x"; 400]).await;
    let billing = subject.group(&orders, "billing").await;
    for round in 0..5u64 {
        let old = match round {
            0 => subject.lease(&billing).await,
            _ => subject.takeover(&billing).await,
        };
        let written = subject.range(&out).await.end;
        let before = subject.state(&billing).await.progress.position();
        let zombie = {
            let (subject, old, out) = (subject.clone(), old.clone(), out.clone());
            tokio::spawn(async move {
                for at in before..before + 80 {
                    let relayed = append_with([row(&out, &["A"])], [(&old, at..at + 1)]);
                    match subject.append(relayed).await.expect("an answer") {
                        Appended::Written(_) => {}
                        Appended::Fenced(_) => return,
                        other => panic!("nobody settled it, it follows none: {other:?}"),
                    }
                }
            })
        };
        // The owner writes all the time, so some claims come too late.
        let new = loop {
            let seen = subject.state(&billing).await;
            let claim = claim(&billing, Some((seen.epoch, seen.generation)));
            let owner = claim.owner;
            let state = subject.claim(claim).await.expect("an answer");
            if state.owner == Some(owner) {
                break state;
            }
        };
        let taken_at = new.progress.position();
        zombie.await.expect("the former owner");
        let after = subject.state(&billing).await;
        assert_eq!(
            after.progress.position(),
            taken_at,
            "after a takeover answered, no write of the former owner is accepted"
        );
        assert_eq!(
            subject.range(&out).await.end - written,
            taken_at - before,
            "output and position are written together"
        );
        let renewed = subject.commit(&old, &Verdicts::default()).await;
        assert!(renewed.is_err_and(|error| error.is_fenced()));
    }
}
