//! The Sink.

mod buffer;
mod builder;
mod pipeline;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_sink::Sink;
use tokio::runtime::Handle;

pub use builder::ProducerBuilder;

use crate::appender::{AppendedRow, WaitForRoom};
use crate::clock::Clock;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::message::{AppendError, Batch, Message};
use crate::name::Name;
use crate::sync::Mutex;

use buffer::{Buffer, BufferLimits};
use pipeline::{Kind, Pipeline};

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
///   only an [invalid](crate::ErrorKind::Invalid) one, or one that comes after a close;
///   [`take_refused`](Self::take_refused) gives the last such one back. A full buffer leaves at once,
///   without waiting for a flush.
/// - `poll_flush` and `poll_close` are ready once everything accepted is durable, also what was
///   accepted while the flush was under way.
///
/// A write that fails is tried again within the budget of
/// [`Options::retry_for`](crate::Options::retry_for). When that has run out, it is reported once;
/// the messages stay, in order, and the next poll starts another budget.
/// [`take_unsent`](Self::take_unsent) gives them back instead. So after an error of `send`, do not
/// send the same message again: it is still here.
///
/// All producers of a [`Flowstream`](crate::Flowstream) share a queue of 16 MiB: while more waits for the storage,
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
    pipeline: Pipeline,
    buffer: Buffer,
    /// An error that nobody was told yet.
    unreported: Option<Error>,
    /// The last message that `start_send` did not take.
    refused: Option<Message>,
    /// Too much waits already, of all producers.
    room: Option<WaitForRoom>,
    /// Nothing is sent for a message that there is no room for.
    pause: Option<Pause>,
}

/// Between attempts for which nobody waits but the next message. Whoever has the producer waits: the
/// mutex is never locked, it only lets others look at the producer meanwhile.
struct Pause(Mutex<BoxFuture<'static, ()>>);

/// An `append` that waits for its answer. Dropped before that, it is taken back if it can be.
struct Appending<'a>(&'a mut Pipeline);

impl Producer {
    /// An empty producer for this stream.
    fn new(context: Arc<Context>, stream: Name, limits: BufferLimits, runtime: Handle) -> Self {
        Self::with(Pipeline::new(context, stream, runtime), limits)
    }

    fn with(pipeline: Pipeline, limits: BufferLimits) -> Self {
        Self {
            pipeline,
            buffer: Buffer::new(limits),
            unreported: None,
            refused: None,
            room: None,
            pause: None,
        }
    }

    /// Appends messages together or not at all, over several streams and partitions too, and says
    /// where they are. They go behind what the sink accepted before, which is flushed first.
    ///
    /// # Errors
    ///
    /// The error has the messages: [`AppendError::unsent`]. If it is
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
    pub async fn append(&mut self, batch: impl Into<Batch>) -> Result<AppendReceipt, AppendError> {
        let (batch, deadline) = (batch.into(), self.context().appender().deadline());
        if let Err(error) = self.accept(&batch, deadline).await {
            return Err(AppendError::new(error, batch));
        }
        if batch.is_empty() {
            return Ok(AppendReceipt::default());
        }
        self.pipeline.submit(batch, Kind::Append, deadline);
        let appending = Appending(&mut self.pipeline);
        let answer = poll_fn(|cx| appending.0.poll_answer(cx)).await;
        let answer = answer.expect("it is the only one under way");
        let rows = answer.map_err(AppendError::from)?;
        Ok(AppendReceipt { rows })
    }

    /// Returns once a batch may be handed in: what was accepted before is durable, and there is room.
    async fn accept(&mut self, batch: &Batch, deadline: Duration) -> Result<()> {
        self.check_batch(batch)?;
        poll_fn(|cx| self.poll_drain(cx)).await?;
        let mut room = None;
        let appender = self.context().appender();
        poll_fn(|cx| appender.poll_room(&mut room, deadline, cx)).await
    }

    /// A batch as rows for a transaction of the application, checked as far as it can be before
    /// anything is written; and the batch.
    #[cfg(feature = "postgres")]
    pub(crate) async fn to_rows(
        &self,
        batch: Batch,
    ) -> Result<(Arc<crate::storage::Append>, Batch), AppendError> {
        if let Err(error) = self.check_batch(&batch).and_then(|()| check_parts(&batch)) {
            return Err(AppendError::new(error, batch));
        }
        let appender = self.context().appender();
        appender.to_rows(self.pipeline.stream(), batch).await
    }

    pub(crate) fn context(&self) -> &Context {
        self.pipeline.context()
    }

    /// Takes back what is not known to be written: the batches that failed, if some did, and what
    /// was accepted since. In order; after this the sink is empty. Each is one that
    /// [`append`](Self::append) takes. The last is the message that `start_send` refused, if it refused
    /// one: the latest, since no other is kept.
    ///
    /// It waits until the storage has answered for what is under way, which takes the budget of
    /// [`Options::retry_for`](crate::Options::retry_for) and one call at most while that fails.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its end, nothing was taken.
    pub async fn take_unsent(&mut self) -> Vec<Batch> {
        while self.pipeline.in_flight() > 0 {
            // What it says is about what is taken back.
            let _ = poll_fn(|cx| self.pipeline.poll_landed(cx)).await;
        }
        self.unreported = None;
        let buffered = (!self.buffer.is_empty()).then(|| self.buffer.take());
        let refused = self.refused.take().map(Batch::from);
        let waiting = self.pipeline.take_waiting();
        waiting.chain(buffered).chain(refused).collect()
    }

    /// The message that `start_send` did not take, because it is [invalid](crate::ErrorKind::Invalid) or
    /// the producer is closed; the latest, since no other is kept. [`take_unsent`](Self::take_unsent)
    /// gives it as well.
    pub fn take_refused(&mut self) -> Option<Message> {
        self.refused.take()
    }

    /// The name of the stream.
    pub fn stream(&self) -> &str {
        self.pipeline.stream().as_str()
    }

    fn check_batch(&self, batch: &Batch) -> Result<()> {
        self.check_open()?;
        self.context().check_append(batch.messages())
    }

    #[inline]
    fn check_open(&self) -> Result<()> {
        match self.pipeline.is_closed() {
            true => Err(closed(self.pipeline.stream())),
            false => Ok(()),
        }
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.buffer.is_full() || self.pipeline.is_crowded()
    }

    /// Sends what waits, or else the buffer, if there is room for it under way.
    fn send_next(&mut self) {
        let buffer = &mut self.buffer;
        let buffered = || (!buffer.is_empty()).then(|| buffer.take());
        self.pipeline.send_next(buffered);
    }

    /// Ready once there may be room, or an error to tell. Where the last one is still to be told, it is
    /// not tried again at once.
    fn poll_room(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.poll(cx));
            self.pause = None;
        }
        self.send_next();
        if self.is_full() {
            let landed = match self.pipeline.in_flight() {
                0 => self.poll_queue(cx),
                _ => self.pipeline.poll_landed(cx),
            };
            self.unreported = ready!(landed).err();
            if self.unreported.is_some() && self.buffer.is_over() {
                self.pause = Some(Pause::new(&**self.context().clock()));
            }
        }
        Poll::Ready(())
    }

    /// Ready once there is room among what waits of all producers.
    fn poll_queue(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let appender = self.pipeline.context().appender();
        appender.poll_room(&mut self.room, appender.deadline(), cx)
    }

    /// Reports the error that is there to be told; or sends a full buffer off at once.
    fn report_or_send(&mut self) -> Result<()> {
        if let Some(error) = self.unreported.take() {
            return Err(error);
        }
        if self.pipeline.has_none_waiting() {
            self.send_next();
        }
        Ok(())
    }

    /// Ready once everything accepted is durable.
    fn poll_drain(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<()>> {
        loop {
            if let Some(error) = self.unreported.take() {
                return Poll::Ready(Err(error));
            }
            self.send_next();
            if self.pipeline.in_flight() > 0 {
                ready!(self.pipeline.poll_landed(cx))?;
            } else if self.pipeline.is_drained() && self.buffer.is_empty() {
                return Poll::Ready(Ok(()));
            } else {
                ready!(self.poll_queue(cx))?;
            }
        }
    }
}

impl Sink<Message> for Producer {
    type Error = Error;

    #[inline]
    fn poll_ready(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        this.check_open()?;
        // With an error to tell one over the bound, so that `start_send` can tell it.
        while this.is_full() && (this.unreported.is_none() || this.buffer.is_over()) {
            ready!(this.poll_room(cx));
        }
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<()> {
        let this = self.get_mut();
        let limits = this.context().limits();
        if let Err(error) = this.check_open().and_then(|()| limits.check(&message)) {
            this.refused = Some(message);
            return Err(error);
        }
        let is_over = this.unreported.is_some() && this.is_full();
        if !this.buffer.fits(&message) && !this.buffer.is_empty() {
            let filled = this.buffer.take();
            this.pipeline.put_waiting(filled);
        }
        if is_over {
            this.buffer.set_over();
        }
        this.buffer.push(message);
        if this.unreported.is_some() || this.is_full() {
            return this.report_or_send();
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        this.pipeline.close();
        Poll::Ready(Ok(()))
    }
}

/// Another producer for the same stream, with buffers of its own.
impl Clone for Producer {
    fn clone(&self) -> Self {
        Self::with(self.pipeline.another(), self.buffer.limits())
    }
}

/// What it holds goes with it: that is said, for it is mostly a flush that was forgotten.
impl Drop for Producer {
    fn drop(&mut self) {
        let messages = self.buffer.len() + self.pipeline.kept_messages();
        if messages > 0 {
            tracing::warn!(
                stream = %self.pipeline.stream(),
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
            .field("stream", self.pipeline.stream())
            .field("buffered", &self.buffer.len())
            .field("in_flight", &self.pipeline.in_flight())
            .field("closed", &self.pipeline.is_closed())
            .finish_non_exhaustive()
    }
}

impl Pause {
    fn new(clock: &dyn Clock) -> Self {
        const LENGTH: Duration = Duration::from_millis(100);
        Self(Mutex::new(
            clock.sleep_until(clock.now().saturating_add(LENGTH)),
        ))
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        self.0.get_mut().as_mut().poll(cx)
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        self.0.renounce_append();
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
pub struct AppendReceipt {
    rows: Vec<AppendedRow>,
}

impl AppendReceipt {
    /// One row for each stream and partition that got messages.
    pub fn offsets(&self) -> &[AppendedRow] {
        &self.rows
    }
}
