//! What the producers, the consumers and the operators of one open storage share.

use std::fmt;
use std::sync::{Arc, Weak};

use futures_core::future::BoxFuture;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::appender::Appender;
use crate::clock::Clock;
use crate::concurrency::MAX_CONCURRENT;
use crate::error::Result;
use crate::limits::Limits;
use crate::message::Message;
use crate::name::Name;
use crate::retry::RetryPolicy;
use crate::storage::shared::refusals::closed;
use crate::storage::{Partition, Storage, StreamSettings};
use crate::sync::{Mutex, MutexGuard};
use crate::watch::{LeaseWatch, LogWatch};

/// Shared by all handles of one open storage.
pub(crate) struct Context {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    retry: RetryPolicy,
    limits: Limits,
    appender: Appender,
    log_watch: LogWatch,
    lease_watch: LeaseWatch,
    /// The permits of those that claim a lease or give it back.
    claims: Semaphore,
    /// No other lock is taken under it.
    consumers: Mutex<OpenConsumers>,
}

/// Something that is shut down before its storage is closed.
pub(crate) trait ShutDown: Send + Sync {
    /// Begins to shut down.
    fn shut_down(&self);

    /// Resolves once nothing of it is under way any more.
    fn closed(&self) -> BoxFuture<'static, ()>;
}

/// The consumers that were made and may not be closed yet.
#[derive(Default)]
struct OpenConsumers {
    all: Vec<Weak<dyn ShutDown>>,
    /// There will be no more.
    is_closed: bool,
}

impl Context {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        retry: RetryPolicy,
        limits: Limits,
    ) -> Self {
        let log_watch = LogWatch::new(storage.clone(), clock.clone());
        let appender = Appender::new(storage.clone(), clock.clone(), retry, log_watch.clone());
        Self {
            appender,
            log_watch,
            lease_watch: LeaseWatch::new(storage.clone(), clock.clone(), retry),
            claims: Semaphore::new(MAX_CONCURRENT),
            consumers: Mutex::default(),
            storage,
            clock,
            retry,
            limits,
        }
    }

    #[inline]
    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    #[inline]
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn appender(&self) -> &Appender {
        &self.appender
    }

    pub(crate) fn log_watch(&self) -> &LogWatch {
        &self.log_watch
    }

    pub(crate) fn lease_watch(&self) -> &LeaseWatch {
        &self.lease_watch
    }

    /// The right to claim a lease now, or to give it back: a consumer of many partitions wants all of theirs
    /// at once. Cancel safe.
    pub(crate) async fn claim_permit(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.claims.acquire().await.ok()
    }

    pub(crate) async fn retry<T, F>(&self, call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.retry.run(&*self.clock, call).await
    }

    /// Makes sure that a stream is there, and gives its number of partitions.
    pub(crate) async fn open_stream(&self, stream: &Name) -> Result<u32> {
        Ok(self.create_stream(stream, None).await?.partitions)
    }

    pub(crate) async fn create_stream(
        &self,
        stream: &Name,
        partitions: Option<u32>,
    ) -> Result<StreamSettings> {
        let settings = self
            .retry(|| self.storage.create_stream(stream, partitions))
            .await?;
        self.appender.routing().learn(stream.clone(), settings);
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
        self.retry(|| self.storage.bounds(&first)).await?;
        Ok((0..self.open_stream(stream).await?).map(at).collect())
    }

    /// Refuses messages that are over a limit, each or together.
    pub(crate) fn check_append(&self, messages: &[Message]) -> Result<()> {
        for message in messages {
            self.limits.check(message)?;
        }
        self.limits.check_append(messages)
    }

    /// A consumer is there from now on, to be shut down before the storage is closed.
    pub(crate) fn register(&self, consumer: Weak<dyn ShutDown>) -> Result<()> {
        let mut consumers = self.consumers();
        if consumers.is_closed {
            return Err(closed());
        }
        consumers.all.retain(|other| other.strong_count() > 0);
        consumers.all.push(consumer);
        Ok(())
    }

    /// Shuts down all consumers and waits for them, refuses what comes later, waits for the appends that
    /// are under way, and closes the storage. Dropped before it is ready, the consumers are shut down all
    /// the same.
    pub(crate) async fn close(&self) -> Result<()> {
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
        self.appender.close().await;
        self.storage.close().await
    }

    fn consumers(&self) -> MutexGuard<'_, OpenConsumers> {
        self.consumers.lock()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("storage", &self.storage)
            .finish_non_exhaustive()
    }
}
