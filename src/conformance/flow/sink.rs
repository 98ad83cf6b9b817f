//! What a user takes from `futures`, so that the suite needs nothing of it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::stream::Stream;
use futures_sink::Sink;

use crate::clock::Clock;
use crate::conformance::support::pause;
use crate::consumer::Consumer;
use crate::consumer::Delivery;
use crate::error::Result;
use crate::message::Message;
use crate::producer::Producer;

/// Into the buffer.
pub(super) async fn feed(producer: &mut Producer, message: impl Into<Message>) -> Result<()> {
    poll_fn(|cx| Pin::new(&mut *producer).poll_ready(cx)).await?;
    Pin::new(producer).start_send(message.into())
}

pub(super) async fn flush(producer: &mut Producer) -> Result<()> {
    poll_fn(|cx| Pin::new(&mut *producer).poll_flush(cx)).await
}

pub(super) async fn send(producer: &mut Producer, message: impl Into<Message>) -> Result<()> {
    feed(producer, message).await?;
    flush(producer).await
}

pub(super) async fn close(producer: &mut Producer) -> Result<()> {
    poll_fn(|cx| Pin::new(&mut *producer).poll_close(cx)).await
}

/// `consumer.map_ok(Delivery::into_message).forward(producer)`.
#[derive(Debug)]
pub(super) struct Forward {
    consumer: Consumer,
    producer: Producer,
    held: Option<Message>,
}

impl Forward {
    pub(super) fn new(consumer: Consumer, producer: Producer) -> Self {
        Self {
            consumer,
            producer,
            held: None,
        }
    }
}

impl Future for Forward {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        let mut producer = Pin::new(&mut this.producer);
        loop {
            if this.held.is_some() {
                ready!(producer.as_mut().poll_ready(cx))?;
            }
            if let Some(message) = this.held.take() {
                producer.as_mut().start_send(message)?;
            }
            match Pin::new(&mut this.consumer).poll_next(cx)? {
                Poll::Ready(Some(delivery)) => this.held = Some(Delivery::into_message(delivery)),
                Poll::Ready(None) => return producer.poll_close(cx),
                Poll::Pending => {
                    ready!(producer.as_mut().poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Polls a future so many times, each time that it is woken or a moment later, and drops it. What
/// it gave, if it was done by then.
pub(super) async fn polls<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..times {
        let mut polled = false;
        let woken = poll_fn(|cx| {
            // The second time it is woken.
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        });
        tokio::select! {
            biased;
            output = woken => if output.is_some() {
                return output;
            },
            () = pause() => {}
        }
    }
    None
}

/// The clock of a harness.
#[derive(Debug)]
pub(super) struct HarnessClock(pub(super) Arc<dyn Clock>);

impl Clock for HarnessClock {
    fn now(&self) -> std::time::Duration {
        self.0.now()
    }

    fn wall(&self) -> std::time::SystemTime {
        self.0.wall()
    }

    fn sleep_until(
        &self,
        deadline: std::time::Duration,
    ) -> futures_core::future::BoxFuture<'static, ()> {
        self.0.sleep_until(deadline)
    }
}
