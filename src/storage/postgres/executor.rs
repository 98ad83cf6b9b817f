//! Running statements.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};

use super::connect::Connections;
use super::fail::Fail;
use super::pools::Pools;
use super::server::Server;
use super::session::forget_plans;
use super::sqlstate::Fate;
use super::statements::{Statement, Statements};
use super::timeouts::within;
use super::value::{Value, write_into};
use crate::clock::{Clock, SystemClock, sleep};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Id;

/// The buffers of a connection that sent or read more than this are let go of: it would keep them for
/// as long as it lives.
const KEPT_BUFFER: usize = 1 << 20;

/// Runs statements in sessions: in another one, and again, where that helps. Everything above has it in common.
pub(super) struct Executor {
    pub(super) server: Server,
    pub(super) schema: String,
    /// What distinguishes the storage from others at the server.
    pub(super) tag: String,
    pub(super) pools: Pools,
    pub(super) sql: Statements,
    /// Whether a session of the server is this connection's own: no pooler shares it out.
    pub(super) is_direct: bool,
    /// How long the client waits for the answer to a statement.
    pub(super) deadline: Duration,
    /// The time of sockets and servers, which no test can let pass.
    pub(super) clock: SystemClock,
}

impl Executor {
    /// Runs a statement, as often as it collides with another, up to the deadline.
    pub(super) async fn run(
        self: &Arc<Self>,
        pool: &Connections,
        statement: &Statement,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>> {
        let done = self.try_run(pool, statement, values).await;
        done.map_err(|fail| self.explain(fail, statement))
    }

    /// What a statement that failed is to the caller. A login that was good when the storage was opened
    /// may be good again: passwords change.
    pub(super) fn explain(&self, fail: Fail, statement: &Statement) -> Error {
        let is_refused = fail.is_refused_login();
        let error = self.server.explain(fail, statement.access);
        match is_refused {
            true => error.with_kind(ErrorKind::Unavailable),
            false => error,
        }
    }

    /// Runs a statement as [`run`](Self::run) does, where something is to be made of what went wrong.
    pub(super) async fn try_run(
        self: &Arc<Self>,
        pool: &Connections,
        statement: &Statement,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>, Fail> {
        let give_up = self.clock.now().saturating_add(self.deadline);
        let (mut collisions, mut is_anew) = (0, false);
        loop {
            let fail = match self.run_once(pool, statement, values).await {
                Ok(rows) => return Ok(rows),
                Err(fail) => fail,
            };
            if matches!(fail, Fail::Late) {
                self.cancel();
            }
            if fail.fate() == Fate::Outdated && !is_anew {
                // What functions have planned is as old as their session: in another one.
                is_anew = true;
                pool.forget();
                continue;
            }
            if !fail.is_collision() || self.clock.now() >= give_up {
                return Err(fail);
            }
            collisions += 1;
            tracing::trace!(collisions, code = fail.code(), "a statement goes again");
            self.step_aside(collisions).await;
        }
    }

    /// Whether each session of this pool was told at its beginning what the functions say themselves.
    pub(super) fn has_settings_of_ours(&self, pool: &Connections) -> bool {
        self.is_direct && matches!(pool, Connections::Ours(_))
    }

    async fn run_once(
        &self,
        pool: &Connections,
        statement: &Statement,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>, Fail> {
        let mut connection = pool.lend().await?;
        let mut answer = self.ask(&mut connection, statement, values).await;
        if answer
            .as_ref()
            .is_err_and(|fail| fail.fate() == Fate::Outdated)
            && forget_plans(&mut connection).await
        {
            answer = self.ask(&mut connection, statement, values).await;
        }
        match answer.as_ref().map_or_else(Fail::fate, |_| Fate::Stays) {
            Fate::Stays => {
                let sent: usize = values.iter().map(Value::size).sum();
                let read: usize = answer.iter().flatten().map(size).sum();
                if sent.max(read) > KEPT_BUFFER {
                    connection.shrink_buffers();
                }
                connection.give_back();
            }
            Fate::Outdated | Fate::Ends => connection.discard(),
            Fate::ReadOnly => {
                connection.discard();
                self.pools.doubt();
            }
        }
        answer
    }

    async fn ask(
        &self,
        connection: &mut PgConnection,
        statement: &Statement,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>, Fail> {
        match within(self.deadline, self.send(connection, statement, values)).await {
            Some(answer) => answer.map_err(Fail::Running),
            None => Err(Fail::Late),
        }
    }

    async fn send(
        &self,
        connection: &mut PgConnection,
        statement: &Statement,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        if !self.is_direct {
            let sql = write_into(&statement.text, values);
            return sqlx::raw_sql(AssertSqlSafe(sql))
                .fetch_all(connection)
                .await;
        }
        let query = sqlx::query(AssertSqlSafe(statement.text.clone()));
        let query = values.iter().fold(query, |query, value| value.bind(query));
        query.fetch_all(connection).await
    }

    /// Waits a moment, longer and less predictable each time.
    async fn step_aside(&self, collisions: u32) {
        let most = 1_u64 << collisions.min(5);
        let random = Id::random().0 as u64;
        let pause = Duration::from_micros(random % (most * 1_000));
        sleep(&self.clock, pause).await;
    }

    /// Cancels what a statement that is late still does, in the background. Its connection is closed by
    /// now, so nothing else can run there.
    ///
    /// A session of ours has a `statement_timeout`, and so has each message through a pooler. In a session
    /// of the application's pool there is no place for one: set inside a statement, even by a function that
    /// it calls, it counts from the next statement on. So a call past its deadline is cancelled from beside.
    fn cancel(self: &Arc<Self>) {
        let executor = self.clone();
        tokio::spawn(async move {
            // It may have come to the server later than it left.
            for pause in [100, 1_000, 10_000] {
                sleep(&executor.clock, Duration::from_millis(pause)).await;
                let deadline = i64::try_from(executor.deadline.as_micros()).unwrap_or(i64::MAX);
                let values = [Value::Text(&executor.sql.mark), Value::Bigint(deadline)];
                let (aside, cancel) = (&executor.pools.aside, &executor.sql.cancel);
                match executor.run_once(aside, cancel, &values).await {
                    Ok(cancelled) if cancelled.is_empty() => {}
                    Ok(_) => return tracing::debug!("a statement past its deadline was cancelled"),
                    Err(fail) => {
                        tracing::debug!(code = fail.code(), "a statement past its deadline goes on")
                    }
                }
            }
        });
    }
}

/// The bytes of a row, as they came.
fn size(row: &PgRow) -> usize {
    let values = (0..row.len()).filter_map(|column| row.try_get_raw(column).ok());
    values
        .filter_map(|value| value.as_bytes().ok().map(<[u8]>::len))
        .sum()
}
