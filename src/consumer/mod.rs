//! The Stream.

mod acks;
mod builder;
mod chunk;
mod control;
mod end;
mod fetch;
mod keeper;
mod lane;
mod mend;
mod retries;
mod session;
mod standby;
mod trust;
mod vigil;
mod warnings;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::stream::{FusedStream, Stream};
use tokio::sync::mpsc;

pub(crate) use acks::Round;
pub use builder::ConsumerBuilder;
use chunk::{Chunk, Event};
use control::Shared;
pub use control::{Control, Status};
pub(crate) use session::Session;
pub(crate) use vigil::Vigil;

use crate::delivery::Delivery;
use crate::error::Result;

/// Delivers the messages of a stream to a group: a [`Stream`] of [`Delivery`].
///
/// Several consumers may share a group: one has the lease and gets the messages, the others stand
/// by, and take over when it stops, dies, or loses its lease. That is folded into the stream: a
/// standby is just pending.
///
/// - `None` comes after [`Control::shutdown`] and never before: at the end of the log the stream
///   waits. It is fused.
/// - An error does not end it: it can be polled on. Transient errors of the storage are retried
///   inside; one comes out when the budget of [`Options::retry_for`](crate::Options::retry_for)
///   has run out. Being fenced is not an error: the consumer stands by again.
/// - Messages come in the order of the log, except those that are delivered again.
///
/// Dropping the consumer is a [shutdown](Control::shutdown) in the background.
///
/// # Cancel safety
///
/// Dropping a future of `next` loses nothing: a delivery is either still in the stream or handed
/// out.
///
/// # Examples
///
/// ```
/// # async fn example() -> flowstream::Result<()> {
/// # let flow = flowstream::open("memory:").await?;
/// # flow.producer("orders").await?.append([flowstream::Message::new("one")]).await?;
/// let mut consumer = flow.consumer("orders", "billing").await?;
/// while let Some(delivery) = consumer.try_next().await? {
///     println!("{}: {:?}", delivery.offset(), delivery.body());
///     delivery.commit().await?;
/// #   break;
/// }
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
pub struct Consumer {
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
    /// What is handed out now.
    current: Option<Chunk>,
    /// What goes before it: messages that are delivered again.
    again: Option<Chunk>,
    ended: bool,
}

impl Consumer {
    /// The next delivery; `None` once the consumer was shut down. Cancel safe.
    #[inline]
    pub async fn next(&mut self) -> Option<Result<Delivery>> {
        poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// The next delivery, as a result of an option. Cancel safe.
    ///
    /// # Errors
    ///
    /// The storage could not be read within the retry budget, what it holds is damaged, or
    /// messages were trimmed away before the group had done them
    /// ([`OutOfRange`](crate::ErrorKind::OutOfRange)). The next call goes on.
    #[inline]
    pub async fn try_next(&mut self) -> Result<Option<Delivery>> {
        poll_fn(|cx| self.poll_delivery(cx).map(Option::transpose)).await
    }

    /// A handle to watch and shut down this consumer.
    pub fn control(&self) -> Control {
        Control(self.shared.clone())
    }

    /// ```text
    ///  stopped            -> drop what is prefetched, None, for ever
    ///  messages again     -> the next of them
    ///  lease lost         -> drop what was read under it, look further
    ///  paused (too many acked ranges beyond the position) -> Pending
    ///  messages           -> the next of them
    ///  event of a lane    -> its messages, or its error
    ///  all lanes gone     -> None, for ever
    ///  nothing            -> Pending
    /// ```
    #[inline]
    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Others get their turn even where there always is a next message.
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        self.shared.count_poll();
        if let Some(delivery) = self.next_prefetched() {
            coop.made_progress();
            return Poll::Ready(Some(Ok(delivery)));
        }
        let mut polled = self.poll_once(cx);
        if polled.is_pending() {
            self.shared.sleep(cx.waker());
            polled = self.poll_once(cx);
        }
        if polled.is_ready() {
            coop.made_progress();
        }
        polled
    }

    /// The next message, where nothing goes before it: the usual case, in line with its caller.
    #[inline]
    fn next_prefetched(&mut self) -> Option<Delivery> {
        let chunk = self.current.as_mut()?;
        let is_usual = !self.shared.is_stopped()
            && !self.shared.has_again()
            && self.again.is_none()
            && chunk.session().is_live()
            && !chunk.session().is_paused();
        if is_usual { chunk.next() } else { None }
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        loop {
            if self.shared.is_stopped() {
                return self.end();
            }
            if (self.shared.has_again() || self.again.is_some())
                && let Some(delivery) = self.next_again()
            {
                return Poll::Ready(Some(Ok(delivery)));
            }
            let is_paused =
                |chunk: &Chunk| chunk.session().is_live() && chunk.session().is_paused();
            if self.current.as_ref().is_some_and(is_paused) {
                return Poll::Pending;
            }
            if let Some(delivery) = next_of(&mut self.current) {
                return Poll::Ready(Some(Ok(delivery)));
            }
            match ready!(self.events.poll_recv(cx)) {
                Some(Event::Messages(chunk)) => self.current = Some(chunk),
                Some(Event::Error(error)) => return Poll::Ready(Some(Err(error))),
                None => return self.end(),
            }
        }
    }

    /// The next message to deliver again that nobody has done meanwhile.
    #[cold]
    fn next_again(&mut self) -> Option<Delivery> {
        if self.again.is_none() {
            self.again = self.shared.take_again();
        }
        loop {
            let delivery = next_of(&mut self.again)?;
            if delivery.hand_out_again() {
                return Some(delivery);
            }
        }
    }

    fn end(&mut self) -> Poll<Option<Result<Delivery>>> {
        self.ended = true;
        self.current = None;
        self.again = None;
        self.events.close();
        while self.events.try_recv().is_ok() {}
        Poll::Ready(None)
    }
}

/// The next message of a chunk, unless its lease was lost. A chunk without any is let go of.
#[inline]
fn next_of(chunk: &mut Option<Chunk>) -> Option<Delivery> {
    let messages = chunk.as_mut()?;
    if messages.session().is_live()
        && let Some(delivery) = messages.next()
    {
        return Some(delivery);
    }
    *chunk = None;
    None
}

impl Stream for Consumer {
    type Item = Result<Delivery>;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx)
    }

    // What is prefetched may be dropped, so there is no lower bound but at the end.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.ended.then_some(0))
    }
}

impl FusedStream for Consumer {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.shut_down();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("shared", &self.shared)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
