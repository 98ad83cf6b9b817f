//! Puts the parts of a storage together.

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgPool};

use super::announcer::Announcer;
use super::append::Appends;
use super::application_pool::ApplicationPool;
use super::channel::new_tag;
use super::completion::run_to_completion;
use super::connect::{self, Connections, Way};
use super::executor::Executor;
use super::fail::{Access, Fail};
use super::failover::Failover;
use super::group::Groups;
use super::identity::DatabaseIdentity;
use super::in_flight::{InFlight, InFlightGuard};
use super::listener::{Listener, ListenerParts};
use super::liveness::FailureDetector;
use super::log::Log;
use super::options::PostgresOptions;
use super::outbox::Outbox;
use super::pools::Pools;
use super::schema;
use super::server::Server;
use super::settings::limits_transactions;
use super::statements::Statements;
use super::timeouts::{ACQUIRE, within};
use super::tracker::TransactionTracker;
use super::transactions::Transactions;
use crate::clock::SystemClock;
use crate::error::Result;
use crate::storage::Id;
use crate::storage::shared::notify::Notifier;

/// Connections for leases, beside the rest: what leases need is short, and must not wait.
const LEASE_CONNECTIONS: u32 = 4;

/// The parts of a storage that calls share.
pub(super) struct Core {
    pub(super) executor: Arc<Executor>,
    pub(super) log: Log,
    pub(super) appends: Appends,
    pub(super) groups: Groups,
    pub(super) transactions: Arc<Transactions>,
    pub(super) listener: Arc<Listener>,
    /// Tells those in this process who are subscribed.
    pub(super) local: Arc<Notifier>,
    tracker: Arc<TransactionTracker>,
    in_flight: InFlight,
}

/// What was found out while a storage was opened, for what is made of it.
struct Opened {
    pools: Pools,
    /// How its listener connects, if not otherwise.
    way: Way,
    server: Server,
    identity: DatabaseIdentity,
    limits_transactions: bool,
}

impl Core {
    /// Opens a storage with connections of its own.
    pub(super) async fn connect(
        server: PgConnectOptions,
        options: PostgresOptions,
    ) -> Result<Arc<Self>> {
        schema::check_name(&options.schema)?;
        let name = Server::new(&server, &options.schema);
        let way = Way::Told(Box::new(server), Arc::new(options.clone()));
        let connection = match within(ACQUIRE, way.connect()).await {
            Some(connection) => connection.map_err(Fail::Connecting),
            None => Err(connect::silent()),
        };
        let mut connection = connection.map_err(|fail| name.explain(fail, Access::Read))?;
        schema::prepare(&mut connection, &name, &options.of_opening()).await?;
        let identity = DatabaseIdentity::ask(&mut connection, &options.of_opening()).await;
        let limits_transactions = limits_transactions(&connection);
        connect::leave(connection).await;
        let pool = Connections::ours(way.clone(), options.max_connections);
        let leases = Connections::ours(way.clone(), LEASE_CONNECTIONS);
        let opened = Opened {
            pools: Pools::new(pool.clone(), leases, pool),
            way,
            server: name,
            identity,
            limits_transactions,
        };
        Ok(Self::new(opened, &options))
    }

    /// Opens a storage on a pool that the application has.
    pub(super) async fn from_pool(pool: PgPool, options: PostgresOptions) -> Result<Arc<Self>> {
        schema::check_name(&options.schema)?;
        let server = (*pool.connect_options()).clone();
        let name = Server::new(&server, &options.schema);
        let way = Way::As(pool.clone(), Arc::new(options.clone()));
        let pool = ApplicationPool::new(pool);
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
        let identity = DatabaseIdentity::ask(&mut connection, &options.of_opening()).await;
        let limits_transactions = limits_transactions(&connection);
        drop(connection);
        let leases = Connections::beside(pool.clone(), way.clone());
        let opened = Opened {
            pools: Pools::new(Connections::Application(pool), leases.clone(), leases),
            way,
            server: name,
            identity,
            limits_transactions,
        };
        Ok(Self::new(opened, &options))
    }

    /// From the bottom up: each part gets those that it needs.
    fn new(opened: Opened, options: &PostgresOptions) -> Arc<Self> {
        let local = Arc::new(Notifier::new());
        let listens = listens_on(opened.way, options);
        let member = listens.as_ref().map_or(Id(0), |_| Id::random());
        let tag = new_tag();
        let executor = Arc::new(Executor {
            server: opened.server,
            schema: options.schema.clone(),
            sql: Statements::new(options, opened.limits_transactions, &tag),
            tag,
            pools: opened.pools,
            is_direct: !options.is_pooled,
            deadline: options.deadline(),
            clock: SystemClock::new(),
        });
        let in_flight = InFlight::default();
        let announcer = Arc::new(Announcer::new(executor.clone(), member, local.clone()));
        let outbox = Outbox::new(executor.clone(), in_flight.clone(), announcer.clone());
        let tracker = TransactionTracker::new(executor.clone(), in_flight.clone(), outbox);
        let failover = Failover::new(executor.clone(), opened.identity, tracker.clone());
        let failover = Arc::new(failover);
        let detector = Arc::new(FailureDetector::new(SystemClock::new()));
        let listener = Arc::new(Listener::new(listens.map(|way| ListenerParts {
            way,
            executor: executor.clone(),
            member,
            local: local.clone(),
            detector: detector.clone(),
            failover: failover.clone(),
        })));
        // What a process left in the outbox that is gone.
        tracker.move_soon();
        Arc::new(Self {
            log: Log::new(executor.clone(), in_flight.clone(), tracker.clone()),
            appends: Appends::new(executor.clone(), announcer.clone()),
            groups: Groups::new(executor.clone(), announcer, listener.clone(), detector),
            transactions: Arc::new(Transactions::new(
                executor.clone(),
                failover,
                tracker.clone(),
            )),
            executor,
            listener,
            local,
            tracker,
            in_flight,
        })
    }

    /// Runs a call to its end, also when its caller lets go of it.
    pub(super) async fn call<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let call = |core, guard| {
            let work = work(core);
            async move {
                let done = work.await;
                drop::<InFlightGuard>(guard);
                done
            }
        };
        self.call_with_guard(call).await
    }

    /// Runs a call as [`call`](Self::call) does, for what may go on after its answer.
    pub(super) async fn call_with_guard<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>, InFlightGuard) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let guard = self.in_flight.enter()?;
        // The guard is dropped with what the work holds: at its end.
        run_to_completion(work(self.clone(), guard)).await
    }

    /// Ends what runs in the background, and the subscriptions.
    pub(super) fn stop(&self) {
        self.tracker.close();
        self.listener.close();
        self.local.close();
    }

    /// Waits for the calls that are in flight, ends what runs in the background, and closes connections of
    /// ours.
    pub(super) async fn close(&self) {
        self.in_flight.close().await;
        self.stop();
        self.executor.pools.close().await;
    }
}

/// How the listener connects: as the others, if it is not told otherwise; `None` if nobody is to listen.
fn listens_on(way: Way, options: &PostgresOptions) -> Option<Way> {
    let listens_on = match &options.listen_on {
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
    listens_on.filter(|_| options.listens)
}
