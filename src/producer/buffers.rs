//! How the buffers of a producer take turns.

use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::Producer;
use crate::appender::{Answer, Chain, Submission, Ticket, Unsent};
use crate::clock::Clock;
use crate::error::Result;
use crate::message::{Batch, Message};
use crate::options::{MAX_APPEND_BYTES, MAX_APPEND_MESSAGES};

/// One is written while the next one is encoded, or sent.
const IN_FLIGHT: usize = 2;

pub(super) struct InFlight {
    pub(super) ticket: Ticket,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Buffer,
    /// Given to `append`, whose caller gets it back; not part of the sink.
    Append,
    /// Its future was dropped. What comes after it still goes behind it.
    Unwanted,
}

/// An `append` that waits for its answer. Dropped before that, it is taken back if it can be.
pub(super) struct Appending<'a>(pub(super) &'a mut Producer);

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        let Producer {
            flow, in_flight, ..
        } = &mut *self.0;
        let Some(last) = in_flight.back_mut().filter(|it| it.kind == Kind::Append) else {
            return;
        };
        last.kind = Kind::Unwanted;
        if flow.appender().withdraw(&mut last.ticket) {
            in_flight.pop_back();
        }
    }
}

/// Between attempts for which nobody waits but the next message. Whoever has the producer waits: the
/// mutex is never locked, it only lets others look at the producer meanwhile.
pub(super) struct Pause(Mutex<BoxFuture<'static, ()>>);

impl Pause {
    fn new(clock: &dyn Clock) -> Self {
        const LENGTH: Duration = Duration::from_millis(100);
        Self(Mutex::new(
            clock.sleep_until(clock.now().saturating_add(LENGTH)),
        ))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let time = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        time.as_mut().poll(cx)
    }
}

impl InFlight {
    fn is_buffer(&self) -> bool {
        self.kind == Kind::Buffer
    }
}

impl Producer {
    pub(super) fn is_full(&self) -> bool {
        self.filling_bytes >= self.limits.batch_bytes
            || self.filling.len() >= self.limits.batch_messages
            || self.in_flight.len() + self.unsent.len() > IN_FLIGHT
    }

    /// Whether a batch with this message, too, is one that an append takes.
    pub(super) fn fits(&self, message: &Message) -> bool {
        self.filling_bytes + message.size() <= MAX_APPEND_BYTES
            && self.filling.len() < MAX_APPEND_MESSAGES
    }

    pub(super) fn take_filling(&mut self) -> Batch {
        self.filling_bytes = 0;
        self.is_over = false;
        let capacity = self.filling.len();
        let filled = std::mem::replace(&mut self.filling, Vec::with_capacity(capacity));
        Batch::from(filled)
    }

    pub(super) fn submit(&mut self, batch: Batch, kind: Kind, deadline: Duration) {
        if self.in_flight.is_empty() && self.chain.is_broken() {
            self.chain = Chain::new();
        }
        let (stream, chain) = (self.stream.clone(), self.chain.clone());
        let submission = match kind {
            Kind::Buffer => Submission::buffer(stream, batch, chain, deadline),
            _ => Submission::wanted(stream, batch, chain, deadline),
        };
        let ticket = self.flow.appender().submit(submission, &self.runtime);
        self.in_flight.push_back(InFlight { ticket, kind });
    }

    pub(super) fn submit_buffer(&mut self, batch: Batch) {
        let deadline = self.flow.appender().deadline();
        self.submit(batch, Kind::Buffer, deadline);
    }

    /// Whether something failed, and what was behind it has not come back yet.
    pub(super) fn chain_is_ending(&self) -> bool {
        self.fault.is_some() || self.is_orphaned
    }

    /// Sends what waits, if there is room for it under way.
    pub(super) fn send_next(&mut self) {
        let is_behind_append = self.in_flight.back().is_some_and(|it| !it.is_buffer());
        if self.chain_is_ending() || is_behind_append || self.in_flight.len() >= IN_FLIGHT {
            return;
        }
        if self.is_drained() || !self.flow.appender().has_room() {
            return;
        }
        if self.unsent.is_empty() {
            let filled = self.take_filling();
            self.submit_buffer(filled);
        } else if self.in_flight.is_empty()
            && let Some(batch) = self.unsent.pop_front()
        {
            self.submit_buffer(batch);
        }
    }

    /// Whether all that was accepted is under way, or written.
    pub(super) fn is_drained(&self) -> bool {
        self.unsent.is_empty() && self.filling.is_empty()
    }

    /// Ready once there is room among what waits of all producers.
    pub(super) fn poll_door(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let appender = self.flow.appender();
        appender.poll_room(&mut self.door, appender.deadline(), cx)
    }

    /// The answer to what is under way for the longest; `None` if nothing is, or if nobody wants it.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let Some(InFlight { ticket, kind }) = self.in_flight.front_mut() else {
            return Poll::Ready(None);
        };
        let appender = self.flow.appender();
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
    pub(super) fn poll_landed(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if let Some(Err(unsent)) = ready!(self.poll_answer(cx)) {
                self.keep(unsent);
            }
            if !self.chain_is_ending() {
                return Poll::Ready(Ok(()));
            }
            if self.in_flight.is_empty() {
                self.fallen.append(&mut self.unsent);
                self.unsent = std::mem::take(&mut self.fallen);
                self.is_orphaned = false;
                return Poll::Ready(self.fault.take().map_or(Ok(()), Err));
            }
        }
    }

    pub(super) fn keep(&mut self, unsent: Unsent) {
        let batch = match unsent {
            Unsent::Orphaned(batch) if self.flow.appender().can_go_on(&self.runtime) => {
                self.is_orphaned = true;
                batch
            }
            unsent => {
                let (error, batch) = unsent.into_parts();
                self.fault.get_or_insert(error);
                batch
            }
        };
        self.fallen.push_back(batch);
    }

    /// Ready once there may be room, or an error to tell. Where the last one is still to be told, it is
    /// not tried again at once.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.poll(cx));
            self.pause = None;
        }
        self.send_next();
        if self.is_full() {
            let landed = match self.in_flight.is_empty() {
                true => self.poll_door(cx),
                false => self.poll_landed(cx),
            };
            self.failed = ready!(landed).err();
            if self.failed.is_some() && self.is_over {
                self.pause = Some(Pause::new(&**self.flow.clock()));
            }
        }
        Poll::Ready(())
    }

    /// Tells the error that is there to be told; or a full buffer leaves at once.
    pub(super) fn leave(&mut self) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.unsent.is_empty() {
            self.send_next();
        }
        Ok(())
    }

    /// Ready once everything accepted is durable.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(error));
            }
            self.send_next();
            if !self.in_flight.is_empty() {
                ready!(self.poll_landed(cx))?;
            } else if self.is_drained() {
                return Poll::Ready(Ok(()));
            } else {
                ready!(self.poll_door(cx))?;
            }
        }
    }
}
