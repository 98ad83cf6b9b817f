//! Making a consumer.

use std::future::{Future, IntoFuture};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::Consumer;
use super::assignment::Assignment;
use super::control::Control;
use super::partition::ConsumerPartition;
use super::settings::Settings;
use super::shared::ConsumerShared;
use crate::concurrency::{MAX_CONCURRENT, join_bounded};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::message::dead_letter;
use crate::name::Name;
use crate::storage::{Group, Partition, Start};

/// Makes a [`Consumer`]: set what differs from the defaults, then `.await`.
///
/// ```
/// # async fn example() -> flowstream::Result<()> {
/// # let flow = flowstream::open("memory:").await?;
/// use std::time::Duration;
/// use flowstream::Start;
///
/// let consumer = flow
///     .consumer("orders", "billing")
///     .start(Start::Latest)
///     .lease(Duration::from_secs(10))
///     .await?;
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
#[must_use = "a builder does nothing until it is awaited"]
pub struct ConsumerBuilder {
    context: Arc<Context>,
    stream: String,
    group: String,
    start: Start,
    settings: Settings,
    dead_letters: Option<String>,
    shutdown: Option<BoxFuture<'static, ()>>,
}

impl ConsumerBuilder {
    pub(crate) fn new(context: Arc<Context>, stream: String, group: String) -> Self {
        Self {
            context,
            stream,
            group,
            start: Start::default(),
            settings: Settings::default(),
            dead_letters: None,
            shutdown: None,
        }
    }

    /// Where the group begins, if it is new: with the earliest message by default.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// How long the group must stand still, with a message pending, before a standby takes over:
    /// 30 seconds by default. A clean stop hands over at once, whatever this says.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long the lease is renewed for a pipeline that neither polls nor commits while messages
    /// are pending: 5 minutes by default. A handler that is stuck for longer loses the lease. Seen
    /// to within half a lease.
    pub fn max_processing(mut self, time: Duration) -> Self {
        self.settings.max_processing = time;
        self
    }

    /// How long a shutdown waits for deliveries that are still held: 10 seconds by default. What was
    /// said of them is written then, and the lease given back. With a storage that answers, that takes
    /// milliseconds; one that hangs is given up after as long again, or after 10 seconds if that is
    /// longer.
    pub fn drain(mut self, time: Duration) -> Self {
        self.settings.drain = time;
        self
    }

    /// How much is read ahead of all partitions together, in bytes of stored batches: 2 MiB by
    /// default. Of a stream with n partitions one read gives a share of n + 1, and ends with a whole
    /// batch; four reads are under way at most, so it may be over by four batches. What was read
    /// ahead of a partition that is paused is let go of where another one needs the room, and read
    /// again.
    ///
    /// As much is kept once more, of the newest batches of all partitions, for all consumers of the
    /// process. While a share is read, the driver may have it once more. What is delivered again is
    /// read once more, a batch at a time, and a delivery that is held keeps its batch
    /// ([`Message::compact`](crate::Message::compact)).
    pub fn prefetch(mut self, bytes: usize) -> Self {
        self.settings.prefetch = bytes;
        self
    }

    /// How long a message that was dropped without a verdict waits before it is delivered again: 5
    /// seconds by default. The time begins once one behind it is done, or nobody has it or one behind
    /// it in hand, who might still [`commit_through`](crate::Delivery::commit_through) it. After
    /// [`max_processing`](Self::max_processing) it comes in any case.
    pub fn redeliver_after(mut self, time: Duration) -> Self {
        self.settings.redeliver_after = time;
        self
    }

    /// Where messages go that cannot be done ([`Delivery::dead_letter`](crate::Delivery::dead_letter)):
    /// `<stream>.<group>.dead` by default, and for a group with dots in its name their number behind that,
    /// so that no two groups share one: `a.b.c.dead` for (`a.b`, `c`), `a.b.c.dead.1` for (`a`, `b.c`).
    /// Keys stay, so it may have several partitions, if it is
    /// made before.
    pub fn dead_letters(mut self, stream: impl Into<String>) -> Self {
        self.dead_letters = Some(stream.into());
        self
    }

    /// How often a message is delivered at most: one that would come once more is moved to the
    /// [dead letters](Self::dead_letters) instead, in one transaction with its commit, and a warning
    /// is traced. Not limited by default.
    ///
    /// Counted are deliveries that ended in [`retry_after`](crate::Commit::retry_after), or that
    /// were dropped and came again; and, for the first message that is left, owners that died: so
    /// one that kills its process is moved away, too.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = Some(attempts);
        self
    }

    /// Shuts the consumer down once this future resolves, with whatever, as [`Control::shutdown`]
    /// does. `tokio::signal::ctrl_c()` is one.
    pub fn shutdown_on<F>(mut self, signal: F) -> Self
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.shutdown = Some(Box::pin(async { drop(signal.await) }));
        self
    }
}

impl IntoFuture for ConsumerBuilder {
    type Output = Result<Consumer>;
    type IntoFuture = BoxFuture<'static, Result<Consumer>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self {
                context,
                stream,
                group,
                start,
                settings,
                dead_letters,
                shutdown,
            } = self;
            if settings.lease < Duration::from_millis(10) {
                return Err(Error::invalid(format!(
                    "a lease of {:?} is too short: give it 10 ms or more",
                    settings.lease
                )));
            }
            let (stream, name) = (Name::new(stream)?, Name::new(group)?);
            let dead_letters = dead_letter_stream(&stream, &name, &settings, dead_letters)?;
            let partitions = context.open_stream(&stream).await?;
            let group = |index| {
                let stream = stream.clone();
                let partition = Partition { stream, index };
                let name = name.clone();
                Group { partition, name }
            };
            let creating = (0..partitions).map(|index| create(&context, group(index), start));
            let groups = join_bounded(MAX_CONCURRENT, creating).await?;

            let shared = ConsumerShared::new(context.clone(), groups.len(), settings.prefetch);
            let shared = Arc::new(shared);
            let registered: Weak<ConsumerShared> = Arc::downgrade(&shared);
            context.register(registered)?;
            for (index, group) in groups.into_iter().enumerate() {
                let at = ConsumerPartition {
                    context: context.clone(),
                    shared: shared.clone(),
                    settings,
                    dead_letters: dead_letters.clone(),
                    index,
                    group,
                };
                tokio::spawn(Assignment::new(at).run());
            }
            if let Some(signal) = shutdown {
                tokio::spawn(shut_down_on(signal, Control(shared.clone())));
            }
            Ok(Consumer::new(shared))
        })
    }
}

async fn create(context: &Context, group: Group, start: Start) -> Result<Group> {
    let storage = context.storage();
    context
        .retry(|| storage.create_group(&group, start))
        .await?;
    Ok(group)
}

fn dead_letter_stream(
    stream: &Name,
    group: &Name,
    settings: &Settings,
    wanted: Option<String>,
) -> Result<Option<Name>> {
    if settings.max_attempts == Some(0) {
        return Err(Error::invalid(format!(
            "group {group} of {stream}: max_attempts(0) would deliver nothing: give it 1 or more"
        )));
    }
    let dead_letters = match wanted {
        Some(name) => Some(Name::new(name)?),
        None => dead_letter::default_stream(stream, group),
    };
    if dead_letters.as_ref() == Some(stream) {
        return Err(Error::invalid(format!(
            "group {group} of {stream}: its dead letters cannot go back to the same stream"
        )));
    }
    if dead_letters.is_none() && settings.max_attempts.is_some() {
        return Err(Error::invalid(format!(
            "group {group} of {stream}: the name of its dead-letter stream would be over {} bytes; \
             say another one with dead_letters",
            Name::MAX_BYTES
        )));
    }
    Ok(dead_letters)
}

async fn shut_down_on(signal: BoxFuture<'static, ()>, control: Control) {
    tokio::select! {
        biased;
        () = signal => drop(control.shutdown()),
        () = control.0.until_stopped() => {}
    }
}

impl std::fmt::Debug for ConsumerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsumerBuilder")
            .field("stream", &self.stream)
            .field("group", &self.group)
            .field("start", &self.start)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
