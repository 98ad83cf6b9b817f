//! PostgreSQL: batches as rows, one statement per operation.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
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
use crate::runtime;
use alone::Alone;
use connect::{Connections, Way};
pub(crate) use explain::{CommitStep, explain_commit};
use fail::{Access, Fail};
use follow::Users;
pub(crate) use follow::{Ending, ended};
use gate::Gate;
use here::Here;
use listen::Listening;
use members::Sightings;
pub use options::PostgresOptions;
use piece::Pieces;
pub use schema::schema_sql;
use server::Server;
use tell::Teller;
use theirs::Theirs;
pub(crate) use user::Outcome;

mod alone;
mod append;
mod cancel;
pub(crate) mod columns;
mod connect;
mod core;
mod credentials;
mod end;
mod explain;
mod fail;
mod follow;
mod full_names;
mod gate;
mod group;
mod here;
mod listen;
mod log;
mod members;
mod options;
mod outbox;
mod outcome;
mod piece;
mod schema;
mod server;
mod session;
mod settings;
mod sqlstate;
pub(crate) mod tell;
mod template;
mod theirs;
mod user;
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
        let connecting = Box::pin(Self::connect_here(server, options));
        runtime::opening(&SystemClock::new(), connecting).await
    }

    async fn connect_here(server: PgConnectOptions, options: PostgresOptions) -> Result<Self> {
        schema::check_name(&options.schema)?;
        let name = Server::new(&server, &options.schema);
        let way = Way::Told(Box::new(server), Arc::new(options.clone()));
        let connection = match connect::within(connect::ACQUIRE, way.connect()).await {
            Some(connection) => connection.map_err(Fail::Connecting),
            None => Err(connect::silent()),
        };
        let mut connection = connection.map_err(|fail| name.explain(fail, Access::Read))?;
        schema::prepare(&mut connection, &name, &options.of_opening()).await?;
        let here = Here::ask(&mut connection, &options.of_opening()).await;
        let limits_transactions = settings::limits_transactions(&connection);
        connect::leave(connection).await;
        let pool = Connections::ours(way.clone(), options.max_connections);
        let leases = Connections::ours(way.clone(), LEASE_CONNECTIONS);
        Ok(Self::new(
            [pool.clone(), leases, pool],
            way,
            name,
            here,
            limits_transactions,
            &options,
        ))
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
        let opening = Box::pin(Self::from_pool_here(pool, options));
        runtime::opening(&SystemClock::new(), opening).await
    }

    async fn from_pool_here(pool: PgPool, options: PostgresOptions) -> Result<Self> {
        schema::check_name(&options.schema)?;
        let server = (*pool.connect_options()).clone();
        let name = Server::new(&server, &options.schema);
        let way = Way::As(pool.clone(), Arc::new(options.clone()));
        let pool = Theirs::new(pool);
        let connection = pool.acquire().await;
        let mut connection = connection.map_err(|fail| name.explain(fail, Access::Read))?;
        if let Err(error) = schema::prepare(&mut connection, &name, &options.of_opening()).await {
            if error.is_transient() {
                // What this session cannot do now, another one may.
                drop(connection.detach());
                pool.weed().await;
            }
            return Err(error);
        }
        let here = Here::ask(&mut connection, &options.of_opening()).await;
        let limits_transactions = settings::limits_transactions(&connection);
        drop(connection);
        let leases = Connections::beside(pool.clone(), way.clone());
        let pool = Connections::Theirs(pool);
        Ok(Self::new(
            [pool, leases.clone(), leases],
            way,
            name,
            here,
            limits_transactions,
            &options,
        ))
    }

    fn new(
        [pool, leases, aside]: [Connections; 3],
        way: Way,
        server: Server,
        here: Here,
        limits_transactions: bool,
        options: &PostgresOptions,
    ) -> Self {
        let local = Arc::new(Notifier::new());
        let teller = Teller::new(local.clone());
        let listen_on = match &options.listen_on {
            Some(direct) => {
                let mut direct_options = PostgresOptions::new();
                direct_options.credentials = options.credentials.clone();
                Some(Way::Told(
                    Box::new(direct.clone()),
                    Arc::new(direct_options),
                ))
            }
            None => (!options.is_pooled).then_some(way),
        };
        let listen_on = listen_on.filter(|_| options.listens);
        let sightings = Arc::new(Sightings::new(SystemClock::new()));
        let core = Arc::new_cyclic(|me| Core {
            me: me.clone(),
            server,
            schema: options.schema.clone(),
            pool,
            leases,
            aside,
            is_direct: !options.is_pooled,
            deadline: options.deadline(),
            gate: Gate::default(),
            sql: Sql::new(options, limits_transactions, teller.tag()),
            appends_alone: Alone::default(),
            commits_alone: Alone::default(),
            listening: Listening::new(
                listen_on,
                &options.schema,
                teller.tag(),
                local.clone(),
                sightings.clone(),
                me.clone(),
            ),
            teller,
            sightings,
            users: Users::default(),
            moves: Pieces::default(),
            sweeps: Pieces::default(),
            here,
            clock: SystemClock::new(),
        });
        core.register();
        // Of a process that is gone.
        core.move_soon();
        Self { core, local }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
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
