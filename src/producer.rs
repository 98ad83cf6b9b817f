//! The Sink.

use std::collections::VecDeque;
use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::future::BoxFuture;
use futures_sink::Sink;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::appender::{Answer, AppendedRow, Chain, Submission, Unsent};
use crate::error::{Error, Result};
use crate::flow::Flowstream;
use crate::message::{Batch, Message};
use crate::name::Name;
use crate::options::{MAX_APPEND_BYTES, MAX_APPEND_MESSAGES};

/// What one message costs in a buffer besides its bytes.
const MESSAGE_OVERHEAD: usize = 64;

/// Appends messages to a stream: a [`Sink`].
///
/// Buffers take turns: one fills while up to two are under way to the storage. Clones have
/// buffers of their own and share the writes, so a thousand tasks that each send one message pay
/// for a few transactions. Messages of one producer to one partition keep their order.
///
/// - `poll_ready` looks only at the room in the buffer, and drives what is under way. It fails only
///   once the sink is closed, so a combinator that holds an item while it asks never loses it.
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
/// # Cancel safety
///
/// Dropping a `send`, `flush` or `close` at any point leaves a message either taken or not: taken
/// ones are written by the next flush. Dropping the producer discards what no flush has sent; what
/// is under way runs to its end.
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
    /// And are under way again.
    was_orphaned: bool,
    /// An error that nobody was told yet.
    failed: Option<Error>,
    closed: bool,
}

/// One is written while the next one is encoded, or sent.
const IN_FLIGHT: usize = 2;

struct InFlight {
    answer: oneshot::Receiver<Answer>,
    /// Given to `append`, whose caller gets it back; not part of the sink.
    is_append: bool,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    batch_bytes: usize,
    batch_messages: usize,
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
            was_orphaned: false,
            failed: None,
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
    /// Dropped before it was sent, nothing was written; afterwards it runs to its end.
    pub async fn append(&mut self, batch: impl Into<Batch>) -> Result<Appended> {
        let batch = batch.into();
        let accepted = match self.check_batch(&batch) {
            Ok(()) => poll_fn(|cx| self.poll_drain(cx)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = accepted {
            return Err(error.with_unsent(batch));
        }
        if batch.is_empty() {
            return Ok(Appended::default());
        }
        self.submit(batch, true);
        match poll_fn(|cx| self.poll_appended(cx)).await {
            Some(Ok(rows)) => Ok(Appended { rows }),
            Some(Err(unsent)) => {
                let (error, batch) = unsent.into_parts();
                Err(error.with_unsent(batch))
            }
            None => Ok(Appended::default()),
        }
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
        laid_out.map_err(|unsent| {
            let (error, batch) = unsent.into_parts();
            error.with_unsent(batch)
        })
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn flow(&self) -> &Flowstream {
        &self.flow
    }

    /// Takes back what is not known to be written and not under way: the batch that failed, if one
    /// did, and what was accepted since. In order; after this the sink is empty.
    pub fn take_unsent(&mut self) -> Vec<Batch> {
        // What nobody was told is about what is taken back.
        self.failed = None;
        let filling = std::mem::take(&mut self.filling);
        self.filling_bytes = 0;
        let filling = (!filling.is_empty()).then(|| Batch::from(filling));
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
        let mut bytes = 0;
        for message in batch.messages() {
            self.flow.check(message)?;
            bytes += message.size();
        }
        self.flow.check_append(bytes, batch.len())
    }

    fn is_full(&self) -> bool {
        self.filling_bytes >= self.limits.batch_bytes
            || self.filling.len() >= self.limits.batch_messages
    }

    fn submit(&mut self, batch: Batch, atomic: bool) {
        if self.in_flight.is_empty() && self.chain.is_broken() {
            self.chain = Chain::new();
        }
        let (answer, receiver) = oneshot::channel();
        let submission = Submission {
            stream: self.stream.clone(),
            batch,
            atomic,
            chain: self.chain.clone(),
            answer,
        };
        // The runtime that polls, or the one that made the producer where there is none.
        let runtime = Handle::try_current().unwrap_or_else(|_| self.runtime.clone());
        self.flow.appender().submit(submission, &runtime);
        self.in_flight.push_back(InFlight {
            answer: receiver,
            is_append: atomic,
        });
    }

    /// Whether something failed, and what was behind it has not come back yet.
    fn chain_is_ending(&self) -> bool {
        self.fault.is_some() || self.is_orphaned
    }

    /// Sends what waits, if there is room for it under way.
    fn send_next(&mut self) {
        let is_behind_append = self.in_flight.back().is_some_and(|it| it.is_append);
        if self.chain_is_ending() || is_behind_append || self.in_flight.len() >= IN_FLIGHT {
            return;
        }
        if !self.unsent.is_empty() {
            if self.in_flight.is_empty()
                && let Some(batch) = self.unsent.pop_front()
            {
                self.submit(batch, false);
            }
        } else if !self.filling.is_empty() {
            let capacity = self.filling.len();
            let filled = std::mem::replace(&mut self.filling, Vec::with_capacity(capacity));
            self.filling_bytes = 0;
            self.submit(Batch::from(filled), false);
        }
    }

    /// The answer to what is under way for the longest; `None` if nothing is.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let Some(oldest) = self.in_flight.front_mut() else {
            return Poll::Ready(None);
        };
        let answer = ready!(Pin::new(&mut oldest.answer).poll(cx));
        self.in_flight.pop_front();
        Poll::Ready(Some(
            answer.unwrap_or_else(|_| Err(Unsent::Orphaned(Batch::default()))),
        ))
    }

    /// The answer to the only one under way, which is an `append`.
    fn poll_appended(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let answer = ready!(self.poll_answer(cx));
        let Some(Err(Unsent::Orphaned(batch))) = answer else {
            return Poll::Ready(answer);
        };
        // The task ran on another runtime, which has ended: this one goes on with it. If this one
        // has ended, too, there is an answer at once.
        self.submit(batch, true);
        self.poll_answer(cx)
    }

    /// Ready once the oldest of what is under way has landed, or nothing is. After a failure all of it
    /// has to land, and what failed is kept, in order.
    fn poll_landed(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            let unsent = match self.in_flight.front() {
                Some(oldest) if oldest.is_append => {
                    // Its future was dropped: nobody waits for it.
                    ready!(self.poll_appended(cx));
                    None
                }
                _ => ready!(self.poll_answer(cx)).and_then(Result::err),
            };
            match unsent {
                // The task ran on another runtime, which has ended: this one goes on.
                Some(Unsent::Orphaned(batch)) if !self.was_orphaned && !batch.is_empty() => {
                    self.fallen.push_back(batch);
                    self.is_orphaned = true;
                }
                Some(unsent) => {
                    let (error, batch) = unsent.into_parts();
                    self.fallen.extend((!batch.is_empty()).then_some(batch));
                    self.fault.get_or_insert(error);
                }
                None => self.was_orphaned = false,
            }
            if self.fault.is_none() && !self.is_orphaned {
                return Poll::Ready(Ok(()));
            }
            if self.in_flight.is_empty() {
                self.fallen.append(&mut self.unsent);
                self.unsent = std::mem::take(&mut self.fallen);
                self.was_orphaned = std::mem::take(&mut self.is_orphaned);
                return Poll::Ready(self.fault.take().map_or(Ok(()), Err));
            }
        }
    }

    /// Ready once there may be room, or an error to tell.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send_next();
        if self.is_full()
            && let Err(error) = ready!(self.poll_landed(cx))
        {
            self.failed = Some(error);
        }
        Poll::Ready(())
    }

    /// Tells the error that is there to be told; or a full buffer leaves at once.
    fn leave(&mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.unsent.is_empty() {
            self.send_next();
        }
        Ok(())
    }

    /// Ready once everything accepted is durable.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(error));
            }
            self.send_next();
            if self.in_flight.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_landed(cx))?;
        }
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
        while this.is_full() && this.failed.is_none() {
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
        Self {
            closed: self.closed,
            ..Self::new(
                self.flow.clone(),
                self.stream.clone(),
                self.limits,
                self.runtime.clone(),
            )
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
    Error::closed(format!("the producer of {stream} is closed"))
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

/// Makes a [`Producer`]: set what differs from the defaults, then `.await`.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is awaited"]
pub struct ProducerBuilder {
    flow: Flowstream,
    stream: String,
    limits: Limits,
}

impl ProducerBuilder {
    pub(crate) fn new(flow: Flowstream, stream: String) -> Self {
        Self {
            flow,
            stream,
            limits: Limits {
                batch_bytes: 1 << 20,
                batch_messages: 10_000,
            },
        }
    }

    /// A buffer leaves once it has so many bytes, keys, headers and 64 bytes a message included:
    /// 1 MiB by default, 64 MiB at most; the message that fills it may go over. The producer holds
    /// three buffers: one is filled, two are under way. While they are, they are there once more,
    /// encoded, and in the hands of the storage's driver.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.limits.batch_bytes = bytes.clamp(1, MAX_APPEND_BYTES);
        self
    }

    /// A buffer leaves once it has so many messages: 10,000 by default, about a million at most.
    pub fn batch_messages(mut self, messages: usize) -> Self {
        self.limits.batch_messages = messages.clamp(1, MAX_APPEND_MESSAGES);
        self
    }
}

impl IntoFuture for ProducerBuilder {
    type Output = Result<Producer>;
    type IntoFuture = BoxFuture<'static, Result<Producer>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self {
                flow,
                stream,
                limits,
            } = self;
            let stream = Name::new(stream)?;
            flow.open_stream(&stream).await?;
            Ok(Producer::new(flow, stream, limits, Handle::current()))
        })
    }
}
