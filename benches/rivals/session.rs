//! A database on the same PostgreSQL server, for those who live there.

use std::future::Future;
use std::sync::mpsc;
use std::time::Instant;

use sqlx::postgres::PgConnection;
use tokio::runtime::Runtime;

use crate::raw::connect;
use crate::server::{Database, Link, Server};
use crate::sides::median_delivery;
use crate::support::Flavour;

/// A connection to it, and what waits for that.
pub(crate) struct Session<'a> {
    connection: PgConnection,
    runtime: Runtime,
    database: Database<'a>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(server: &'a Server) -> Self {
        let database = Database::new(server);
        let runtime = Flavour::Multi.runtime();
        let url = database.url(Link::Socket);
        let connection = runtime.block_on(connect(&url));
        Self {
            connection,
            runtime,
            database,
        }
    }

    /// Runs several statements at once, without values.
    pub(crate) fn script(&mut self, sql: &str) -> Result<(), String> {
        let script = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut self.connection);
        let done = self.runtime.block_on(script);
        done.map(drop).map_err(|error| error.to_string())
    }

    /// The one text that a query gives.
    pub(crate) fn text(&self, sql: &str) -> String {
        self.database.psql(sql)
    }

    pub(crate) fn run<T>(&mut self, work: impl AsyncFnOnce(&mut PgConnection) -> T) -> T {
        self.runtime.block_on(work(&mut self.connection))
    }

    /// Sends one message after the other, while somebody receives them on another connection: the
    /// median of the times, in microseconds.
    pub(crate) fn delivery<R>(
        &mut self,
        count: usize,
        receive: impl FnOnce(PgConnection, Seen) -> R,
        send: impl AsyncFn(&mut PgConnection),
    ) -> f64
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let url = self.database.url(Link::Socket);
        let connection = self.runtime.block_on(connect(&url));
        let (seen, arrivals) = mpsc::channel();
        let receiving = self.runtime.spawn(receive(connection, seen));
        let median = median_delivery(count, &arrivals, || {
            self.runtime.block_on(send(&mut self.connection));
        });
        let received = self.runtime.block_on(receiving);
        received.expect("it received all");
        median
    }
}

/// Where it is said when a message was received.
pub(crate) type Seen = mpsc::Sender<Instant>;
