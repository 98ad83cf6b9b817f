//! Many writers and readers of a log at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::Harness;
use super::build::{append, row};
use super::support::{Subject, known};
use crate::storage::Appended;

const TASKS: u64 = 8;
const ROUNDS: u64 = 20;

pub(super) async fn concurrent_appends_leave_no_gap(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 3).await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (subject, orders) = (subject.clone(), orders.clone());
        tasks.spawn(async move {
            let mut answered = Vec::new();
            for round in 0..ROUNDS {
                // Half of them all to the first, the others to each in turn.
                let to = if task % 2 == 0 { 0 } else { round as usize % 3 };
                let body = format!("{task}-{round}");
                let offset = subject.write(&orders[to], &[&body, &body]).await;
                answered.push((to, offset, body));
            }
            answered
        });
    }
    let answered = tasks.join_all().await;
    for (index, partition) in orders.iter().enumerate() {
        // Reading them checks that there is no gap.
        let log = subject.log(partition).await;
        let mut expected = 0;
        for task in &answered {
            let here: Vec<_> = task.iter().filter(|(to, ..)| *to == index).collect();
            expected += 2 * here.len();
            assert!(
                here.is_sorted_by_key(|(_, offset, _)| *offset),
                "appends that wait for each other keep their order"
            );
            for (_, offset, body) in here {
                for at in [*offset, *offset + 1] {
                    let stored = &log[at as usize];
                    assert_eq!((stored.0, &stored.1[..]), (at, body.as_bytes()));
                }
            }
        }
        assert_eq!(log.len(), expected, "each message is there once");
    }
}

pub(super) async fn readers_see_no_gap(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let mut writers = JoinSet::new();
    for task in 0..TASKS {
        let (subject, orders) = (subject.clone(), orders.clone());
        writers.spawn(async move {
            for round in 0..ROUNDS {
                let bodies = vec!["x"; 1 + (task + round) as usize % 3];
                let offset = subject.write(&orders, &bodies).await;
                let end = subject.range(&orders).await.end;
                assert!(
                    end >= offset + bodies.len() as u64,
                    "what was answered is visible to the next read"
                );
            }
        });
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for _ in 0..2 {
        let (subject, orders, done) = (subject.clone(), orders.clone(), done.clone());
        readers.spawn(async move {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                let end = subject.range(&orders).await.end;
                let log = subject.log(&orders).await.len() as u64;
                assert!(
                    seen <= end && end <= log,
                    "a log that ended at {seen}, then at {end} has {log} messages: all are \
                     visible below one that is, and none goes away"
                );
                seen = log;
            }
        });
    }
    writers.join_all().await;
    done.store(true, Ordering::Relaxed);
    readers.join_all().await;
}

pub(super) async fn rows_of_an_append_appear_together(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let left = subject.partition("left").await;
    let right = subject.partition("right").await;
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (subject, left, right) = (subject.clone(), left.clone(), right.clone());
        let done = done.clone();
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let first = subject.range(&left).await.end;
                let other = subject.range(&right).await.end;
                let last = subject.range(&left).await.end;
                assert!(
                    first <= other && other <= last,
                    "both logs grow by the same appends, but had {first}, then {other}, then \
                     {last} messages"
                );
            }
        })
    };
    let mut writers = JoinSet::new();
    for task in 0..4 {
        let (subject, left, right) = (subject.clone(), left.clone(), right.clone());
        writers.spawn(async move {
            for _ in 0..ROUNDS {
                // In either order, so that a storage that locks as it goes has to sort.
                let mut rows = [row(&left, &["l"]), row(&right, &["r"])];
                if task % 2 == 0 {
                    rows.reverse();
                }
                subject.written(&append(rows)).await;
            }
        });
    }
    let all = async {
        while writers
            .join_next()
            .await
            .transpose()
            .expect("appends")
            .is_some()
        {}
    };
    subject.within("appends do not block each other", all).await;
    done.store(true, Ordering::Relaxed);
    reader.await.expect("the reader");
    assert_eq!(subject.range(&left).await, subject.range(&right).await);
}

pub(super) async fn concurrent_retries_write_once(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    for round in 0..10 {
        let once = append([row(&orders, &["a", "b"])]);
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (subject, once) = (subject.clone(), once.clone());
            tasks.spawn(async move {
                if task == 3 {
                    let settled = subject.settle(once).await.expect("an outcome");
                    return settled.map_or(Appended::Refused, Appended::Known);
                }
                known(subject.append(once).await.expect("an answer"))
            });
        }
        let answers = tasks.join_all().await;
        let before = subject.range(&orders).await.end;
        let last = known(subject.append(once).await.expect("an answer"));
        for answer in answers {
            assert_eq!(answer, last, "all learn the same outcome, in round {round}");
        }
        assert_eq!(subject.range(&orders).await.end, before, "one copy");
        let log = subject.text(&orders).await;
        assert!(!log.contains("a a") && !log.contains("b b"), "{log}");
    }
}
