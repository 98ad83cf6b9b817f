//! Groups: where they begin, and how they are observed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Harness;
use super::build::name;
use super::support::Subject;
use crate::storage::{Group, Partition, Progress, Start};

pub(super) async fn a_group_begins_where_it_was_told(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    assert_start(
        &subject,
        &orders,
        "early in an empty log",
        Start::Earliest,
        0,
    )
    .await;
    assert_start(&subject, &orders, "late in an empty log", Start::Latest, 0).await;
    subject.write(&orders, &["a", "b", "c"]).await;
    subject.write(&orders, &["d", "e"]).await;
    for (group, start, position) in [
        ("early", Start::Earliest, 0),
        ("late", Start::Latest, 5),
        ("offset 0", Start::Offset(0), 0),
        ("within a batch", Start::Offset(1), 1),
        ("at the end", Start::Offset(5), 5),
        ("beyond the end", Start::Offset(100), 100),
    ] {
        assert_start(&subject, &orders, group, start, position).await;
    }
}

pub(super) async fn a_group_begins_at_a_time(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    for bodies in [&["a", "b"][..], &["c"], &["d", "e"]] {
        subject.write(&orders, bodies).await;
        subject.harness.pass(Duration::from_millis(20)).await;
    }
    let batches = subject.fetch(&orders, 0).await.batches;
    let moment = Duration::from_micros(1);
    let mut times = vec![SystemTime::UNIX_EPOCH];
    for batch in &batches {
        times.extend([
            batch.appended_at - moment,
            batch.appended_at,
            batch.appended_at + moment,
        ]);
    }
    times.push(batches[2].appended_at + Duration::from_secs(86_400));
    for (number, time) in times.into_iter().enumerate() {
        let first = batches.iter().find(|batch| batch.appended_at >= time);
        let position = first.map_or(5, |batch| batch.base_offset);
        let group = format!("group {number}");
        assert_start(&subject, &orders, &group, Start::Time(time), position).await;
    }
}

async fn assert_start(
    subject: &Subject,
    partition: &Partition,
    group: &str,
    start: Start,
    position: u64,
) {
    let group = member(partition, group);
    let created = subject.create_group(&group, start).await;
    created.unwrap_or_else(|error| panic!("{group} is created: {error}"));
    let state = subject.state(&group).await;
    assert_eq!(
        state.progress,
        Progress::at(position),
        "{group} begins at {start:?}"
    );
    assert_eq!((state.owner, state.epoch), (None, 0), "nobody has it yet");
    assert!(state.attempts.is_empty(), "nothing was tried yet");
}

fn member(partition: &Partition, group: &str) -> Group {
    Group {
        partition: partition.clone(),
        name: name(group),
    }
}

pub(super) async fn a_group_is_created_once(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a", "b", "c"]).await;
    let billing = subject.group(&orders, "billing").await;
    let lease = subject.lease(&billing).await;
    subject.done(&lease, 0..1).await;
    let before = subject.state(&billing).await;
    for start in [
        Start::Earliest,
        Start::Latest,
        Start::Offset(2),
        Start::Time(SystemTime::UNIX_EPOCH),
    ] {
        let created = subject.create_group(&billing, start).await;
        created.expect("creating a group again is no error");
        assert_eq!(
            subject.state(&billing).await,
            before,
            "a group that is known stays as it is"
        );
    }
}

pub(super) async fn groups_are_observed_in_the_order_asked(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 2).await;
    subject.write(&orders[1], &["a", "b", "c"]).await;
    let one = subject.group(&orders[1], "one").await;
    let other = subject.group(&orders[0], "other").await;
    let lease = subject.lease(&one).await;
    subject.done(&lease, 0..2).await;
    let asked = [
        other,
        member(&orders[0], "unknown"),
        one.clone(),
        member(&orders[0], "one"),
        one,
    ];
    let states = subject.observe(&asked).await.expect("how groups stand");
    let brief: Vec<_> = states
        .iter()
        .map(|state| {
            let state = state.as_ref()?;
            Some((state.owner, state.progress.position(), state.bounds.clone()))
        })
        .collect();
    let one = Some((Some(lease.owner), 2, 0..3));
    assert_eq!(
        brief,
        [Some((None, 0, 0..0)), None, one.clone(), None, one],
        "one answer each, in order, None for what is not known"
    );
}

pub(super) async fn groups_do_not_touch_each_other(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 2).await;
    let same_name = subject.partition("orders2").await;
    for partition in orders.iter().chain([&same_name]) {
        subject.write(partition, &["a", "b", "c"]).await;
    }
    let mut others = Vec::new();
    for (partition, group) in [
        (&orders[0], "shipping"),
        (&orders[1], "billing"),
        (&same_name, "billing"),
    ] {
        let group = subject.group(partition, group).await;
        others.push(subject.lease(&group).await);
    }
    let billing = subject.group(&orders[0], "billing").await;
    let lease = subject.lease(&billing).await;
    subject.done(&lease, 0..2).await;
    subject.takeover(&billing).await;
    for other in others {
        let state = subject.state(&other.group).await;
        assert_eq!(state.progress, Progress::at(0), "{}", other.group);
        assert_eq!(state.owner, Some(other.owner), "{}", other.group);
        subject.done(&other, 0..1).await;
    }
}

pub(super) async fn groups_outlive_a_restart(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    subject.write(&orders, &["a", "b", "c"]).await;
    let billing = subject.group(&orders, "billing").await;
    let late = member(&orders, "late");
    subject
        .create_group(&late, Start::Latest)
        .await
        .expect("a group");
    if !subject.reopen().await {
        return;
    }
    assert_eq!(subject.state(&billing).await.progress, Progress::at(0));
    assert_eq!(subject.state(&late).await.progress, Progress::at(3));
    let again = subject.create_group(&late, Start::Earliest).await;
    again.expect("creating a group again is no error");
    assert_eq!(subject.state(&late).await.progress, Progress::at(3));
}
