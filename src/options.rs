//! What can be set when a storage is opened.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::flow::Flowstream;
use crate::retry::RetryPolicy;
use crate::runtime;
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
    pub(crate) has_quick_repair: bool,
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
            has_quick_repair: false,
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
        self.max_message_bytes = bytes.min(MAX_APPEND_BYTES);
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
    /// 1 GiB (`docs/design.md`). Files up to 256 MiB are verified whole in any case, in 0.1 seconds.
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

    /// Opens the storage that a URL names:
    ///
    /// - `redb:PATH`: the embedded database in this file, made if it is missing. One process at a
    ///   time. `redb:orders.redb` is in the working directory, `redb:/var/lib/orders.redb` is not; the
    ///   path is taken as it is, nothing in it is decoded. Feature `redb` (on by default).
    /// - `postgres://USER:PASSWORD@HOST:PORT/DATABASE` (or `postgresql:`): a schema in this database,
    ///   made if it is missing; any number of processes. Feature `postgres`.
    /// - `memory:`: a new, empty storage in memory.
    ///
    /// Must be called inside a tokio runtime with time enabled, as everything in this crate.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for an unknown scheme, for a path that no file can have, for
    /// a login that is refused, and where there is no such runtime (tokio prints a panic of its own then,
    /// if time is off);
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for one whose feature is off, and for a file in a
    /// newer format; [`Unavailable`](crate::ErrorKind::Unavailable) if another process has the file open,
    /// or the server cannot be reached within [`retry_for`](Self::retry_for); [`Data`](crate::ErrorKind::Data) if the file is damaged or of
    /// something else.
    pub async fn open(self, url: &str) -> Result<Flowstream> {
        let clock = self.clock.clone();
        runtime::opening(&*clock, Box::pin(self.open_here(url))).await
    }

    // What stands in a URL may be secret, so no error shows it.
    async fn open_here(self, url: &str) -> Result<Flowstream> {
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(no_scheme(url));
        };
        match scheme {
            "memory" if rest.is_empty() => {
                let storage = MemoryStorage::new(self.clock.clone());
                let storage = storage.with_max_bytes(self.memory_bytes);
                Ok(self.open_storage(Arc::new(storage)))
            }
            "memory" => Err(Error::invalid(
                "the memory storage has no name: write memory: and nothing behind it",
            )),
            "redb" => self.open_redb(rest).await,
            "postgres" | "postgresql" => self.open_postgres(url).await,
            _ => Err(unknown_scheme(url, scheme)),
        }
    }

    /// Uses a storage that is open: a driver of your own, or one that wraps another.
    pub fn open_storage(self, storage: Arc<dyn Storage>) -> Flowstream {
        Flowstream::new(storage, self)
    }

    #[cfg(feature = "redb")]
    async fn open_redb(self, path: &str) -> Result<Flowstream> {
        use crate::storage::{RedbOptions, RedbStorage};

        crate::storage::redb::check_url(path)?;
        let options = RedbOptions::new(self.clock.clone())
            .cache_bytes(self.cache_bytes)
            .quick_repair(self.has_quick_repair);
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

        let connect = || PostgresStorage::connect(url, self.postgres.clone());
        let storage = self.wait_for(connect).await?;
        Ok(self.open_storage(Arc::new(storage)))
    }

    /// Opens what may not be there yet, within the budget of [`retry_for`](Self::retry_for): a program
    /// may start before its database does.
    #[cfg(feature = "postgres")]
    pub(crate) async fn wait_for<T, F>(&self, mut open: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let budget = self.retry.budget;
        let mut is_told = false;
        let open = || {
            let opening = open();
            let is_first = !std::mem::replace(&mut is_told, true);
            async move {
                let opened = opening.await;
                if let Err(error) = &opened
                    && error.is_transient()
                    && is_first
                {
                    tracing::warn!(%error, ?budget, "the storage cannot be opened yet: trying on");
                }
                opened
            }
        };
        // Servers take their time from the machine.
        self.retry.run(&SystemClock::new(), open).await
    }

    #[cfg(not(feature = "postgres"))]
    async fn open_postgres(self, _: &str) -> Result<Flowstream> {
        Err(Error::new(
            crate::ErrorKind::Unsupported,
            "PostgreSQL is a feature of the crate flowstream, and it is off: in Cargo.toml, add \
             features = [\"postgres\"] to flowstream, as in flowstream = { version = \"0.1\", features = \
             [\"postgres\"] }",
        ))
    }

    #[cfg(not(feature = "redb"))]
    async fn open_redb(self, _: &str) -> Result<Flowstream> {
        Err(Error::new(
            crate::ErrorKind::Unsupported,
            "redb is a feature of the crate flowstream, and it is off: in Cargo.toml, add features = \
             [\"redb\"] to flowstream, or take default-features = false away",
        ))
    }
}

const SCHEMES: &str =
    "redb:PATH for a file, postgres://ROLE:PASSWORD@HOST:PORT/DATABASE or memory:";

fn no_scheme(url: &str) -> Error {
    let text = match url {
        "" => format!("the storage URL is empty: use {SCHEMES}"),
        _ if is_key_value(url) => key_value(),
        // A bare path, or the name of a scheme.
        "memory" => "a storage URL needs a colon: use memory:".to_owned(),
        _ => format!("a storage URL begins with a scheme, and this one has none: use {SCHEMES}"),
    };
    Error::invalid(text)
}

fn unknown_scheme(url: &str, scheme: &str) -> Error {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let is_url = url.contains("://") && !scheme.is_empty() && scheme.chars().all(is_letter);
    Error::invalid(match is_url {
        _ if is_key_value(url) => key_value(),
        true => format!("no storage has URLs that begin with {scheme}: use {SCHEMES}"),
        false => format!(
            "what stands before the first colon is not the scheme of a storage URL: use {SCHEMES}"
        ),
    })
}

/// As other clients of PostgreSQL take it.
fn is_key_value(url: &str) -> bool {
    let before = url.split_once('=').map(|(key, _)| key.trim());
    before.is_some_and(|key| {
        !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    })
}

fn key_value() -> String {
    "this is a list of key=value, which is not taken: write postgres://ROLE:PASSWORD@HOST:PORT/DATABASE, \
     where characters of a password such as @ : / # are written as %40 %3A %2F %23"
        .to_owned()
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
