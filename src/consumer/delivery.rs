//! What a consumer gets, and the handle to say what became of it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::message::dead_letter::{self, Death};
use crate::message::{AppendError, Batch, Message};
use crate::name::Name;
use crate::record::Headers;
use crate::session::{Commit, Committing, Session};

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
///             Err(Failure::Nonsense(reason)) => Ok(delivery.dead_letter(reason).await?),
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

// One is made and moved for each message.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Delivery>() == 104);

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
            commit: Commit::new(session, offset),
        }
    }

    /// It comes again: whether to hand it out. It may have been committed in another way.
    pub(crate) fn hand_out_again(&self) -> bool {
        self.commit.session().hand_out_again(self.commit.offset())
    }

    /// As [`into_parts`](Self::into_parts), with the timestamp in between.
    pub(crate) fn into_parts_at(self) -> (Message, SystemTime, Commit) {
        let timestamp = self.timestamp();
        (self.message, timestamp, self.commit)
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
        self.commit.offset()
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
    /// with its commit ([`AppendError::unsent`]): any producer of the same storage can append that
    /// batch later. Dropped with it, the delivery is a handle that was
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
    ) -> impl Future<Output = Result<(), AppendError>> + Send + 'static {
        let reason = reason.into();
        async move { send_to_dead_letters(self, &reason).await }
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

/// Moves a delivery: its message and its commit are written in one transaction.
async fn send_to_dead_letters(delivery: Delivery, reason: &str) -> Result<(), AppendError> {
    let attempts = delivery.attempt();
    let (mut message, timestamp, commit) = delivery.into_parts_at();
    let session = commit.session().clone();
    let (context, to) = match destination(&session) {
        Ok(found) => found,
        Err(error) => {
            message.attach(commit);
            return Err(AppendError::new(error, Batch::from(message)));
        }
    };
    let death = Death {
        timestamp,
        attempts,
        reason,
        now: context.clock().wall(),
    };
    let letter = dead_letter::build(message, commit, to, &death);
    let appender = context.appender();
    let appended = appender.append(to, Batch::from(letter), session.runtime());
    appended.await.map(drop)
}

/// What appends the dead letters of a session, and the stream that they go to.
fn destination(session: &Session) -> Result<(&Context, &Name), Error> {
    let context = session.holder().context().downcast_ref::<Context>();
    let context = context.ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "a delivery of something that is no consumer: a defect of flowstream, which should be \
             reported",
        )
    })?;
    let Some(to) = session.dead_letters() else {
        let group = &session.lease().group;
        return Err(Error::invalid(format!(
            "{group}: the name of its dead-letter stream would be over {} bytes; say another one \
             with ConsumerBuilder::dead_letters",
            Name::MAX_BYTES
        )));
    };
    Ok((context, to))
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
