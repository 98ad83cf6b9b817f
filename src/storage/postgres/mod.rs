//! PostgreSQL: batches as rows, one statement per operation.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool};

pub(crate) use self::core::Core;
use self::core::Sql;
use super::notify::Notifier;
use super::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Name, Notification, Partition,
    Progress, Read, Reset, Start, Storage, StreamSettings, Verdicts,
};
use crate::clock::SystemClock;
use crate::error::{Error, Result};
use alone::Alone;
use connect::Connections;
use error::{Fail, Server};
use follow::Users;
pub(crate) use follow::{Ending, ended};
use gate::Gate;
use listen::Listening;
use members::Sightings;
pub use options::PostgresOptions;
pub use schema::schema_sql;
use tell::Teller;
use user::Here;
pub(crate) use user::Outcome;

mod alone;
mod append;
mod cancel;
pub(crate) mod columns;
mod connect;
mod core;
mod end;
mod error;
mod follow;
mod gate;
mod group;
mod listen;
mod log;
mod members;
mod options;
mod outbox;
mod schema;
pub(crate) mod tell;
mod user;
mod value;

/// A storage in a schema of a PostgreSQL database, 14 or later, for any number of processes.
///
/// Every operation is one statement, so nothing that a caller drops leaves a transaction open. Calls
/// run in tasks of the tokio runtime from which they are made. What it promises does not depend on
/// the isolation level or the `synchronous_commit` that the role, the database or the pool has as
/// a default.
pub struct PostgresStorage {
    core: Arc<Core>,
    local: Arc<Notifier>,
}

/// Beside the rest: what leases need is short, and must not wait.
const LEASE_CONNECTIONS: u32 = 4;

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
    ///   no such database, or the name of the schema is not allowed;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the schema is newer than this crate, or not
    ///   there and the role may not make it: the error says what to do.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn connect(url: &str, options: PostgresOptions) -> Result<Self> {
        // The error would show parts of the URL.
        let server: PgConnectOptions = url.parse().map_err(|_| {
            Error::invalid(
                "this is no URL of a PostgreSQL server: use \
                 postgres://user:password@host:port/database",
            )
        })?;
        Self::connect_with(server, options).await
    }

    /// As [`connect`](Self::connect), with options of sqlx.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_with(server: PgConnectOptions, options: PostgresOptions) -> Result<Self> {
        schema::check_name(&options.schema)?;
        let server = connect::of_ours(server, &options);
        let name = Server::new(&server);
        let connection = match connect::within(connect::ACQUIRE, server.connect()).await {
            Some(connection) => connection.map_err(Fail::Connecting),
            None => Err(Fail::Late),
        };
        let mut connection = connection.map_err(|fail| name.explain(fail, error::Access::Read))?;
        schema::prepare(&mut connection, &name, &options).await?;
        connect::leave(connection).await;
        let pool = Connections::ours(&server, options.max_connections);
        let leases = Connections::ours(&server, LEASE_CONNECTIONS);
        Ok(Self::new([pool, leases], &server, &options))
    }

    /// Uses a pool that the application has; the connection that listens is one more, made with the
    /// options of the pool. Closing the storage leaves the pool open.
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
        schema::check_name(&options.schema)?;
        let server = (*pool.connect_options()).clone();
        let name = Server::new(&server);
        let connection = pool.acquire().await.map_err(Fail::Connecting);
        let mut connection = connection.map_err(|fail| name.explain(fail, error::Access::Read))?;
        schema::prepare(&mut connection, &name, &options).await?;
        drop(connection);
        let pool = Connections::Theirs(pool);
        Ok(Self::new([pool.clone(), pool], &server, &options))
    }

    fn new(
        [pool, leases]: [Connections; 2],
        server: &PgConnectOptions,
        options: &PostgresOptions,
    ) -> Self {
        let local = Arc::new(Notifier::new());
        let teller = Teller::new(local.clone());
        let listen_on = match &options.listen_on {
            Some(direct) => Some(connect::of_ours(direct.clone(), &PostgresOptions::new())),
            None => (!options.is_pooled).then(|| server.clone()),
        };
        let listen_on = listen_on.filter(|_| options.listens);
        let sightings = Arc::new(Sightings::new(SystemClock::new()));
        let listening = Listening::new(
            listen_on,
            &options.schema,
            teller.tag(),
            local.clone(),
            sightings.clone(),
        );
        let core = Arc::new_cyclic(|me| Core {
            me: me.clone(),
            server: Server::new(server),
            schema: options.schema.clone(),
            pool,
            leases,
            is_direct: !options.is_pooled,
            deadline: options.deadline(),
            gate: Gate::default(),
            sql: Sql::new(options, teller.tag()),
            appends_alone: Alone::default(),
            commits_alone: Alone::default(),
            teller,
            listening,
            sightings,
            users: Users::default(),
            here: Here::default(),
            clock: SystemClock::new(),
        });
        // Of a process that is gone.
        core.move_soon();
        Self { core, local }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Drop for PostgresStorage {
    fn drop(&mut self) {
        self.core.users.close();
        self.core.listening.close();
        self.local.close();
    }
}

impl fmt::Debug for PostgresStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
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
                .call(|core| async move { core.create_stream(&stream, partitions).await })
                .await
        })
    }

    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>> {
        Box::pin(async move {
            self.core
                .call_with_pass(|core, pass| async move { core.append(&append, &pass).await })
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
                .call(|core| async move { core.settle(id, &partitions).await })
                .await
        })
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Fetched>> {
        Box::pin(async move {
            self.core
                .call(|core| async move { core.read(&read).await })
                .await
        })
    }

    fn bounds<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<Vec<Range<u64>>>> {
        let partitions = partitions.to_vec();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.bounds(&partitions).await })
                .await
        })
    }

    fn create_group<'a>(&'a self, group: &'a Group, start: Start) -> BoxFuture<'a, Result<()>> {
        let group = group.clone();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.create_group(&group, start).await })
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
                .call(|core| async move { core.observe(&groups).await })
                .await
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move {
            self.core
                .call(|core| async move { core.claim(&claim).await })
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
                .call(|core| async move { core.commit(&lease, &verdicts).await })
                .await
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        let lease = lease.clone();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.release(&lease).await })
                .await
        })
    }

    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>> {
        let stream = stream.cloned();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.groups(stream.as_ref()).await })
                .await
        })
    }

    fn reset(&self, reset: Reset) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move {
            self.core
                .call_with_pass(|core, pass| async move { core.reset(&reset, &pass).await })
                .await
        })
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        let partition = partition.clone();
        Box::pin(async move {
            self.core
                .call(|core| async move { core.trim(&partition, before).await })
                .await
        })
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        let subscription = self.local.subscribe();
        self.core.listening.start();
        subscription
    }

    /// One query for all that is watched.
    fn poll_interval(&self) -> Option<Duration> {
        let millis = if self.core.listening.is_on() {
            1_000
        } else {
            100
        };
        Some(Duration::from_millis(millis))
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.core.gate.close().await;
            self.core.users.close();
            self.core.listening.close();
            self.local.close();
            self.core.pool.close().await;
            self.core.leases.close().await;
            Ok(())
        })
    }
}
