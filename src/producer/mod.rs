//! The Sink.

mod buffers;
mod builder;

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_sink::Sink;
use tokio::runtime::Handle;

use crate::appender::{AppendedRow, Chain, Door, Unsent};
use crate::error::{Error, Result};
use crate::flow::Flowstream;
use crate::message::{Batch, Message};
use crate::name::Name;

use buffers::{Appending, InFlight, Kind, Pause};
use builder::Limits;
pub use builder::ProducerBuilder;

/// What one message costs in a buffer besides its bytes.
const MESSAGE_OVERHEAD: usize = 64;

/// Appends messages to a stream: a [`Sink`].
///
/// Buffers take turns: one fills while up to two are under way to the storage. Clones have
/// buffers of their own and share the writes, so a thousand tasks that each send one message pay
/// for a few transactions. Messages of one producer to one partition keep their order.
///
/// - `poll_ready` looks only at the room in the buffer, and drives what is under way. It fails only
///   once the sink is closed, so a combinator that holds an item while it asks never loses it. While
///   writes fail it keeps trying, and lets one message more in than there is room for, once, so that
///   `start_send` can report the error.
/// - `start_send` takes the message, even when it reports an error of an earlier write. It refuses
///   only an [invalid](crate::ErrorKind::Invalid) one, which comes back in the error
///   ([`Error::take_unsent`]). A full buffer leaves at once, without waiting for a flush.
/// - `poll_flush` and `poll_close` are ready once everything accepted is durable, also what was
///   accepted while the flush was under way.
///
/// A write that fails is tried again within the budget of
/// [`Options::retry_for`](crate::Options::retry_for). When that has run out, it is reported once;
/// the messages stay, in order, and the next poll starts another budget.
/// [`take_unsent`](Self::take_unsent) gives them back instead. So after an error of `send`, do not
/// send the same message again: it is still here.
///
/// All producers of a [`Flowstream`] share a queue of 16 MiB: while more waits for the storage,
/// `poll_ready` of a full sink is pending, and so is `append`.
///
/// # Cancel safety
///
/// Dropping a `send`, `flush` or `close` at any point leaves a message either taken or not: taken
/// ones are written by the next flush. Dropping the producer discards what is still in its buffer;
/// a buffer that has left, because it was full or flushed, is written all the same.
///
/// # Examples
///
/// ```
/// # async fn example() -> flowstream::Result<()> {
/// use futures::SinkExt;
///
/// let flow = flowstream::open("memory:").await?;
/// let mut orders = flow.producer("orders").await?;
/// orders.feed("one".into()).await?; // in the buffer
/// orders.send("two".into()).await?; // both durable
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
pub struct Producer {
    flow: Flowstream,
    stream: Name,
    limits: Limits,
    runtime: Handle,
    chain: Chain,
    filling: Vec<Message>,
    filling_bytes: usize,
    /// At most [`IN_FLIGHT`], in order.
    in_flight: VecDeque<InFlight>,
    /// The batches that failed. They go before all others, one by one.
    unsent: VecDeque<Batch>,
    /// Those that failed while others behind them are still under way, which come back as well: they
    /// go before all that is unsent.
    fallen: VecDeque<Batch>,
    /// Why the first of them failed.
    fault: Option<Error>,
    /// A runtime ended that some of them were under way on: they go again on another.
    is_orphaned: bool,
    /// An error that nobody was told yet.
    failed: Option<Error>,
    /// The buffer took a message that it had no room for.
    is_over: bool,
    /// Too much waits already, of all producers.
    door: Option<Door>,
    /// Nothing is sent for a message that there is no room for.
    pause: Option<Pause>,
    closed: bool,
}

impl Producer {
    /// With nothing in it.
    fn new(flow: Flowstream, stream: Name, limits: Limits, runtime: Handle) -> Self {
        Self {
            flow,
            stream,
            limits,
            runtime,
            chain: Chain::new(),
            filling: Vec::new(),
            filling_bytes: 0,
            in_flight: VecDeque::new(),
            unsent: VecDeque::new(),
            fallen: VecDeque::new(),
            fault: None,
            is_orphaned: false,
            failed: None,
            is_over: false,
            door: None,
            pause: None,
            closed: false,
        }
    }

    /// Appends messages together or not at all, over several streams and partitions too, and says
    /// where they are. They go behind what the sink accepted before, which is flushed first.
    ///
    /// # Errors
    ///
    /// The error has the messages: [`Error::take_unsent`]. If it is
    /// [in doubt](Error::in_doubt), they may have been written; appending *that batch* again never
    /// doubles them. [`Invalid`](crate::ErrorKind::Invalid): a message, or all together, over the
    /// limit; nothing was written. [`Fenced`](crate::ErrorKind::Fenced): a commit that rides in
    /// them is of a lease that was lost; nothing was written. The error of a flush comes out here as
    /// well, with this batch in it: what failed to flush stays in the producer.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it was sent, nothing was written; afterwards it runs to its end. It is sent when
    /// the storage gets it: while it waits for others, it is not.
    pub async fn append(&mut self, batch: impl Into<Batch>) -> Result<Appended> {
        let (batch, deadline) = (batch.into(), self.flow.appender().deadline());
        if let Err(error) = self.accept(&batch, deadline).await {
            return Err(error.with_unsent(batch));
        }
        if batch.is_empty() {
            return Ok(Appended::default());
        }
        self.submit(batch, Kind::Append, deadline);
        let appending = Appending(self);
        let answer = poll_fn(|cx| appending.0.poll_answer(cx)).await;
        let answer = answer.expect("it is the only one under way");
        let rows = answer.map_err(Unsent::into_error)?;
        Ok(Appended { rows })
    }

    /// Returns once a batch may be handed in: what was accepted before is durable, and there is room.
    async fn accept(&mut self, batch: &Batch, deadline: Duration) -> Result<()> {
        self.check_batch(batch)?;
        poll_fn(|cx| self.poll_drain(cx)).await?;
        let mut door = None;
        let appender = self.flow.appender();
        poll_fn(|cx| appender.poll_room(&mut door, deadline, cx)).await
    }

    /// A batch as rows for a transaction of the application, checked as far as it can be before
    /// anything is written; and the batch.
    #[cfg(feature = "postgres")]
    pub(crate) async fn lay_out(
        &self,
        batch: Batch,
    ) -> Result<(std::sync::Arc<crate::storage::Append>, Batch)> {
        if let Err(error) = self.check_batch(&batch).and_then(|()| check_parts(&batch)) {
            return Err(error.with_unsent(batch));
        }
        let laid_out = self.flow.appender().lay_out(&self.stream, batch).await;
        laid_out.map_err(Unsent::into_error)
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn flow(&self) -> &Flowstream {
        &self.flow
    }

    /// Takes back what is not known to be written: the batches that failed, if some did, and what
    /// was accepted since. In order; after this the sink is empty. Each is one that
    /// [`append`](Self::append) takes.
    ///
    /// It waits until the storage has answered for what is under way, which takes the budget of
    /// [`Options::retry_for`](crate::Options::retry_for) and one call at most while that fails.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its end, nothing was taken.
    pub async fn take_unsent(&mut self) -> Vec<Batch> {
        while !self.in_flight.is_empty() {
            // What it says is about what is taken back.
            let _ = poll_fn(|cx| self.poll_landed(cx)).await;
        }
        self.failed = None;
        let filling = (!self.filling.is_empty()).then(|| self.take_filling());
        self.unsent.drain(..).chain(filling).collect()
    }

    /// The name of the stream.
    pub fn stream(&self) -> &str {
        self.stream.as_str()
    }

    fn check_batch(&self, batch: &Batch) -> Result<()> {
        if self.closed {
            return Err(closed(&self.stream));
        }
        for message in batch.messages() {
            self.flow.check(message)?;
        }
        self.flow.check_append(batch.messages())
    }
}

impl Sink<Message> for Producer {
    type Error = Error;

    #[inline]
    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        if this.closed {
            return Poll::Ready(Err(closed(&this.stream)));
        }
        // With an error to tell one over the bound, so that `start_send` can tell it.
        while this.is_full() && (this.failed.is_none() || this.is_over) {
            ready!(this.poll_room(cx));
        }
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<()> {
        let this = self.get_mut();
        if this.closed {
            return Err(closed(&this.stream).with_unsent(Batch::from(message)));
        }
        if let Err(error) = this.flow.check(&message) {
            return Err(error.with_unsent(Batch::from(message)));
        }
        let is_over = this.failed.is_some() && this.is_full();
        if !this.fits(&message) && !this.filling.is_empty() {
            let filled = this.take_filling();
            this.unsent.push_back(filled);
        }
        this.is_over |= is_over;
        this.filling_bytes += message.size() + MESSAGE_OVERHEAD;
        this.filling.push(message);
        if this.failed.is_some() || this.is_full() {
            return this.leave();
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        this.closed = true;
        Poll::Ready(Ok(()))
    }
}

/// With buffers of its own.
impl Clone for Producer {
    fn clone(&self) -> Self {
        let (flow, stream) = (self.flow.clone(), self.stream.clone());
        let mut clone = Self::new(flow, stream, self.limits, self.runtime.clone());
        clone.closed = self.closed;
        clone
    }
}

/// What it holds goes with it: that is said, for it is mostly a flush that was forgotten.
impl Drop for Producer {
    fn drop(&mut self) {
        let kept = self.unsent.iter().chain(&self.fallen);
        let messages = self.filling.len() + kept.map(Batch::len).sum::<usize>();
        if messages > 0 {
            tracing::warn!(
                stream = %self.stream,
                messages,
                "a producer was dropped with messages that were not flushed, which are lost: flush or \
                 close it, or take them out with take_unsent"
            );
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("stream", &self.stream)
            .field("filling", &self.filling.len())
            .field("in_flight", &self.in_flight.len())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// What a transaction of the application cannot take along.
#[cfg(feature = "postgres")]
fn check_parts(batch: &Batch) -> Result<()> {
    if batch.in_doubt() {
        return Err(Error::invalid(
            "these messages are in doubt: only Producer::append finds out whether they are written",
        ));
    }
    if batch.messages().iter().any(Message::has_commits) {
        return Err(Error::invalid(
            "commits ride in these messages, which a transaction does not take along: take them out \
             (Message::take_commits) and give them to commit_in",
        ));
    }
    Ok(())
}

fn closed(stream: &Name) -> Error {
    Error::closed(format!(
        "the producer of {stream} is closed: make another one"
    ))
}

/// Where the messages of an [`append`](Producer::append) are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    rows: Vec<AppendedRow>,
}

impl Appended {
    /// One row for each stream and partition that got messages.
    pub fn offsets(&self) -> &[AppendedRow] {
        &self.rows
    }
}
