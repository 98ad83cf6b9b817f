//! The handle to say what became of a delivery.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Session;
use super::ledger::Extent;
use super::round::Round;
use crate::error::Result;
use crate::storage::Storage;

/// The right to say that a delivery is done. It has one owner, and travels on its own.
pub struct Commit {
    // None once there was a verdict.
    session: Option<Arc<Session>>,
    offset: u64,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Commit>() == 16);

impl Commit {
    /// The handle of a message that is handed out, or moved away: whoever makes it counts it.
    #[inline]
    pub(crate) fn new(session: Arc<Session>, offset: u64) -> Self {
        Self {
            session: Some(session),
            offset,
        }
    }

    /// Done. Resolves with Ok once that is durable: the message reaches the group no more.
    ///
    /// In whatever order: what lies beyond the position of the group is kept with it, as about 1,000
    /// ranges at most. With more the partition pauses ([`Status::Paused`](crate::Status::Paused)) until
    /// the first messages that are not done are. Commits that are made while a write is under way share
    /// the next one.
    ///
    /// # Errors
    ///
    /// [`Fenced`](crate::ErrorKind::Fenced): the lease was lost; the message reaches the group
    /// again. [`Unavailable`](crate::ErrorKind::Unavailable): it could not be written within the
    /// budget of [`Options::retry_for`](crate::Options::retry_for); it stays recorded and goes with
    /// the next write.
    ///
    /// # Cancel safety
    ///
    /// Written even if the future is dropped after its first poll; before, it is a handle that was
    /// dropped.
    pub fn commit(self) -> Committing {
        Committing(Progressing::New(self, Extent::This))
    }

    /// This one and all before it in the partition are done, except those that wait to be
    /// delivered again ([`retry_after`](Self::retry_after)) or to be moved to the dead letters.
    /// Otherwise as [`commit`](Self::commit).
    pub fn commit_through(self) -> Committing {
        Committing(Progressing::New(self, Extent::Through))
    }

    /// Done; written in the background within about 50 ms, and at shutdown. Never blocks and never
    /// fails: if the lease was lost, the message reaches the group again. In whatever order, with the
    /// limit that [`commit`](Self::commit) has.
    #[inline]
    pub fn ack(mut self) {
        if let Some(session) = self.session.take() {
            session.ack(self.offset);
        }
    }

    /// Not done: to be delivered again after this time, with [`Delivery::attempt`](crate::Delivery::attempt) one higher; or
    /// to be moved to the dead letters, at once, if that would be more than
    /// [`max_attempts`](crate::ConsumerBuilder::max_attempts). It may be called again and again.
    ///
    /// It does not stop the others: those behind it are delivered, and what is done of them is kept
    /// beyond the position of the group. What comes again goes before what is new. At most about
    /// 1,000 messages of a partition wait so; with more, it pauses until some came again
    /// ([`Status::Paused`](crate::Status::Paused)).
    ///
    /// Never blocks and never fails. The attempts are written in the background, as an
    /// [`ack`](Self::ack) is, and outlive the consumer: where it stops or dies, the message reaches
    /// the next owner at once, whatever was left of the time, with its count. Where the lease was
    /// lost, the message reaches the new owner without this attempt being counted. The storage
    /// keeps the counts of 1,000 messages of a group and partition, the first ones.
    pub fn retry_after(mut self, after: Duration) {
        if let Some(session) = self.session.take() {
            session.retry(self.offset, after);
        }
    }

    /// The stream that the delivery came from.
    pub fn stream(&self) -> &str {
        self.session().lease().group.partition.stream.as_str()
    }

    /// The partition, counted from 0.
    pub fn partition(&self) -> u32 {
        self.session().lease().group.partition.index
    }

    /// The offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The epoch: see [`Delivery::epoch`](crate::Delivery::epoch).
    pub fn epoch(&self) -> u64 {
        self.session().lease().epoch
    }

    #[allow(
        clippy::expect_used,
        reason = "taken only by calls that consume the handle"
    )]
    pub(crate) fn session(&self) -> &Arc<Session> {
        self.session.as_ref().expect("a handle without a verdict")
    }

    /// The message that carries it is written, in this storage.
    pub(crate) fn carried(mut self, storage: &Arc<dyn Storage>) {
        let Some(session) = self.session.take() else {
            return;
        };
        if session.is_of(storage) {
            session.carried(self.offset);
        } else {
            // Written first, committed after.
            session.commit(self.offset, Extent::This);
        }
    }
}

impl Drop for Commit {
    #[inline]
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.dropped(self.offset);
        }
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Commit");
        if let Some(session) = &self.session {
            out.field("lease", session.lease());
        }
        out.field("offset", &self.offset).finish()
    }
}

/// A commit under way. It holds no lock and no connection: the write belongs to a task.
#[derive(Debug)]
#[must_use = "a commit is written once it was polled: await it, or use ack"]
pub struct Committing(Progressing);

/// How far a commit is.
#[derive(Debug)]
enum Progressing {
    New(Commit, Extent),
    /// In this round, with the place of the waker among those who wait for it.
    Waiting(Arc<Round>, Option<usize>),
    Over,
}

impl Future for Committing {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let Progressing::New(commit, extent) = &mut self.0 {
            let extent = *extent;
            self.0 = match commit.session.take() {
                Some(session) => Progressing::Waiting(session.commit(commit.offset, extent), None),
                None => Progressing::Over,
            };
        }
        let Progressing::Waiting(round, slot) = &mut self.0 else {
            panic!("a commit was polled after it was over");
        };
        let result = round.poll(slot, cx);
        if result.is_ready() {
            self.0 = Progressing::Over;
        }
        result
    }
}
