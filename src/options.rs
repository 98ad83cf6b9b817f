//! What can be set when a storage is opened.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::flow::Flowstream;
use crate::retry::RetryPolicy;
use crate::storage::{MemoryStorage, Storage};

/// How to open a storage. [`open`](crate::open) does with the defaults.
///
/// ```
/// # async fn example() -> flowstream::Result<()> {
/// use std::time::Duration;
///
/// let flow = flowstream::Options::new()
///     .retry_for(Duration::from_secs(5))
///     .open("memory:")
///     .await?;
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Debug, Clone)]
#[must_use = "options do nothing until a storage is opened with them"]
pub struct Options {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_message_bytes: usize,
    pub(crate) cache_bytes: usize,
    pub(crate) memory_bytes: usize,
    #[cfg(feature = "postgres")]
    pub(crate) postgres: crate::storage::PostgresOptions,
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            retry: RetryPolicy {
                budget: Duration::from_secs(30),
            },
            max_message_bytes: 8 << 20,
            cache_bytes: 64 << 20,
            memory_bytes: 256 << 20,
            #[cfg(feature = "postgres")]
            postgres: crate::storage::PostgresOptions::new(),
        }
    }

    /// How a PostgreSQL server is used: the schema, whether to make it, poolers, timeouts.
    #[cfg(feature = "postgres")]
    pub fn postgres(mut self, options: crate::storage::PostgresOptions) -> Self {
        self.postgres = options;
        self
    }

    /// Where time comes from: the machine, unless a test says otherwise.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// For how long a call is tried again while the storage is unavailable, before the error is
    /// reported: 30 seconds by default. Zero reports the first.
    pub fn retry_for(mut self, budget: Duration) -> Self {
        self.retry = RetryPolicy { budget };
        self
    }

    /// The largest message: body, key and headers, in bytes. 8 MiB by default, at most 64 MiB,
    /// which is also the most that one append takes.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes.min(MAX_APPEND_BYTES);
        self
    }

    /// The cache of an embedded database, in bytes: 64 MiB by default.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// How much the memory storage keeps, in bytes: 256 MiB by default. What all groups have
    /// consumed goes first; an append that finds no room fails as
    /// [`Unavailable`](crate::ErrorKind::Unavailable).
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Opens the storage that a URL names:
    ///
    /// - `redb:PATH`: the embedded database in this file, made if it is missing. One process at a
    ///   time. Feature `redb` (on by default).
    /// - `postgres://USER:PASSWORD@HOST:PORT/DATABASE` (or `postgresql:`): a schema in this database,
    ///   made if it is missing; any number of processes. Feature `postgres`.
    /// - `memory:`: a new, empty storage in memory.
    ///
    /// Must be called inside a tokio runtime with time enabled, as everything in this crate.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for an unknown scheme;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for one whose feature is off, and for a file in a
    /// newer format; [`Unavailable`](crate::ErrorKind::Unavailable) if another process has the file open,
    /// or the server cannot be reached; [`Data`](crate::ErrorKind::Data) if the file is damaged or of
    /// something else.
    pub async fn open(self, url: &str) -> Result<Flowstream> {
        let (scheme, rest) = url.split_once(':').ok_or_else(|| {
            Error::invalid(format!(
                "a storage URL begins with a scheme, and {url:?} has none: use redb:PATH, \
                 postgres://… or memory:"
            ))
        })?;
        match scheme {
            "memory" if rest.is_empty() => {
                let storage = MemoryStorage::new(self.clock.clone());
                let storage = storage.with_max_bytes(self.memory_bytes);
                Ok(self.open_storage(Arc::new(storage)))
            }
            "memory" => Err(Error::invalid(format!(
                "the memory storage has no name: use memory: instead of {url:?}"
            ))),
            "redb" => self.open_redb(rest).await,
            "postgres" | "postgresql" => self.open_postgres(url).await,
            _ => Err(Error::invalid(format!(
                "unknown storage scheme {scheme:?}: use redb:PATH, postgres://… or memory:"
            ))),
        }
    }

    /// Uses a storage that is open: a driver of your own, or one that wraps another.
    pub fn open_storage(self, storage: Arc<dyn Storage>) -> Flowstream {
        Flowstream::new(storage, self)
    }

    #[cfg(feature = "redb")]
    async fn open_redb(self, path: &str) -> Result<Flowstream> {
        use crate::storage::{RedbOptions, RedbStorage};

        if path.is_empty() {
            return Err(Error::invalid("redb: needs a path, as in redb:orders.redb"));
        }
        let options = RedbOptions::new(self.clock.clone()).cache_bytes(self.cache_bytes);
        // The system may hold the lock of a process that was killed for a moment longer.
        let patience = RetryPolicy {
            budget: self.retry.budget.min(Duration::from_secs(2)),
        };
        let storage = patience
            .run(&SystemClock::new(), || {
                RedbStorage::open(path, options.clone())
            })
            .await?;
        Ok(self.open_storage(Arc::new(storage)))
    }

    #[cfg(feature = "postgres")]
    async fn open_postgres(self, url: &str) -> Result<Flowstream> {
        use crate::storage::PostgresStorage;

        let storage = PostgresStorage::connect(url, self.postgres.clone()).await?;
        Ok(self.open_storage(Arc::new(storage)))
    }

    #[cfg(not(feature = "postgres"))]
    async fn open_postgres(self, _: &str) -> Result<Flowstream> {
        Err(Error::new(
            crate::ErrorKind::Unsupported,
            "postgres: the feature `postgres` of the crate flowstream is off; build with \
             `--features postgres`",
        ))
    }

    #[cfg(not(feature = "redb"))]
    async fn open_redb(self, _: &str) -> Result<Flowstream> {
        Err(Error::new(
            crate::ErrorKind::Unsupported,
            "redb: the feature `redb` of the crate flowstream is off; it is on by default",
        ))
    }
}

/// The most that one append takes, in bytes.
pub(crate) const MAX_APPEND_BYTES: usize = 64 << 20;

/// The most messages that one append takes.
pub(crate) const MAX_APPEND_MESSAGES: usize = 1 << 20;

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
