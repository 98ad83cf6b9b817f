//! Notifications inside a process.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_core::future::BoxFuture;
use futures_core::stream::{BoxStream, Stream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};

use super::Notification;

/// How far a subscriber may fall behind before it is told only that it missed something.
const CAPACITY: usize = 1024;

/// Tells subscribers; they end when it is closed or dropped.
#[derive(Debug)]
pub(super) struct Notifier(Mutex<Option<Sender<Notification>>>);

impl Notifier {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(Sender::new(CAPACITY))))
    }

    /// Sends what `notifications` yields, unless nobody listens.
    pub(super) fn send(&self, notifications: impl IntoIterator<Item = Notification>) {
        let sender = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(sender) = sender.filter(|sender| sender.receiver_count() > 0) else {
            return;
        };
        for notification in notifications {
            // It fails if the last subscriber left meanwhile.
            let _ = sender.send(notification);
        }
    }

    pub(super) fn subscribe(&self) -> BoxStream<'static, Notification> {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(Subscription(sender.as_ref().map(|sender| {
            Box::pin(receive(sender.subscribe())) as BoxFuture<'static, Received>
        })))
    }

    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The future of the next notification, `None` after the end.
struct Subscription(Option<BoxFuture<'static, Received>>);

type Received = (Result<Notification, RecvError>, Receiver<Notification>);

async fn receive(mut receiver: Receiver<Notification>) -> Received {
    (receiver.recv().await, receiver)
}

impl Stream for Subscription {
    type Item = Notification;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notification>> {
        let Some(next) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let (received, receiver) = ready!(next.as_mut().poll(cx));
        let notification = match received {
            Ok(notification) => notification,
            Err(RecvError::Lagged(_)) => Notification::Missed,
            Err(RecvError::Closed) => {
                self.0 = None;
                return Poll::Ready(None);
            }
        };
        self.0 = Some(Box::pin(receive(receiver)));
        Poll::Ready(Some(notification))
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::storage::{Name, Partition};

    fn appended(end: u64) -> Notification {
        let stream = Name::new("orders").unwrap();
        Notification::Appended(Partition { stream, index: 0 }, end)
    }

    #[test]
    fn who_is_too_slow_is_told_that_it_missed_something() {
        let notifier = Notifier::new();
        let mut subscription = notifier.subscribe();
        assert_eq!(subscription.next().now_or_never(), None);
        notifier.send((0..=CAPACITY as u64).map(appended));
        let next = subscription.next().now_or_never();
        assert_eq!(next, Some(Some(Notification::Missed)));
        let next = subscription.next().now_or_never();
        assert_eq!(next, Some(Some(appended(1))));
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
