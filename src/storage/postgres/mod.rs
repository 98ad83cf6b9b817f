//! PostgreSQL: batches as rows, one statement per operation.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use sqlx::postgres::{PgConnectOptions, PgPool};

use self::core::Core;
use super::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Name, Notification, Partition,
    Progress, Read, Reset, Start, Storage, StreamSettings, Verdicts,
};
use crate::clock::SystemClock;
use crate::error::{Error, Result};
use crate::runtime;
pub(crate) use explain::{CommitStep, explain_commit};
pub(crate) use open_transactions::Ending;
pub use options::PostgresOptions;
pub use schema::schema_sql;
pub(crate) use tracker::ended;
pub(crate) use transactions::{CommitOutcome, Transactions};

mod announcer;
mod append;
mod application_pool;
mod arrays;
pub(crate) mod channel;
pub(crate) mod columns;
mod completion;
mod connect;
mod core;
mod credentials;
mod executor;
mod explain;
mod fail;
mod failover;
mod fast_path;
mod full_names;
mod group;
mod identity;
mod in_flight;
mod listener;
mod liveness;
mod log;
mod open_transactions;
mod options;
mod outbox;
mod outcome;
mod pieces;
mod pools;
mod schema;
mod server;
mod session;
mod settings;
mod sqlstate;
mod statements;
mod template;
mod timeouts;
mod tracker;
mod transactions;
mod value;

/// A storage in a schema of a PostgreSQL database, 14 or later, for any number of processes.
///
/// Every operation is one statement, so nothing that a caller drops leaves a transaction open. Calls
/// run in tasks of the tokio runtime from which they are made. What it promises does not depend on
/// what the role, the database or the server has as settings, nor on the search path of a pool of the
/// application. In a database that is not in UTF8 a name of a stream or group that its encoding cannot
/// write is [`Invalid`](crate::ErrorKind::Invalid); messages are bytes everywhere.
pub struct PostgresStorage {
    core: Arc<Core>,
}

impl PostgresStorage {
    /// Connects to the server that the URL names, and makes or migrates the schema where needed.
    ///
    /// The URL is the one of [sqlx](PgConnectOptions): `postgres://user:password@host:port/database`,
    /// with `?host=/directory` for a Unix socket and `sslmode` for TLS.
    ///
    /// # Errors
    ///
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the server cannot be reached or cannot take
    ///   connections now;
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the URL is no such URL, the login is refused, there is
    ///   no such database, the name of the schema is not allowed, it holds something of another
    ///   application that is in the way, or a setting of the URL or of the storage is refused, as poolers do:
    ///   see [`pooled`](PostgresOptions::pooled);
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the schema is newer than this crate, or not
    ///   there and the role may not make it: the error says what to do.
    ///
    /// Tried once: it is [`Options::open`](crate::Options::open) that waits for a server. Outside of a
    /// tokio runtime with time and I/O enabled it is [`Invalid`](crate::ErrorKind::Invalid), too.
    pub async fn connect(url: &str, options: PostgresOptions) -> Result<Self> {
        let server: PgConnectOptions = url.parse().map_err(|error| no_url(&error))?;
        Self::connect_with(server, options).await
    }

    /// As [`connect`](Self::connect), with options of sqlx.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_with(server: PgConnectOptions, options: PostgresOptions) -> Result<Self> {
        let connecting = Box::pin(Core::connect(server, options));
        let core = runtime::opening(&SystemClock::new(), connecting).await?;
        Ok(Self { core })
    }

    /// Uses a pool that the application has. Closing the storage leaves the pool open.
    ///
    /// Beside the pool it has at most two connections: one listens, and one is for leases, for
    /// looking things up, and for what transactions have appended. They are made as the pool makes its
    /// own at that time, with its options and its `after_connect`. So none of this waits for a
    /// connection that the application holds, and a transaction of the application needs no second
    /// one: a pool of one connection is enough for [`append_in`](crate::postgres::ProducerExt::append_in)
    /// and [`commit_in`](crate::postgres::DeliveryExt::commit_in). Plain appends and reads take
    /// connections of the pool: do not await them while a transaction holds the last one.
    ///
    /// The pool's connections keep their settings: where `default_transaction_isolation` is stricter
    /// than read committed, concurrent calls collide and are repeated. Where they have no
    /// `lock_timeout`, a call waits for a lock for 10 seconds at most; one that is late all the same is
    /// cancelled from another connection. If the pool's connections go through a pooler in transaction
    /// mode, say so with [`pooled`](PostgresOptions::pooled).
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn from_pool(pool: PgPool, options: PostgresOptions) -> Result<Self> {
        let opening = Box::pin(Core::from_pool(pool, options));
        let core = runtime::opening(&SystemClock::new(), opening).await?;
        Ok(Self { core })
    }

    /// What it does within transactions of the application.
    pub(crate) fn transactions(&self) -> &Arc<Transactions> {
        &self.core.transactions
    }
}

impl Drop for PostgresStorage {
    fn drop(&mut self) {
        self.core.stop();
    }
}

impl fmt::Debug for PostgresStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let executor = &self.core.executor;
        f.debug_struct("PostgresStorage")
            .field("server", &executor.server.name())
            .field("schema", &executor.schema)
            .finish_non_exhaustive()
    }
}

impl Storage for PostgresStorage {
    fn create_stream<'a>(
        &'a self,
        stream: &'a Name,
        partitions: Option<u32>,
    ) -> BoxFuture<'a, Result<StreamSettings>> {
        let stream = stream.clone();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.log.create_stream(&stream, partitions).await })
                .await
        })
    }

    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>> {
        Box::pin(async move {
            self.core
                .call_with_guard(
                    |core, guard| async move { core.appends.append(&append, &guard).await },
                )
                .await
        })
    }

    /// The second is sent, parsed and waits at the lock while the first one waits for the disk.
    fn append_depth(&self) -> usize {
        2
    }

    fn settle<'a>(
        &'a self,
        id: Id,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<Option<Vec<u64>>>> {
        let partitions = partitions.to_vec();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.appends.settle(id, &partitions).await })
                .await
        })
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Fetched>> {
        Box::pin(async move {
            self.core
                .call(|core| async move { core.log.read(&read).await })
                .await
        })
    }

    fn bounds<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<Vec<Range<u64>>>> {
        let partitions = partitions.to_vec();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.log.bounds(&partitions).await })
                .await
        })
    }

    fn create_group<'a>(&'a self, group: &'a Group, start: Start) -> BoxFuture<'a, Result<()>> {
        let group = group.clone();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.groups.create_group(&group, start).await })
                .await
        })
    }

    fn observe<'a>(
        &'a self,
        groups: &'a [Group],
    ) -> BoxFuture<'a, Result<Vec<Option<GroupState>>>> {
        let groups = groups.to_vec();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.groups.observe(&groups).await })
                .await
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move {
            self.core
                .call(|core| async move { core.groups.claim(&claim).await })
                .await
        })
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>> {
        let (lease, verdicts) = (lease.clone(), verdicts.clone());
        Box::pin(async move {
            self.core
                .call(|core| async move { core.groups.commit(&lease, &verdicts).await })
                .await
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        let lease = lease.clone();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.groups.release(&lease).await })
                .await
        })
    }

    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>> {
        let stream = stream.cloned();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.groups.groups(stream.as_ref()).await })
                .await
        })
    }

    fn reset(&self, reset: Reset) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move {
            self.core
                .call_with_guard(
                    |core, guard| async move { core.groups.reset(&reset, &guard).await },
                )
                .await
        })
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        let partition = partition.clone();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.log.trim(&partition, before).await })
                .await
        })
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        let subscription = self.core.local.subscribe();
        self.core.listener.start();
        subscription
    }

    /// How often a consumer looks for messages by itself: one query for all that is watched.
    fn poll_interval(&self) -> Option<Duration> {
        let millis = if self.core.listener.is_on() {
            1_000
        } else {
            100
        };
        Some(Duration::from_millis(millis))
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.core.close().await;
            Ok(())
        })
    }
}

/// Other errors than these would show parts of the URL.
fn no_url(error: &sqlx::Error) -> Error {
    const HARMLESS: [&str; 6] = [
        "empty host",
        "invalid port number",
        "invalid domain character",
        "invalid international domain name",
        "invalid IPv4 address",
        "invalid IPv6 address",
    ];
    let said = error.to_string();
    let what = HARMLESS.iter().find(|text| said.contains(**text));
    let what = what.map_or(String::new(), |text| format!(" ({text})"));
    Error::invalid(format!(
        "this is no URL of a PostgreSQL server{what}: write postgres://ROLE:PASSWORD@HOST:PORT/DATABASE, \
         where characters of a password such as @ : / # are written as %40 %3A %2F %23, and only \
         parameters that sqlx knows"
    ))
}
