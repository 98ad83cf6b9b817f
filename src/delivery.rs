//! What a consumer gets, and the handle to say what became of it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::consumer::{Round, Session};
use crate::dead_letter;
use crate::error::Result;
use crate::headers::Headers;
use crate::message::Message;
use crate::storage::Storage;

/// A message as a consumer gets it, with its place in the log and its commit handle.
///
/// Every verdict takes the delivery by value, so that `try_for_each_concurrent(64,
/// Delivery::commit)` compiles. Dropping it commits nothing: it is delivered again after
/// [`redeliver_after`](crate::ConsumerBuilder::redeliver_after), once a later one is committed, or
/// nobody has it or a later one in hand any more; and a warning is traced, because a pipeline that
/// leaves a message out on purpose should [`ack`](Self::ack) it.
///
/// | verdict | |
/// | --- | --- |
/// | [`commit`](Self::commit), [`commit_through`](Self::commit_through) | done; durable when awaited |
/// | [`ack`](Self::ack) | done; written soon |
/// | [`retry_after`](Self::retry_after) | not done: it comes again |
/// | [`dead_letter`](Self::dead_letter) | given up: moved to another stream |
/// | [`into_message`](Self::into_message) | done when the message is written that it becomes |
///
/// # Examples
///
/// A handler that fails now and then:
///
/// ```
/// # async fn example() -> flowstream::Result<()> {
/// use std::time::Duration;
///
/// use flowstream::Delivery;
/// use futures::TryStreamExt;
/// # use futures::StreamExt;
///
/// # enum Failure { Busy, Nonsense(String) }
/// # async fn charge(_: &Delivery) -> Result<(), Failure> { Ok(()) }
/// # let flow = flowstream::open("memory:").await?;
/// # flow.producer("orders").await?.append([flowstream::Message::new("one")]).await?;
/// let consumer = flow.consumer("orders", "billing").max_attempts(5).await?;
/// # let consumer = consumer.take(1);
/// consumer
///     .try_for_each_concurrent(64, async |delivery| {
///         match charge(&delivery).await {
///             Ok(()) => delivery.commit().await,
///             // Again later, up to five times; the others go on.
///             Err(Failure::Busy) => {
///                 delivery.retry_after(Duration::from_secs(30));
///                 Ok(())
///             }
///             // There is no point in trying again.
///             Err(Failure::Nonsense(reason)) => delivery.dead_letter(reason).await,
///         }
///     })
///     .await?;
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
pub struct Delivery {
    message: Message,
    appended_at: SystemTime,
    attempt: u32,
    commit: Commit,
}

impl Delivery {
    #[inline]
    pub(crate) fn new(
        message: Message,
        appended_at: SystemTime,
        attempt: u32,
        session: Arc<Session>,
        offset: u64,
    ) -> Self {
        Self {
            message,
            appended_at,
            attempt,
            commit: Commit {
                session: Some(session),
                offset,
            },
        }
    }

    /// It comes again: whether to hand it out. It may have been committed in another way.
    pub(crate) fn hand_out_again(&self) -> bool {
        self.commit.session().hand_out_again(self.commit.offset)
    }

    /// As [`into_parts`](Self::into_parts), with the timestamp in between.
    pub(crate) fn into_parts_at(self) -> (Message, SystemTime, Commit) {
        let timestamp = self.timestamp();
        (self.message, timestamp, self.commit)
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        self.commit.session()
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn handle(&self) -> &Commit {
        &self.commit
    }

    /// The stream that it comes from.
    pub fn stream(&self) -> &str {
        self.commit.stream()
    }

    /// The partition of the stream, counted from 0.
    pub fn partition(&self) -> u32 {
        self.commit.partition()
    }

    /// Its place in the partition: 0, 1, 2 … without gaps.
    pub fn offset(&self) -> u64 {
        self.commit.offset
    }

    /// When it happened, if the producer said so; when it was appended otherwise.
    pub fn timestamp(&self) -> SystemTime {
        self.message.timestamp().unwrap_or(self.appended_at)
    }

    /// 1 the first time; more if it was begun before and not done: it was to be retried, was dropped
    /// and came again, or was the first one left when its owner died.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The epoch of the lease under which it was delivered. It grows with each change of owner, so
    /// it is the fencing token for systems outside of the storage: what comes with a smaller one
    /// than was seen before comes from an owner that was replaced.
    pub fn epoch(&self) -> u64 {
        self.commit.epoch()
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        self.message.body()
    }

    /// The key, if it has one.
    pub fn key(&self) -> Option<&Bytes> {
        self.message.key()
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        self.message.headers()
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// This delivery is done: see [`Commit::commit`].
    pub fn commit(self) -> Committing {
        self.commit.commit()
    }

    /// This delivery and all before it are done: see [`Commit::commit_through`].
    pub fn commit_through(self) -> Committing {
        self.commit.commit_through()
    }

    /// This delivery is done; written soon: see [`Commit::ack`].
    #[inline]
    pub fn ack(self) {
        self.commit.ack();
    }

    /// Not done: to be delivered again after this time, with [`attempt`](Self::attempt) one higher.
    /// See [`Commit::retry_after`].
    pub fn retry_after(self, after: Duration) {
        self.commit.retry_after(after);
    }

    /// Moves the message to the dead-letter stream of the group: it is written there, and this
    /// delivery is done, in one transaction.
    ///
    /// The stream is the one of [`ConsumerBuilder::dead_letters`](crate::ConsumerBuilder::dead_letters);
    /// it is made when the first message goes there. Body, key, headers and timestamp stay, and
    /// these headers tell where it comes from, all of them text (those of an earlier move are
    /// replaced):
    ///
    /// | header | |
    /// | --- | --- |
    /// | `dead-letter-stream`, `dead-letter-partition`, `dead-letter-offset` | its place |
    /// | `dead-letter-group` | the group that could not do it |
    /// | `dead-letter-attempts` | how often it was tried |
    /// | `dead-letter-reason` | this reason, up to 4,096 bytes of it |
    /// | `dead-letter-time` | when it was moved, in milliseconds since 1970 |
    ///
    /// They do not count towards [`max_message_bytes`](crate::Options::max_message_bytes), so a dead
    /// letter of the largest message can be relayed and appended back.
    ///
    /// # Errors
    ///
    /// As [`Producer::append`](crate::Producer::append), and as there the error has the message
    /// with its commit ([`Error::take_unsent`](crate::Error::take_unsent)): any producer of the
    /// same storage can append that batch later. Dropped with it, the delivery is a handle that was
    /// dropped, and comes again. [`Fenced`](crate::ErrorKind::Fenced): the lease was lost; neither
    /// the message nor the commit was written, and the message reaches the new owner.
    ///
    /// # Cancel safety
    ///
    /// Written even if the future is dropped after its first poll; before, it is a handle that was
    /// dropped.
    pub fn dead_letter(
        self,
        reason: impl Into<String>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let reason = reason.into();
        async move { dead_letter::bury(self, &reason).await }
    }

    /// The message, and the handle on its own. The handle outlives the consumer.
    pub fn into_parts(self) -> (Message, Commit) {
        (self.message, self.commit)
    }

    /// The message, with the commit riding in it: the producer that writes the message writes the
    /// commit too, in the same transaction if the storage is the same (exactly once), right after
    /// it otherwise (at least once).
    ///
    /// The stream is unset, or it would go back to where it came from; key, headers and timestamp
    /// stay.
    ///
    /// The commit is with this message alone, not with its clones: of the two that `a.fanout(b)` of
    /// `futures` makes, `b` gets it. If `a` fails, what `b` wrote is committed all the same, and the
    /// message does not come again. To write both or neither, give both to one
    /// [`append`](crate::Producer::append), each with its [stream](Message::with_stream).
    pub fn into_message(self) -> Message {
        let Self {
            mut message,
            commit,
            ..
        } = self;
        message.attach(commit);
        message
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("stream", &self.stream())
            .field("partition", &self.partition())
            .field("offset", &self.offset())
            .field("attempt", &self.attempt)
            .field("message", &self.message)
            .finish()
    }
}

/// The right to say that a delivery is done. It has one owner, and travels on its own.
pub struct Commit {
    // None once there was a verdict.
    session: Option<Arc<Session>>,
    offset: u64,
}

impl Commit {
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
        Committing(State::New(self, false))
    }

    /// This one and all before it in the partition are done, except those that wait to be
    /// delivered again ([`retry_after`](Self::retry_after)) or to be moved to the dead letters.
    /// Otherwise as [`commit`](Self::commit).
    pub fn commit_through(self) -> Committing {
        Committing(State::New(self, true))
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

    /// Not done: to be delivered again after this time, with [`Delivery::attempt`] one higher; or
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

    /// The epoch: see [`Delivery::epoch`].
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

    /// The message that it rode in is written.
    pub(crate) fn rode(mut self, storage: &Arc<dyn Storage>) {
        let Some(session) = self.session.take() else {
            return;
        };
        if session.is_of(storage) {
            session.rode(self.offset);
        } else {
            // Written first, committed after.
            session.commit(self.offset, false);
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
pub struct Committing(State);

#[derive(Debug)]
enum State {
    /// And whether all before it are done, too.
    New(Commit, bool),
    Waiting(Arc<Round>, Option<usize>),
    Over,
}

impl Future for Committing {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let State::New(commit, through) = &mut self.0 {
            let through = *through;
            self.0 = match commit.session.take() {
                Some(session) => State::Waiting(session.commit(commit.offset, through), None),
                None => State::Over,
            };
        }
        let State::Waiting(round, slot) = &mut self.0 else {
            panic!("a commit was polled after it was over");
        };
        let result = round.poll(slot, cx);
        if result.is_ready() {
            self.0 = State::Over;
        }
        result
    }
}
