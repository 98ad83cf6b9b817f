//! What can be set when a storage is opened.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::limits::{Limits, MAX_APPEND_BYTES};
use crate::retry::RetryPolicy;
#[cfg(feature = "postgres")]
use crate::storage::PostgresOptions;

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
    pub(crate) limits: Limits,
    pub(crate) cache_bytes: usize,
    pub(crate) has_quick_repair: bool,
    pub(crate) memory_bytes: usize,
    #[cfg(feature = "postgres")]
    pub(crate) postgres: PostgresOptions,
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            retry: RetryPolicy {
                budget: Duration::from_secs(30),
            },
            limits: Limits {
                max_message_bytes: 8 << 20,
            },
            cache_bytes: 64 << 20,
            has_quick_repair: false,
            memory_bytes: 256 << 20,
            #[cfg(feature = "postgres")]
            postgres: PostgresOptions::new(),
        }
    }

    /// How a PostgreSQL server is used: the schema, whether to make it, poolers, timeouts.
    #[cfg(feature = "postgres")]
    pub fn postgres(mut self, options: PostgresOptions) -> Self {
        self.postgres = options;
        self
    }

    /// Where time comes from: the machine, unless a test says otherwise.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// For how long a call is tried again while the storage is unavailable, before the error is
    /// reported: 30 seconds by default, counted from the call; for a buffer of a sink, from when it
    /// left. Zero reports the first. A storage that is merely slow makes nothing fail.
    ///
    /// Opening is such a call: a program that starts beside its PostgreSQL server waits for it, and
    /// traces one warning. What no waiting mends is reported at once: a refused login, a database that
    /// is not there, an address that is no URL. A file of redb that is open elsewhere is waited for two
    /// seconds at most.
    pub fn retry_for(mut self, budget: Duration) -> Self {
        self.retry = RetryPolicy { budget };
        self
    }

    /// The largest message: body, key and headers, in bytes. 8 MiB by default, at most 64 MiB,
    /// which is also the most that one append takes.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_message_bytes = bytes.min(MAX_APPEND_BYTES);
        self
    }

    /// The cache of an embedded database, in bytes: 64 MiB by default.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Whether an embedded database can be opened at once after its process was killed, or the machine
    /// lost power, at the price of slower writes; off by default. Without it such a file is read whole
    /// before it is opened, which a trace tells of. A file that was closed opens at once either way.
    /// Appends of one message made three quarters of the rate on a small file, and half of it on one of
    /// 1 GiB (`docs/design/measurements.md`). Files up to 256 MiB are verified whole in any case, in 0.1 seconds.
    pub fn quick_repair(mut self, enabled: bool) -> Self {
        self.has_quick_repair = enabled;
        self
    }

    /// How much the memory storage keeps, in bytes: 256 MiB by default. What all groups have
    /// consumed goes first; an append that finds no room fails as
    /// [`Unavailable`](crate::ErrorKind::Unavailable).
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.memory_bytes = bytes;
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
