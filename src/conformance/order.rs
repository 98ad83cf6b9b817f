//! Order: an append that follows another one.

use std::sync::Arc;

use super::Harness;
use super::build::{append, append_with, row};
use super::support::{Subject, known};
use crate::storage::{Append, Appended, Id};

/// The same, to be written after that one.
fn after(before: &Append, append: &Append) -> Arc<Append> {
    Arc::new(Append {
        id: append.id,
        after: Some(before.id),
        rows: append.rows.clone(),
        commits: append.commits.clone(),
    })
}

pub(super) async fn an_append_waits_for_the_one_before_it(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let first = append([row(&orders, &["a", "b"])]);
    let second = after(&first, &append([row(&orders, &["c"])]));
    let third = after(&second, &append([row(&orders, &["d"])]));
    for _ in 0..2 {
        for early in [&second, &third] {
            let answer = subject.append((*early).clone()).await;
            assert_eq!(answer.expect("an answer, not an error"), Appended::Early);
        }
    }
    assert_eq!(subject.range(&orders).await, 0..0, "nothing is written");
    subject.written(&first).await;
    let answer = subject.append(third.clone()).await.expect("an answer");
    assert_eq!(answer, Appended::Early, "the one between is missing");
    assert_eq!(
        subject.written(&second).await,
        [2],
        "it may come again under its id"
    );
    if subject.reopen().await {
        subject.written(&second).await;
    }
    assert_eq!(subject.written(&third).await, [3]);
    assert_eq!(subject.text(&orders).await, "a b c d");
}

pub(super) async fn a_retry_is_known_before_it_is_early(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let written = append([row(&orders, &["a"])]);
    subject.written(&written).await;
    let never = append([row(&orders, &["never"])]);
    assert_eq!(
        subject.written(&after(&never, &written)).await,
        [0],
        "an id is looked for before the append that it follows"
    );
    let refused = append([row(&orders, &["refused"])]);
    let settled = subject.settle(refused.clone()).await.expect("an outcome");
    assert_eq!(settled, None);
    for (before, expected) in [
        (&never, Appended::Refused),
        (&refused, Appended::Early),
        (&written, Appended::Known(vec![1])),
    ] {
        let append = match expected {
            Appended::Refused => refused.clone(),
            _ => append([row(&orders, &["b"])]),
        };
        let answer = subject.append(after(before, &append)).await;
        assert_eq!(known(answer.expect("an answer")), expected);
    }
    assert_eq!(subject.text(&orders).await, "a b");
}

pub(super) async fn an_early_append_writes_no_commits(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a", "b"]).await;
    let billing = subject.group(&orders, "billing").await;
    let lease = subject.lease(&billing).await;
    let out = subject.partitions("out", 2).await;
    let first = append([row(&out[0], &["A"])]);
    let rows = [row(&out[0], &["B"]), row(&out[1], &["B"])];
    let both = after(&first, &append_with(rows, [(&lease, 0..2)]));
    let before = subject.state(&billing).await;
    let answer = subject.append(both.clone()).await.expect("an answer");
    assert_eq!(answer, Appended::Early);
    assert_eq!(subject.state(&billing).await, before, "no commit");
    assert_eq!(subject.range(&out[1]).await, 0..0, "no row");
    subject.takeover(&billing).await;
    let answer = subject.append(both.clone()).await.expect("an answer");
    assert_eq!(answer, Appended::Early, "before any look at the leases");
    subject.written(&first).await;
    let answer = subject.append(both).await.expect("an answer");
    assert_eq!(answer, Appended::Fenced(vec![0]));
    let other = after(
        &first,
        &append([row(&out[1], &["C"]), row(&out[0], &["C"])]),
    );
    assert_eq!(subject.written(&other).await, [0, 1]);
}

/// Both at once, again and again: whichever the storage takes first, the second is never alone.
pub(super) async fn of_two_at_once_the_second_is_never_first(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let mut before: Option<Id> = None;
    for _ in 0..50 {
        let one = append([row(&orders, &["x"])]);
        let one = Arc::new(Append {
            id: one.id,
            after: before,
            rows: one.rows.clone(),
            commits: Vec::new(),
        });
        let two = after(&one, &append([row(&orders, &["y", "y"])]));
        let task = {
            let (subject, two) = (subject.clone(), two.clone());
            tokio::spawn(async move { subject.append(two).await.expect("an answer") })
        };
        subject.written(&one).await;
        if task.await.expect("it ran") == Appended::Early {
            subject.written(&two).await;
        }
        before = Some(two.id);
    }
    assert_eq!(subject.text(&orders).await, ["x y y"; 50].join(" "));
}
