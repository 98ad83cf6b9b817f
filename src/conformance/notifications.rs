//! Notifications: what lets consumers sleep.

use std::future::poll_fn;
use std::sync::Arc;

use futures_core::stream::BoxStream;

use super::Harness;
use super::support::{Subject, pause};
use crate::storage::{Notification, Partition, Reset, Storage};

type Subscription = BoxStream<'static, Notification>;

async fn next(subscription: &mut Subscription) -> Option<Notification> {
    poll_fn(|cx| subscription.as_mut().poll_next(cx)).await
}

/// Waits until a subscriber is told of the end of a log, or that it has to look for itself.
async fn hears_append(subscription: &mut Subscription, partition: &Partition, end: u64) {
    loop {
        match next(subscription).await {
            Some(Notification::Appended(of, at)) if of == *partition && at >= end => return,
            Some(Notification::Missed) => return,
            Some(_) => {}
            None => panic!("a subscription ends only with the storage"),
        }
    }
}

async fn hears_release(subscription: &mut Subscription, partition: &Partition) {
    loop {
        match next(subscription).await {
            Some(Notification::Released(of)) if of == *partition => return,
            Some(Notification::Missed) => return,
            Some(_) => {}
            None => panic!("a subscription ends only with the storage"),
        }
    }
}

/// Does something again and again until it is heard of, where notifications may get lost in
/// silence; once where they may not.
async fn until_heard<F: Future<Output = ()>>(
    subject: &Subject,
    cause: impl Fn() -> F,
    heard: impl Future<Output = ()>,
) {
    let lossy = subject.poll_interval().is_some();
    let causes = async {
        cause().await;
        for moments in 1u32.. {
            pause().await;
            if lossy && moments % 250 == 0 {
                cause().await;
            }
        }
    };
    subject
        .within("a subscriber is told", async {
            tokio::select! {
                () = heard => {}
                () = causes => {}
            }
        })
        .await;
}

pub(super) async fn an_append_is_told(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partitions("orders", 2).await;
    subject.write(&orders[1], &["before"]).await;
    let mut subscription = subject.notifications();
    let cause = || async {
        subject.write(&orders[1], &["a", "b"]).await;
    };
    let heard = hears_append(&mut subscription, &orders[1], 3);
    until_heard(&subject, cause, heard).await;
    let cause = || async {
        subject.write(&orders[0], &["c"]).await;
    };
    let heard = hears_append(&mut subscription, &orders[0], 1);
    until_heard(&subject, cause, heard).await;
}

pub(super) async fn a_release_is_told(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let billing = subject.group(&orders, "billing").await;
    let mut subscription = subject.notifications();
    let cause = || async {
        let lease = subject.lease(&billing).await;
        subject.released(&lease).await;
    };
    let heard = hears_release(&mut subscription, &orders);
    until_heard(&subject, cause, heard).await;
}

pub(super) async fn a_reset_is_told(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let billing = subject.group(&orders, "billing").await;
    let mut subscription = subject.notifications();
    let cause = || async {
        let reset = Reset {
            group: billing.clone(),
            to: None,
            is_forced: true,
        };
        let reset = Storage::reset(&*subject, reset).await;
        reset.expect("a reset by force");
    };
    let heard = hears_release(&mut subscription, &orders);
    until_heard(&subject, cause, heard).await;
}

pub(super) async fn every_subscriber_is_told(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let mut early: Vec<Subscription> = (0..3).map(|_| subject.notifications()).collect();
    // One that nobody polls, and one that is gone, keep nothing from the others.
    let _idle = subject.notifications();
    drop(subject.notifications());
    let cause = || async {
        subject.write(&orders, &["a"]).await;
    };
    let heard = async {
        for subscription in &mut early {
            hears_append(subscription, &orders, 1).await;
        }
    };
    until_heard(&subject, cause, heard).await;
    let end = subject.range(&orders).await.end;
    early.push(subject.notifications());
    let heard = async {
        for subscription in &mut early {
            hears_append(subscription, &orders, end + 1).await;
        }
    };
    until_heard(&subject, cause, heard).await;
}

pub(super) async fn a_slow_subscriber_learns_that_it_missed_something(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let quiet = subject.partition("quiet").await;
    let busy = subject.partition("busy").await;
    let mut subscription = subject.notifications();
    let cause = || async {
        subject.write(&quiet, &["a"]).await;
        subject.write_many(&busy, 2_000).await;
    };
    cause().await;
    let heard = hears_append(&mut subscription, &quiet, 1);
    if subject.poll_interval().is_some() {
        until_heard(&subject, cause, heard).await;
    } else {
        let what = "a subscriber that was slow is told of an append, or that it missed something";
        subject.within(what, heard).await;
    }
}

pub(super) async fn what_is_told_can_be_read(harness: Arc<dyn Harness>) {
    let subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let mut subscription = subject.notifications();
    let writer = subject.clone();
    let partition = orders.clone();
    let appends = tokio::spawn(async move {
        for _ in 0..50 {
            writer.write(&partition, &["a"]).await;
        }
    });
    let told = async {
        loop {
            let notification = next(&mut subscription).await;
            let notification = notification.expect("a subscription ends only with the storage");
            let end = subject.range(&orders).await.end;
            if let Notification::Appended(_, told) = notification {
                assert!(told <= end, "told of {told}, but the log ends at {end}");
            }
            if end >= 50 {
                return;
            }
        }
    };
    let cause = || async {};
    // Where the last one got lost, the log has its end all the same.
    let end = subject.eventually("all is written", || async {
        subject.poll_interval().is_some() && subject.range(&orders).await.end >= 50
    });
    let heard = async {
        tokio::select! {
            () = told => {}
            () = end => {}
        }
    };
    until_heard(&subject, cause, heard).await;
    appends.await.expect("the appends");
}

pub(super) async fn a_subscription_ends_with_the_storage(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    let orders = subject.partition("orders").await;
    let mut idle = subject.notifications();
    let mut busy = subject.notifications();
    subject.write(&orders, &["a"]).await;
    let waiting = tokio::spawn(async move { while next(&mut idle).await.is_some() {} });
    if !subject.reopen().await {
        subject.close().await.expect("a storage is closed");
    }
    subject
        .within("a subscription ends when the storage is closed", async {
            waiting.await.expect("the subscriber");
            while next(&mut busy).await.is_some() {}
        })
        .await;
}
