//! The Stream.

mod assignment;
mod attention;
mod budget;
mod builder;
mod chunk;
mod committer;
mod control;
mod delivery;
mod inbox;
mod partition;
mod prefetch;
mod redeliverer;
mod settings;
mod shared;
mod standby;
mod status;

use std::fmt;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::stream::{FusedStream, Stream};

pub use builder::ConsumerBuilder;
use chunk::Chunk;
pub use control::Control;
pub use delivery::Delivery;
use inbox::Event;
use shared::ConsumerShared;
pub use status::Status;

use crate::error::Result;
use crate::session::LeaseHolder;

/// Delivers the messages of a stream to a group: a [`Stream`] of [`Delivery`].
///
/// Several consumers may share a group: one has the lease and gets the messages, the others stand
/// by, and take over when it stops, dies, or loses its lease. That is folded into the stream: a
/// standby is just pending.
///
/// - `None` comes after [`Control::shutdown`] and never before: at the end of the log the stream
///   waits. It is fused.
/// - Where the consumer cannot go on, because the storage was closed, its driver panicked, or the
///   runtime ended that the consumer was built on, there is one error, and then `None`.
/// - Any other error does not end it: it can be polled on. Transient errors of the storage are retried
///   inside; one comes out when the budget of [`Options::retry_for`](crate::Options::retry_for)
///   has run out. Being fenced is not an error: the consumer stands by again.
/// - Messages of a partition come in the order of the log, except those that are delivered again.
///   Partitions take turns: where several have messages, each gives 64 at most in a row, and one
///   that is paused or slow keeps no other waiting.
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
    shared: Arc<ConsumerShared>,
    /// What is handed out now.
    current: Option<Chunk>,
    /// So many more of it, before others have their turn.
    turn: u32,
    /// What goes before it: messages that are delivered again.
    again: Option<Chunk>,
    ended: bool,
}

/// So many messages of a partition are handed out in a row while others have some, too.
const TURN: u32 = 64;

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

    fn new(shared: Arc<ConsumerShared>) -> Self {
        Self {
            shared,
            current: None,
            turn: 0,
            again: None,
            ended: false,
        }
    }

    /// ```text
    ///  failed             -> drop what is prefetched, the error, then as stopped
    ///  stopped            -> drop what is prefetched, None, for ever
    ///  messages again     -> the next of them
    ///  lease lost         -> drop what was read under it, look further
    ///  paused (too many acked ranges beyond the position)
    ///                     -> put aside, look further
    ///  64 in a row        -> the partition whose turn is next, if there is one
    ///  messages           -> the next of them
    ///  a assignment's           -> its messages, or its error
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
        let mut polled = self.poll_once();
        if polled.is_pending() {
            self.shared.sleep(cx.waker());
            polled = self.poll_once();
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
        let is_usual = self.turn > 0
            && !self.shared.wants_attention()
            && self.again.is_none()
            && chunk.session().is_live()
            && !chunk.session().is_paused();
        if !is_usual {
            return None;
        }
        self.turn -= 1;
        chunk.next()
    }

    fn poll_once(&mut self) -> Poll<Option<Result<Delivery>>> {
        loop {
            if self.shared.wants_attention() && self.look_up().is_break() {
                return Poll::Ready(self.end());
            }
            if let Some(delivery) = self.next_again() {
                return Poll::Ready(Some(Ok(delivery)));
            }
            if let Some(chunk) = self.current.take_if(|chunk| chunk.is_paused()) {
                self.shared.inbox().put_back(chunk);
                self.shared.paused();
            }
            let event = match self.current.take() {
                Some(chunk) if self.turn == 0 => self.shared.inbox().take_turns(chunk),
                Some(chunk) => {
                    self.current = Some(chunk);
                    self.turn -= 1;
                    if let Some(delivery) = next_of(&mut self.current) {
                        return Poll::Ready(Some(Ok(delivery)));
                    }
                    continue;
                }
                None => self.shared.inbox().next(),
            };
            match event {
                Some(Event::Messages(chunk)) => (self.current, self.turn) = (Some(chunk), TURN),
                Some(Event::Error(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Pending,
            }
        }
    }

    /// Sees what wants attention; breaks if that is the end.
    #[cold]
    fn look_up(&mut self) -> ControlFlow<()> {
        let reasons = self.shared.take_attention();
        if reasons & attention::POLL != 0 {
            self.shared.was_polled();
        }
        if reasons & attention::STOPPED != 0 {
            return ControlFlow::Break(());
        }
        if reasons & attention::RESUMED != 0 {
            self.shared.inbox().resume();
        }
        if reasons & attention::AGAIN != 0
            && let Some(chunk) = self.shared.take_again()
        {
            self.again = Some(chunk);
        }
        ControlFlow::Continue(())
    }

    /// The next message to deliver again that nobody has done meanwhile.
    fn next_again(&mut self) -> Option<Delivery> {
        while self.again.is_some() {
            let next = next_of(&mut self.again);
            // What comes again after it is read only once this is gone.
            drop(self.again.take_if(|chunk| chunk.is_empty()));
            let is_left = |delivery: &Delivery| delivery.hand_out_again();
            if let Some(delivery) = next.filter(is_left) {
                return Some(delivery);
            }
        }
        None
    }

    /// The error that ended it, if one did, and then nothing.
    fn end(&mut self) -> Option<Result<Delivery>> {
        self.current = None;
        self.again = None;
        let failure = self.shared.take_failure();
        self.ended = failure.is_none();
        failure.map(Err)
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
