//! What has left the buffer of a producer, and what came back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::appender::{AppendRequest, AppendResult, Sequence, Ticket, Unsent};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::message::{AppendError, Batch};
use crate::name::Name;

/// One is written while the next one is encoded, or sent.
const IN_FLIGHT: usize = 2;

/// What has left the buffer of a producer, and what came back.
///
/// ```text
///            something came back
///   flowing ────────────────────▶ unwinding
///     │  ▲                            │
///     │  └────────────────────────────┘
///     │    all that was behind it came back as well: they go again, in order
///     ▼
///   closed
/// ```
pub(super) struct Pipeline {
    context: Arc<Context>,
    stream: Name,
    runtime: Handle,
    sequence: Sequence,
    state: ProducerState,
    /// At most [`IN_FLIGHT`], in order.
    in_flight: VecDeque<Sent>,
    /// What goes before the buffer, one by one: what came back, and a buffer that left because a message
    /// would have made it larger than an append takes.
    waiting: VecDeque<Batch>,
}

/// How a producer goes on.
enum ProducerState {
    /// What is accepted is sent.
    Flowing,
    /// Something was not written. Nothing is sent until what is behind it has come back as well.
    Unwinding(Unwinding),
    /// Nothing is accepted any more, and all that was is durable.
    Closed,
}

/// Batches that come back.
#[derive(Default)]
struct Unwinding {
    /// Why the first of them failed; `None` if only a runtime has ended, so that they go again untold.
    first_error: Option<Error>,
    /// In order: they go before all that waits.
    returned: VecDeque<Batch>,
}

/// A batch under way.
struct Sent {
    ticket: Ticket,
    kind: Kind,
}

/// Who wants to know what became of a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The sink: it is a buffer.
    Buffer,
    /// The caller of `append`, who gets it back; it is not part of the sink.
    Append,
    /// Nobody: the future of that call was dropped. What comes after it still goes behind it.
    Unwanted,
}

impl Pipeline {
    pub(super) fn new(context: Arc<Context>, stream: Name, runtime: Handle) -> Self {
        Self {
            context,
            stream,
            runtime,
            sequence: Sequence::new(),
            state: ProducerState::Flowing,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Another one for the same stream, with nothing in it, and closed if this one is.
    pub(super) fn another(&self) -> Self {
        let (context, runtime) = (self.context.clone(), self.runtime.clone());
        let mut another = Self::new(context, self.stream.clone(), runtime);
        if self.is_closed() {
            another.state = ProducerState::Closed;
        }
        another
    }

    #[inline]
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn stream(&self) -> &Name {
        &self.stream
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, ProducerState::Closed)
    }

    pub(super) fn close(&mut self) {
        debug_assert!(self.is_drained(), "only what is durable is closed");
        debug_assert!(!self.is_unwinding(), "all that came back was told");
        self.state = ProducerState::Closed;
    }

    fn is_unwinding(&self) -> bool {
        matches!(self.state, ProducerState::Unwinding(_))
    }

    /// Whether so much is under way, or waits, that the buffer cannot leave soon.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.in_flight.len() + self.waiting.len() > IN_FLIGHT
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether nothing goes before the buffer that is not under way.
    pub(super) fn has_none_waiting(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether all that has left is durable, or with whoever wants it back.
    pub(super) fn is_drained(&self) -> bool {
        self.in_flight.is_empty() && self.waiting.is_empty()
    }

    /// The messages that are in it and not under way.
    pub(super) fn kept_messages(&self) -> usize {
        let returned = match &self.state {
            ProducerState::Unwinding(unwinding) => Some(&unwinding.returned),
            ProducerState::Flowing | ProducerState::Closed => None,
        };
        let kept = self.waiting.iter().chain(returned.into_iter().flatten());
        kept.map(Batch::len).sum()
    }

    /// It goes before the buffer.
    pub(super) fn put_waiting(&mut self, batch: Batch) {
        self.waiting.push_back(batch);
    }

    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = Batch> {
        debug_assert!(self.in_flight.is_empty(), "what is under way comes first");
        self.waiting.drain(..)
    }

    /// Whether the next batch may leave.
    fn may_send(&self) -> bool {
        let is_behind_append = self.in_flight.back().is_some_and(|it| !it.is_buffer());
        matches!(self.state, ProducerState::Flowing)
            && !is_behind_append
            && self.in_flight.len() < IN_FLIGHT
            && self.context.appender().has_room()
    }

    /// Sends what waits, or else what `buffered` gives, if there is room for it under way.
    pub(super) fn send_next(&mut self, buffered: impl FnOnce() -> Option<Batch>) {
        if !self.may_send() {
            return;
        }
        let next = match self.waiting.is_empty() {
            true => buffered(),
            // One by one: which of them is at fault is seen then.
            false if self.in_flight.is_empty() => self.waiting.pop_front(),
            false => None,
        };
        if let Some(batch) = next {
            let deadline = self.context.appender().deadline();
            self.submit(batch, Kind::Buffer, deadline);
        }
    }

    pub(super) fn submit(&mut self, batch: Batch, kind: Kind, deadline: Duration) {
        debug_assert!(
            matches!(self.state, ProducerState::Flowing),
            "nothing goes between"
        );
        debug_assert!(self.in_flight.len() < IN_FLIGHT);
        if self.in_flight.is_empty() && self.sequence.is_broken() {
            self.sequence = Sequence::new();
        }
        let (stream, sequence) = (self.stream.clone(), self.sequence.clone());
        let request = match kind {
            Kind::Buffer => AppendRequest::buffer(stream, batch, sequence, deadline),
            Kind::Append | Kind::Unwanted => {
                AppendRequest::wanted(stream, batch, sequence, deadline)
            }
        };
        let ticket = self.context.appender().submit(request, &self.runtime);
        self.in_flight.push_back(Sent { ticket, kind });
    }

    /// The caller of `append` is gone: its batch is taken back, if it can be.
    pub(super) fn renounce_append(&mut self) {
        let Some(last) = self.in_flight.back_mut() else {
            return;
        };
        if last.kind != Kind::Append {
            return;
        }
        last.kind = Kind::Unwanted;
        if self.context.appender().withdraw(&mut last.ticket) {
            self.in_flight.pop_back();
        }
    }

    /// The answer to what is under way for the longest; `None` if nothing is, or if nobody wants it.
    pub(super) fn poll_answer(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<AppendResult>> {
        let Some(Sent { ticket, kind }) = self.in_flight.front_mut() else {
            return Poll::Ready(None);
        };
        let appender = self.context.appender();
        // A unit goes on by itself; of buffers all come back first, to keep their order.
        let answer = ready!(match kind {
            Kind::Buffer => ticket.poll(cx).map(Some),
            Kind::Append => {
                let answer = appender.poll_unit(ticket, &self.stream, &self.runtime, cx);
                answer.map(Some)
            }
            Kind::Unwanted => ticket.poll_gone(cx).map(|()| None),
        });
        self.in_flight.pop_front();
        Poll::Ready(answer)
    }

    /// Ready once the oldest of what is under way has landed, or nothing is. After a failure all of it
    /// has to land, and what failed is kept, in order.
    pub(super) fn poll_landed(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<()>> {
        loop {
            if let Some(Err(unsent)) = ready!(self.poll_answer(cx)) {
                self.unwind(unsent);
            }
            if !self.is_unwinding() {
                return Poll::Ready(Ok(()));
            }
            if self.in_flight.is_empty() {
                return Poll::Ready(self.rewind());
            }
        }
    }

    /// A batch came back: nothing is sent until what is behind it has come back as well.
    fn unwind(&mut self, unsent: Unsent) {
        if self.state.is_flowing() {
            self.state = ProducerState::Unwinding(Unwinding::default());
        }
        let ProducerState::Unwinding(unwinding) = &mut self.state else {
            debug_assert!(false, "nothing is under way of a producer that is closed");
            return;
        };
        let batch = match unsent {
            Unsent::RuntimeEnded(batch) if self.context.appender().can_go_on(&self.runtime) => {
                batch
            }
            unsent => {
                let AppendError { error, unsent, .. } = AppendError::from(unsent);
                unwinding.first_error.get_or_insert(error);
                unsent
            }
        };
        unwinding.returned.push_back(batch);
    }

    /// All has come back: it goes before what waits. The error, if there is one to tell.
    fn rewind(&mut self) -> Result<()> {
        debug_assert!(self.in_flight.is_empty(), "all has come back");
        let ProducerState::Unwinding(unwinding) =
            std::mem::replace(&mut self.state, ProducerState::Flowing)
        else {
            return Ok(());
        };
        let mut returned = unwinding.returned;
        returned.append(&mut self.waiting);
        self.waiting = returned;
        unwinding.first_error.map_or(Ok(()), Err)
    }
}

impl ProducerState {
    fn is_flowing(&self) -> bool {
        matches!(self, Self::Flowing)
    }
}

impl Sent {
    fn is_buffer(&self) -> bool {
        self.kind == Kind::Buffer
    }
}
