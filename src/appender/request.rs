//! What a producer hands in, and the answer to it.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

use super::sequence::{Broken, Sequence};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{AppendError, Batch, Message};
use crate::name::Name;

/// A batch on its way to the storage. Whatever becomes of whoever has it, it is answered: dropped,
/// it gives its batch back.
#[derive(Debug)]
pub(crate) struct AppendRequest {
    /// The stream of the messages that name none.
    pub(super) stream: Name,
    pub(super) batch: Batch,
    /// Whether all messages are one unit, or each one with the commits that ride in it.
    pub(super) atomic: bool,
    /// Whether it is written even if nobody waits for it any more.
    is_kept: bool,
    /// What it keeps its order in.
    pub(super) sequence: Sequence,
    /// An error that comes behind this one is reported, and not waited out.
    pub(super) deadline: Duration,
    /// What it counts while it waits.
    pub(super) bytes: usize,
    /// Its turn among those that wait.
    pub(super) place: u64,
    /// `None` once it is answered.
    answer: Option<oneshot::Sender<AppendResult>>,
}

/// Where the messages are now, or the messages.
pub(crate) type AppendResult = Result<Vec<AppendedRow>, Unsent>;

/// A batch that was not written, or is in doubt.
#[derive(Debug)]
pub(crate) enum Unsent {
    Failed(AppendError),
    /// The runtime ended that the task ran on. That need not be the one of the producer.
    RuntimeEnded(Batch),
}

/// The part of an append that went to one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendedRow {
    /// The stream.
    pub stream: Name,
    /// The partition, counted from 0.
    pub partition: u32,
    /// The offsets of the messages that went there, in their order.
    pub offsets: Range<u64>,
}

/// Waits for the answer to one request.
#[derive(Debug)]
pub(crate) struct Ticket {
    answer: oneshot::Receiver<AppendResult>,
    /// Where the request waits for its group write.
    place: u64,
    deadline: Duration,
    is_kept: bool,
}

/// What a message costs while it waits, besides its bytes.
const MESSAGE_OVERHEAD: usize = 64;

impl AppendRequest {
    /// One whose messages go together or not at all.
    pub(crate) fn unit(
        stream: Name,
        batch: Batch,
        sequence: Sequence,
        deadline: Duration,
    ) -> (Self, Ticket) {
        Self::new(stream, batch, sequence, deadline, true)
    }

    /// One that is let go of when nobody waits for it any more, as long as it is not under way.
    pub(crate) fn wanted(
        stream: Name,
        batch: Batch,
        sequence: Sequence,
        deadline: Duration,
    ) -> (Self, Ticket) {
        let (mut request, mut ticket) = Self::unit(stream, batch, sequence, deadline);
        request.is_kept = false;
        ticket.is_kept = false;
        (request, ticket)
    }

    /// One in which each message goes with the commits that ride in it.
    pub(crate) fn buffer(
        stream: Name,
        batch: Batch,
        sequence: Sequence,
        deadline: Duration,
    ) -> (Self, Ticket) {
        Self::new(stream, batch, sequence, deadline, false)
    }

    fn new(
        stream: Name,
        batch: Batch,
        sequence: Sequence,
        deadline: Duration,
        atomic: bool,
    ) -> (Self, Ticket) {
        let (answer, receiver) = oneshot::channel();
        let bytes = |message: &Message| message.size() + MESSAGE_OVERHEAD;
        let request = Self {
            stream,
            bytes: batch.messages.iter().map(bytes).sum(),
            batch,
            atomic,
            is_kept: true,
            sequence,
            deadline,
            place: 0,
            answer: Some(answer),
        };
        let ticket = Ticket {
            answer: receiver,
            place: 0,
            deadline,
            is_kept: true,
        };
        (request, ticket)
    }

    /// The bytes of its messages.
    pub(super) fn size(&self) -> usize {
        self.bytes - MESSAGE_OVERHEAD * self.batch.len()
    }

    /// Whether nobody waits for it any more, and it goes then.
    pub(super) fn is_unwanted(&self) -> bool {
        let is_left = || self.answer.as_ref().is_some_and(oneshot::Sender::is_closed);
        !self.is_kept && is_left()
    }

    /// Gives it to nobody.
    pub(super) fn let_go(mut self) {
        self.answer = None;
    }

    pub(super) fn written(mut self, rows: Vec<AppendedRow>) {
        self.answer(Ok(rows));
    }

    /// The error is in doubt exactly if the batch is.
    pub(super) fn fail(mut self, error: Error) {
        self.fail_with(error);
    }

    fn fail_with(&mut self, error: Error) {
        let undoubted = error.share_undoubted();
        let error = match self.batch.in_doubt() {
            true => error.with_doubt(),
            false => undoubted.share(),
        };
        self.sequence.end(Broken::Failed(undoubted));
        let batch = std::mem::take(&mut self.batch);
        self.answer(Err(Unsent::Failed(AppendError::new(error, batch))));
    }

    /// Gives it back if one before it failed, and lets go of it if nobody wants it.
    pub(super) fn check(self) -> Option<Self> {
        if self.is_unwanted() {
            self.let_go();
            return None;
        }
        self.check_chain()
    }

    fn check_chain(self) -> Option<Self> {
        match self.sequence.broken() {
            None => return Some(self),
            Some(Broken::Failed(error)) => {
                let error = error.share();
                self.fail(error);
            }
            // So it is, too.
            Some(Broken::RuntimeEnded) => drop(self),
        }
        None
    }

    fn answer(&mut self, answer: AppendResult) {
        if let Some(sender) = self.answer.take() {
            // A caller that is gone does not want to know.
            let _ = sender.send(answer);
        }
    }

    /// The batch of one that nobody waits for.
    #[cfg(feature = "postgres")]
    pub(super) fn into_batch(mut self) -> Batch {
        self.answer = None;
        std::mem::take(&mut self.batch)
    }
}

impl Drop for AppendRequest {
    fn drop(&mut self) {
        if self.answer.is_none() {
            return;
        }
        if std::thread::panicking() {
            let text =
                "the task that appends panicked: a defect of flowstream, which should be reported";
            return self.fail_with(Error::new(ErrorKind::Internal, text));
        }
        self.sequence.end(Broken::RuntimeEnded);
        let batch = std::mem::take(&mut self.batch);
        self.answer(Err(Unsent::RuntimeEnded(batch)));
    }
}

impl Ticket {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<AppendResult> {
        let answer = Pin::new(&mut self.answer).poll(cx);
        answer.map(|answer| answer.expect("an append request answers before it is gone"))
    }

    /// A request for the same unit once more, with its ticket.
    pub(super) fn again(&self, stream: Name, batch: Batch) -> (AppendRequest, Self) {
        let sequence = Sequence::new();
        match self.is_kept {
            true => AppendRequest::unit(stream, batch, sequence, self.deadline),
            false => AppendRequest::wanted(stream, batch, sequence, self.deadline),
        }
    }

    /// Where the request waits for its group write.
    pub(super) fn place(&self) -> u64 {
        self.place
    }

    pub(super) fn set_place(&mut self, place: u64) {
        self.place = place;
    }

    /// From now on nobody wants the answer.
    pub(super) fn renounce(&mut self) {
        self.answer.close();
    }

    /// Ready once a request that nobody wants any more is written, or will never be.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.answer).poll(cx).map(drop)
    }
}

impl From<Unsent> for AppendError {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Failed(failed) => failed,
            Unsent::RuntimeEnded(batch) => {
                let error = Error::closed(
                    "the runtime that appends ran on has ended: append again on one that goes on",
                );
                let in_doubt = batch.in_doubt();
                let error = if in_doubt { error.with_doubt() } else { error };
                Self::new(error, batch)
            }
        }
    }
}
