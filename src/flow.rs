//! The handle that makes producers and consumers.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::appender::Appender;
use crate::clock::Clock;
use crate::consumer::{self, ConsumerBuilder, Vigil};
use crate::dead_letter::own_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;
use crate::near::did_you_mean;
use crate::options::{MAX_APPEND_BYTES, MAX_APPEND_MESSAGES, Options};
use crate::producer::ProducerBuilder;
use crate::retry::RetryPolicy;
#[cfg(feature = "postgres")]
use crate::runtime;
use crate::several::AT_ONCE;
use crate::storage::group::closed;
use crate::storage::{Group, GroupState, Partition, Read, Storage, StreamSettings};
use crate::watch::Watch;

/// An open storage: makes producers and consumers, and answers questions about streams and groups.
/// Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Flowstream(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    options: Options,
    appender: Appender,
    watch: Watch,
    vigil: Vigil,
    /// The turns of those that claim a lease or give it back.
    turns: Semaphore,
    consumers: Mutex<Consumers>,
}

/// The consumers that were made and may not be closed yet.
#[derive(Default)]
struct Consumers {
    all: Vec<Weak<consumer::Shared>>,
    /// There will be no more.
    is_closed: bool,
}

impl Flowstream {
    pub(crate) fn new(storage: Arc<dyn Storage>, options: Options) -> Self {
        let (clock, retry) = (options.clock.clone(), options.retry);
        let watch = Watch::new(storage.clone(), clock.clone());
        Self(Arc::new(Inner {
            appender: Appender::new(storage.clone(), clock.clone(), retry, watch.clone()),
            watch,
            vigil: Vigil::new(storage.clone(), clock, retry),
            turns: Semaphore::new(AT_ONCE),
            consumers: Mutex::default(),
            storage,
            options,
        }))
    }

    /// Uses a pool of connections to a PostgreSQL server that the application has. At most two more are
    /// made beside it: one listens, and one is for leases and for looking things up, so a transaction
    /// of the application needs no second connection. Closing leaves the pool open. For more settings, give
    /// [`PostgresStorage::from_pool`](crate::storage::PostgresStorage::from_pool) to
    /// [`Options::open_storage`].
    ///
    /// # Errors
    ///
    /// As [`Options::open`].
    #[cfg(feature = "postgres")]
    pub async fn from_pool(pool: sqlx::PgPool) -> Result<Self> {
        use crate::storage::PostgresStorage;

        let options = Options::new();
        let clock = options.clock.clone();
        let open = || PostgresStorage::from_pool(pool.clone(), options.postgres.clone());
        let storage = runtime::opening(&*clock, Box::pin(options.wait_for(open))).await?;
        Ok(options.open_storage(Arc::new(storage)))
    }

    /// The SQL that makes or migrates the schema `flowstream` in a PostgreSQL database, for those who
    /// open it with a role that may not. [`schema_sql`](crate::storage::schema_sql) gives that of
    /// another schema.
    #[cfg(feature = "postgres")]
    pub fn schema_sql() -> String {
        let options = crate::storage::PostgresOptions::new();
        crate::storage::schema_sql(&options).expect("the default name is allowed")
    }

    /// A producer for a stream, which is made with one partition if it is not there.
    ///
    /// Await the builder. Fails as [`Invalid`](ErrorKind::Invalid) for a bad name.
    pub fn producer(&self, stream: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), stream.into())
    }

    /// A consumer of a stream for a group. Both are made if they are not there; a new group begins
    /// at the [start](ConsumerBuilder::start) that the builder says, with the earliest message by
    /// default.
    ///
    /// Await the builder. Fails as [`Invalid`](ErrorKind::Invalid) for a bad name.
    pub fn consumer(&self, stream: impl Into<String>, group: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), stream.into(), group.into())
    }

    /// Makes a stream with so many partitions. One that is there stays as it is.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for a bad name, for no partition or more than 10,000, and
    /// for a stream that is there with another number of partitions.
    pub async fn create_stream(&self, stream: impl AsRef<str>, partitions: u32) -> Result<()> {
        let stream = Name::new(stream)?;
        if !(1..=10_000).contains(&partitions) {
            return Err(Error::invalid(format!(
                "the stream {stream} cannot have {partitions} partitions: give it 1 to 10,000"
            )));
        }
        let settings = self.create(&stream, Some(partitions)).await?;
        if settings.partitions != partitions {
            return Err(Error::invalid(format!(
                "the stream {stream} is there already, and its number of partitions is {} instead of \
                 {partitions}, and stays: make another one, or ask for as many",
                settings.partitions
            )));
        }
        Ok(())
    }

    /// Where each partition of a stream starts and ends: the offsets that are in the log.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream.
    pub async fn stream(&self, stream: impl AsRef<str>) -> Result<Vec<Range<u64>>> {
        let partitions = self.partitions(&Name::new(stream)?).await?;
        self.retry(|| self.storage().bounds(&partitions)).await
    }

    /// How a group stands in each partition of a stream.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream or group.
    pub async fn group(
        &self,
        stream: impl AsRef<str>,
        group: impl AsRef<str>,
    ) -> Result<Vec<GroupState>> {
        let name = Name::new(group)?;
        let groups: Vec<Group> = self
            .partitions(&Name::new(stream)?)
            .await?
            .into_iter()
            .map(|partition| Group {
                partition,
                name: name.clone(),
            })
            .collect();
        let states = self.retry(|| self.storage().observe(&groups)).await?;
        match states.into_iter().collect() {
            Some(states) => Ok(states),
            None => Err(self.no_group(&groups[0].partition.stream, &name).await),
        }
    }

    /// A group that is not there, of a stream that is: those that are, come near.
    pub(crate) async fn no_group(&self, stream: &Name, group: &Name) -> Error {
        let groups = self.retry(|| self.storage().groups(Some(stream))).await;
        let groups = groups.unwrap_or_default();
        let names = groups.iter().map(|group| group.name.as_str());
        let text = format!(
            "there is no group {group} of the stream {stream}: a consumer makes it{}",
            did_you_mean(group.as_str(), names)
        );
        Error::new(ErrorKind::NotFound, text)
    }

    /// Reads a page of a partition without a group: messages with their offsets, from the offset
    /// `from` on, about 1 MiB of them. An empty page is the end of the log.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream or partition, and
    /// [`Data`](ErrorKind::Data) if the log is damaged there.
    pub async fn read(
        &self,
        stream: impl AsRef<str>,
        partition: u32,
        from: u64,
    ) -> Result<Vec<(u64, Message)>> {
        let read = Read {
            partition: Partition {
                stream: Name::new(stream)?,
                index: partition,
            },
            from,
            max_bytes: 1 << 20,
            group: None,
        };
        let mut fetched = self.retry(|| self.storage().read(read.clone())).await?;
        let first = from.max(fetched.bounds.start);
        if fetched.cut_at_gap(first) {
            let text = format!(
                "{}: the message at offset {first} is missing in the log, though there are later ones: \
                 restore the storage from a backup, or read on behind it",
                read.partition
            );
            return Err(Error::new(ErrorKind::Data, text));
        }
        let batches = fetched.batches.iter();
        Ok(batches
            .flat_map(|batch| {
                batch
                    .offsets()
                    .zip(0..)
                    .map(|(at, i)| (at, batch.records.message(i)))
            })
            .filter(|(offset, _)| *offset >= from)
            .collect())
    }

    /// Deletes the messages of a partition before the offset `before`, as far as whole batches go,
    /// and gives the offset where the log starts now. A group that had not done them gets an
    /// [`OutOfRange`](ErrorKind::OutOfRange) error once and goes on behind.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream or partition.
    pub async fn trim(&self, stream: impl AsRef<str>, partition: u32, before: u64) -> Result<u64> {
        let partition = Partition {
            stream: Name::new(stream)?,
            index: partition,
        };
        self.retry(|| self.storage().trim(&partition, before)).await
    }

    /// Ends everything: shuts down all consumers that were made by this handle and its clones, and
    /// waits for each, at most as [`shutdown`](crate::Control::shutdown) does; then refuses what is
    /// appended ([`Closed`](ErrorKind::Closed), and the messages come back), waits for the appends that
    /// are under way, and lets go of the storage, so that another process can open the file. It is all
    /// that ends a program.
    ///
    /// Messages that a producer holds and has not flushed stay there. Without it, the storage closes when the last handle, producer,
    /// consumer and delivery is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, the consumers are shut down all the same, and a second call goes
    /// on from there.
    pub async fn close(&self) -> Result<()> {
        let consumers = {
            let mut consumers = self.consumers();
            consumers.is_closed = true;
            consumers.all.clone()
        };
        let consumers: Vec<_> = consumers.iter().filter_map(Weak::upgrade).collect();
        consumers.iter().for_each(|consumer| consumer.shut_down());
        for consumer in consumers {
            consumer.closed().await;
        }
        self.0.appender.close().await;
        self.storage().close().await
    }

    /// A consumer is there from now on, to be shut down with the rest.
    pub(crate) fn join(&self, consumer: &Arc<consumer::Shared>) -> Result<()> {
        let mut consumers = self.consumers();
        if consumers.is_closed {
            return Err(closed());
        }
        consumers.all.retain(|other| other.strong_count() > 0);
        consumers.all.push(Arc::downgrade(consumer));
        Ok(())
    }

    // Nothing that holds this lock can panic halfway through a change.
    fn consumers(&self) -> MutexGuard<'_, Consumers> {
        let consumers = self.0.consumers.lock();
        consumers.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.0.storage
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.options.clock
    }

    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        self.0.options.retry
    }

    pub(crate) fn appender(&self) -> &Appender {
        &self.0.appender
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.0.watch
    }

    /// The right to claim a lease now, or to give it back: a consumer of many partitions wants all of theirs
    /// at once. Cancel safe.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.0.turns.acquire().await.ok()
    }

    pub(crate) fn vigil(&self) -> &Vigil {
        &self.0.vigil
    }

    /// Makes sure that a stream is there, and gives its number of partitions.
    pub(crate) async fn open_stream(&self, stream: &Name) -> Result<u32> {
        Ok(self.create(stream, None).await?.partitions)
    }

    #[inline]
    pub(crate) fn check(&self, message: &Message) -> Result<()> {
        let (size, limit) = (message.size(), self.0.options.max_message_bytes);
        match size > limit {
            true => check_oversized(message, limit),
            false => Ok(()),
        }
    }

    /// What the headers of dead letters take is on top of it.
    pub(crate) fn check_append(&self, messages: &[Message]) -> Result<()> {
        let bytes: usize = messages.iter().map(Message::size).sum();
        let own = || {
            messages
                .iter()
                .map(|m| own_bytes(m.headers()))
                .sum::<usize>()
        };
        let is_too_much = bytes > MAX_APPEND_BYTES && bytes - own() > MAX_APPEND_BYTES;
        if is_too_much || messages.len() > MAX_APPEND_MESSAGES {
            return Err(Error::invalid(format!(
                "one append takes at most {MAX_APPEND_BYTES} bytes and {MAX_APPEND_MESSAGES} \
                 messages, not {bytes} bytes and {} messages: append it in parts",
                messages.len()
            )));
        }
        Ok(())
    }

    pub(crate) async fn retry<T, F>(&self, call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.retry_policy().run(&**self.clock(), call).await
    }

    async fn create(&self, stream: &Name, partitions: Option<u32>) -> Result<StreamSettings> {
        let settings = self
            .retry(|| self.storage().create_stream(stream, partitions))
            .await?;
        self.appender().routes().learn(stream.clone(), settings);
        Ok(settings)
    }

    /// The partitions of a stream that is there.
    pub(crate) async fn partitions(&self, stream: &Name) -> Result<Vec<Partition>> {
        let at = |index| Partition {
            stream: stream.clone(),
            index,
        };
        // Asking for the bounds first does not create it.
        let first = [at(0)];
        self.retry(|| self.storage().bounds(&first)).await?;
        Ok((0..self.open_stream(stream).await?).map(at).collect())
    }
}

/// One that is over the limit with the headers of a dead letter, and not without, can be appended back.
#[cold]
fn check_oversized(message: &Message, limit: usize) -> Result<()> {
    let size = message.size() - own_bytes(message.headers());
    if size <= limit {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a message of {size} bytes is over the limit of {limit} bytes: cut it, or raise the limit \
         (Options::max_message_bytes)"
    )))
}

impl fmt::Debug for Flowstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flowstream").field(self.storage()).finish()
    }
}
