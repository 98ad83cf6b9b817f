//! Notifications inside a process.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use futures_core::stream::{BoxStream, Stream};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::storage::{Notification, Partition};
use crate::sync::{Mutex, MutexGuard};

/// So many partitions wait at most for a subscriber that is slow: as many as a stream can have. With more
/// it is told only that it missed something.
const CAPACITY: usize = 65_536;

/// Tells subscribers; they end when it is closed or dropped.
#[derive(Debug)]
pub(in crate::storage) struct Notifier(Mutex<Option<Vec<Weak<Mailbox>>>>);

/// What waits for one subscriber. However often a partition is told of meanwhile, it waits once, with what
/// was said last.
#[derive(Debug, Default)]
struct Mailbox {
    waiting: Mutex<Waiting>,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// What came while nothing waited, and goes first: mostly the only one.
    first: Option<Notification>,
    /// The others, as they came.
    order: VecDeque<(Kind, Partition)>,
    ends: HashMap<Partition, u64>,
    released: HashSet<Partition>,
    has_missed: bool,
    is_over: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Appended,
    Released,
}

impl Notifier {
    pub(in crate::storage) fn new() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    /// Sends what `notifications` yields, unless nobody listens.
    pub(in crate::storage) fn send(&self, notifications: impl IntoIterator<Item = Notification>) {
        let subscribers: Vec<Arc<Mailbox>> = {
            let mut mailboxes = self.mailboxes();
            let Some(mailboxes) = mailboxes.as_mut() else {
                return;
            };
            mailboxes.retain(|mailbox| mailbox.strong_count() > 0);
            mailboxes.iter().filter_map(Weak::upgrade).collect()
        };
        let Some((last, others)) = subscribers.split_last() else {
            return;
        };
        let notifications: Vec<Notification> = notifications.into_iter().collect();
        for mailbox in others {
            mailbox.put(notifications.iter().cloned());
        }
        last.put(notifications);
    }

    pub(in crate::storage) fn subscribe(&self) -> BoxStream<'static, Notification> {
        let mailbox = Arc::new(Mailbox::default());
        match self.mailboxes().as_mut() {
            Some(mailboxes) => mailboxes.push(Arc::downgrade(&mailbox)),
            None => mailbox.waiting().is_over = true,
        }
        Box::pin(Subscription {
            news: Box::pin(mailbox.news.clone().notified_owned()),
            mailbox,
        })
    }

    pub(in crate::storage) fn close(&self) {
        let mailboxes = self.mailboxes().take();
        for mailbox in mailboxes.iter().flatten().filter_map(Weak::upgrade) {
            mailbox.close();
        }
    }

    // Nothing that holds one of these locks can panic halfway through a change, and nobody is woken
    // under it.
    fn mailboxes(&self) -> MutexGuard<'_, Option<Vec<Weak<Mailbox>>>> {
        self.0.lock()
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.close();
    }
}

impl Mailbox {
    fn put(&self, notifications: impl IntoIterator<Item = Notification>) {
        let mut waiting = self.waiting();
        for notification in notifications {
            waiting.add(notification);
        }
        drop(waiting);
        self.news.notify_one();
    }

    fn close(&self) {
        self.waiting().is_over = true;
        self.news.notify_one();
    }

    /// What comes next; `Some(None)` at the end.
    fn take(&self) -> Option<Option<Notification>> {
        let mut waiting = self.waiting();
        let next = waiting.take();
        match next.is_some() || waiting.is_over {
            true => Some(next),
            false => None,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

impl Waiting {
    fn add(&mut self, notification: Notification) {
        // Whoever missed something looks at everything, then.
        if self.has_missed {
            return;
        }
        use Notification::{Appended, Missed, Released};
        if self.first.is_none() && self.order.is_empty() && notification != Missed {
            self.first = Some(notification);
            return;
        }
        match (&mut self.first, &notification) {
            (Some(Appended(first, known)), Appended(of, end)) if first == of => {
                *known = (*known).max(*end);
                return;
            }
            (Some(Released(first)), Released(of)) if first == of => return,
            _ => {}
        }
        match notification {
            Appended(of, end) => match self.ends.get_mut(&of) {
                Some(known) => *known = end.max(*known),
                None => {
                    self.ends.insert(of.clone(), end);
                    self.order.push_back((Kind::Appended, of));
                }
            },
            Released(of) => {
                if self.released.insert(of.clone()) {
                    self.order.push_back((Kind::Released, of));
                }
            }
            Missed => self.miss(),
        }
        if self.order.len() + usize::from(self.first.is_some()) > CAPACITY {
            self.miss();
        }
    }

    fn miss(&mut self) {
        *self = Self {
            has_missed: true,
            is_over: self.is_over,
            ..Self::default()
        };
    }

    fn take(&mut self) -> Option<Notification> {
        if std::mem::take(&mut self.has_missed) {
            return Some(Notification::Missed);
        }
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let (kind, of) = self.order.pop_front()?;
        match kind {
            Kind::Appended => {
                let end = self.ends.remove(&of).unwrap_or_default();
                Some(Notification::Appended(of, end))
            }
            Kind::Released => {
                self.released.remove(&of);
                Some(Notification::Released(of))
            }
        }
    }
}

struct Subscription {
    mailbox: Arc<Mailbox>,
    news: Pin<Box<OwnedNotified>>,
}

impl Stream for Subscription {
    type Item = Notification;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notification>> {
        // Others get their turn even where there always is something to tell.
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        loop {
            if let Some(next) = self.mailbox.take() {
                coop.made_progress();
                return Poll::Ready(next);
            }
            // What was put in since the look leaves it ready.
            ready!(self.news.as_mut().poll(cx));
            let again = self.mailbox.news.clone().notified_owned();
            self.news.set(again);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::storage::Name;

    fn partition(index: u32) -> Partition {
        let stream = Name::new("orders").unwrap();
        Partition { stream, index }
    }

    fn appended(index: u32, end: u64) -> Notification {
        Notification::Appended(partition(index), end)
    }

    fn released(index: u32) -> Notification {
        Notification::Released(partition(index))
    }

    fn next(subscription: &mut BoxStream<'static, Notification>) -> Option<Notification> {
        subscription.next().now_or_never().expect("something")
    }

    /// One append to many partitions, or many to one: whoever was told that it missed something read
    /// everything.
    #[test]
    fn who_is_slow_is_told_once_of_each_partition() {
        let notifier = Notifier::new();
        let mut subscription = notifier.subscribe();
        assert_eq!(subscription.next().now_or_never(), None);
        notifier.send((0..10_000).map(|index| appended(index, 1)));
        notifier.send((2..=5_000).map(|end| appended(7, end)));
        notifier.send([released(7), appended(7, 3), released(7)]);
        for index in 0..10_000 {
            let end = if index == 7 { 5_000 } else { 1 };
            assert_eq!(next(&mut subscription), Some(appended(index, end)));
        }
        assert_eq!(next(&mut subscription), Some(released(7)));
        assert_eq!(subscription.next().now_or_never(), None);
        notifier.send([appended(7, 5_003), appended(7, 5_001), released(1)]);
        notifier.send([released(1), appended(7, 5_002)]);
        assert_eq!(next(&mut subscription), Some(appended(7, 5_003)));
        notifier.send([released(1), appended(7, 5_004), appended(7, 5_005)]);
        assert_eq!(next(&mut subscription), Some(released(1)));
        assert_eq!(next(&mut subscription), Some(appended(7, 5_005)));
        notifier.send([released(1), released(1)]);
        assert_eq!(next(&mut subscription), Some(released(1)));
        assert_eq!(subscription.next().now_or_never(), None);
    }

    #[test]
    fn who_is_too_slow_is_told_that_it_missed_something() {
        let notifier = Notifier::new();
        let mut subscription = notifier.subscribe();
        notifier.send((0..=CAPACITY as u32).map(|index| appended(index, 1)));
        notifier.send([appended(1, 2)]);
        assert_eq!(next(&mut subscription), Some(Notification::Missed));
        assert_eq!(subscription.next().now_or_never(), None);
        notifier.send([appended(1, 3)]);
        assert_eq!(next(&mut subscription), Some(appended(1, 3)));
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let notifier = Arc::new(Notifier::new());
        let mut subscription = notifier.subscribe();
        let other = notifier.clone();
        let sends = async {
            tokio::task::yield_now().await;
            other.send([appended(0, 1)]);
        };
        let (heard, ()) = tokio::join!(subscription.next(), sends);
        assert_eq!(heard, Some(appended(0, 1)));
    }

    #[test]
    fn a_subscription_ends_with_the_notifier() {
        let notifier = Notifier::new();
        let mut subscription = notifier.subscribe();
        notifier.close();
        assert_eq!(subscription.next().now_or_never(), Some(None));
        assert_eq!(notifier.subscribe().next().now_or_never(), Some(None));
    }
}
