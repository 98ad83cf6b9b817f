//! From a URL, or a pool, to an open storage: the one place above the storages that names them.

use std::sync::Arc;
#[cfg(feature = "redb")]
use std::time::Duration;

#[cfg(any(feature = "redb", feature = "postgres"))]
use crate::clock::SystemClock;
use crate::context::Context;
#[cfg(not(all(feature = "redb", feature = "postgres")))]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::flowstream::Flowstream;
use crate::options::Options;
#[cfg(feature = "redb")]
use crate::retry::RetryPolicy;
use crate::runtime;
#[cfg(feature = "redb")]
use crate::storage::redb;
use crate::storage::{MemoryStorage, Storage};
#[cfg(feature = "postgres")]
use crate::storage::{PostgresOptions, PostgresStorage};
#[cfg(feature = "redb")]
use crate::storage::{RedbOptions, RedbStorage};

/// Opens the storage that a URL names, with the default [`Options`]: `redb:PATH`, `memory:` or
/// `postgres://…`.
///
/// # Errors
///
/// As [`Options::open`].
///
/// # Examples
///
/// ```
/// # async fn example() -> flowstream::Result<()> {
/// let flow = flowstream::open("memory:").await?;
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
pub async fn open(url: &str) -> Result<Flowstream> {
    Options::new().open(url).await
}

impl Options {
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
        let Self {
            clock,
            retry,
            limits,
            ..
        } = self;
        Flowstream::new(Context::new(storage, clock, retry, limits))
    }

    #[cfg(feature = "redb")]
    async fn open_redb(self, path: &str) -> Result<Flowstream> {
        redb::check_url(path)?;
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
            ErrorKind::Unsupported,
            "PostgreSQL is a feature of the crate flowstream, and it is off: in Cargo.toml, add \
             features = [\"postgres\"] to flowstream, as in flowstream = { version = \"0.1\", features = \
             [\"postgres\"] }",
        ))
    }

    #[cfg(not(feature = "redb"))]
    async fn open_redb(self, _: &str) -> Result<Flowstream> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "redb is a feature of the crate flowstream, and it is off: in Cargo.toml, add features = \
             [\"redb\"] to flowstream, or take default-features = false away",
        ))
    }
}

impl Flowstream {
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
        let options = PostgresOptions::new();
        crate::storage::schema_sql(&options).expect("the default name is allowed")
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

/// Whether it is a connection string of `key=value` pairs, as other clients of PostgreSQL take it.
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
