//! Running statements.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};

use super::alone::Alone;
use super::cancel;
use super::connect::{Connections, within};
use super::end::to_the_end;
use super::fail::{Access, Fail};
use super::server::Server;
use super::follow::Users;
use super::full_names::with_full_names;
use super::gate::{Gate, Pass};
use super::here::Here;
use super::listen::Listening;
use super::members::Sightings;
use super::options::PostgresOptions;
use super::piece::Pieces;
use super::session::forget_plans;
use super::settings;
use super::sqlstate::Fate;
use super::tell::Teller;
use super::template::for_schema;
use super::value::{Value, write_into};
use crate::clock::{Clock, SystemClock, sleep};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Id;

/// The buffers of a connection that sent or read more than this are let go of: it would keep them for
/// as long as it lives.
const KEPT_BUFFER: usize = 1 << 20;

/// What calls share.
pub(crate) struct Core {
    pub(super) me: Weak<Self>,
    pub(super) server: Server,
    pub(super) schema: String,
    /// Appends and reads.
    pub(super) pool: Connections,
    /// Leases: they never wait behind a long append, nor for a connection that the application holds.
    pub(super) leases: Connections,
    /// What is short: beside a pool of the application it does not wait for it either.
    pub(super) aside: Connections,
    /// Whether a session of the server is this connection's own: no pooler shares it out.
    pub(super) is_direct: bool,
    pub(super) deadline: Duration,
    pub(super) gate: Gate,
    pub(super) sql: Sql,
    pub(super) appends_alone: Alone,
    pub(super) commits_alone: Alone,
    pub(super) teller: Teller,
    pub(super) listening: Listening,
    pub(super) sightings: Arc<Sightings>,
    pub(super) users: Users,
    /// Of what is moved out of the outbox, and of what trimming left.
    pub(super) moves: Pieces,
    pub(super) sweeps: Pieces,
    pub(super) here: Here,
    /// Of sockets and servers, which no test can let pass.
    pub(super) clock: SystemClock,
}

/// The statements, for the schema.
pub(super) struct Sql {
    /// What each of them begins with, and no other of this server.
    pub(super) mark: String,
    pub(super) cancel: Statement,
    pub(super) append_fast: Statement,
    pub(super) append_plain: Statement,
    pub(super) append_one: Statement,
    pub(super) append_many: Statement,
    pub(super) settle: Statement,
    pub(super) read: Statement,
    pub(super) bounds: Statement,
    pub(super) observe: Statement,
    pub(super) notify: Statement,
    pub(super) create_stream: Statement,
    pub(super) streams_near: Statement,
    pub(super) create_group: Statement,
    pub(super) claim: Statement,
    pub(super) commit_fast: Statement,
    pub(super) commit: Statement,
    pub(super) release: Statement,
    pub(super) groups: Statement,
    pub(super) reset: Statement,
    pub(super) trim: Statement,
    pub(super) sweep: Statement,
    pub(super) here: Statement,
    pub(super) ended_transactions: Statement,
    pub(super) move_outbox: Statement,
    /// Within a transaction of the application.
    pub(super) append_one_in: Arc<str>,
    pub(super) append_many_in: Arc<str>,
    pub(super) commit_in: Arc<str>,
}

#[derive(Clone)]
pub(super) struct Statement {
    text: Arc<str>,
    access: Access,
}

impl Sql {
    /// The functions say in the schema what they lock.
    pub(super) fn new(options: &PostgresOptions, limits_transactions: bool, tag: &str) -> Self {
        let mark = format!("/* flowstream {tag} */ ");
        let settings = match options.is_pooled {
            true => settings::of_a_message(options, limits_transactions),
            false => String::new(),
        };
        let statement = |sql: &str, access| {
            let sql = for_schema(&to_be_sent(sql), &options.schema);
            Statement {
                text: format!("{mark}{settings}{sql}").into(),
                access,
            }
        };
        let write = |sql: &str| statement(sql, Access::Write);
        let read = |sql: &str| statement(sql, Access::Read);
        let within = |sql: &str| for_schema(&to_be_sent(sql), &options.schema).into();
        Self {
            cancel: read(include_str!("sql/cancel.sql")),
            append_fast: write(include_str!("sql/append_fast.sql")),
            append_plain: write(include_str!("sql/append_plain.sql")),
            append_one: write(include_str!("sql/append_one.sql")),
            append_many: write(include_str!("sql/append_many.sql")),
            settle: write(
                "SELECT outcome, ord, base_offset, NULL::bigint FROM {schema}.settle($1, $2, $3)",
            ),
            read: read(include_str!("sql/read.sql")),
            bounds: read(include_str!("sql/bounds.sql")),
            observe: read(include_str!("sql/observe.sql")),
            notify: read(include_str!("sql/notify.sql")),
            create_stream: write("SELECT {schema}.create_stream($1, $2)"),
            streams_near: read(include_str!("sql/streams_near.sql")),
            create_group: write(include_str!("sql/create_group.sql")),
            claim: write(
                "SELECT current_setting('transaction_isolation') = 'read committed', c.* \
                 FROM {schema}.claim($1, $2, $3, $4, $5, $6, $7, $8) c",
            ),
            commit_fast: write(include_str!("sql/commit_fast.sql")),
            commit: write(
                r#"SELECT "position", acked FROM {schema}.commit($1, $2, $3, $4, $5, $6, $7, $8)
                   WHERE "position" IS NOT NULL"#,
            ),
            release: write(include_str!("sql/release.sql")),
            groups: read(include_str!("sql/groups.sql")),
            reset: write(include_str!("sql/reset.sql")),
            trim: write("SELECT {schema}.trim($1, $2, $3)"),
            sweep: write("SELECT {schema}.sweep($1, $2, $3, $4)"),
            here: read("SELECT {schema}.incarnation()::text"),
            ended_transactions: read(include_str!("sql/ended_transactions.sql")),
            move_outbox: write(include_str!("sql/move_outbox.sql")),
            append_one_in: within(include_str!("sql/append_one_in.sql")),
            append_many_in: within(include_str!("sql/append_many_in.sql")),
            commit_in: within(include_str!("sql/commit_in.sql")),
            mark,
        }
    }
}

/// The SQL of a file. What it locks, and why, is for those who read that.
fn to_be_sent(sql: &str) -> String {
    let is_comment = |line: &&str| line.trim_start().starts_with("--");
    let lines = sql.lines().filter(|line| !is_comment(line));
    with_full_names(&lines.collect::<Vec<&str>>().join("\n"))
}

impl Core {
    /// Runs a statement, as often as it collides with another, up to the deadline.
    pub(super) async fn run(
        &self,
        pool: &Connections,
        statement: &Statement,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>> {
        let done = self.try_run(pool, statement, values).await;
        done.map_err(|fail| self.explain(fail, statement))
    }

    /// A login that was good when the storage was opened may be good again: passwords change.
    pub(super) fn explain(&self, fail: Fail, statement: &Statement) -> Error {
        let is_refused = fail.is_refused_login();
        let error = self.server.explain(fail, statement.access);
        match is_refused {
            true => error.with_kind(ErrorKind::Unavailable),
            false => error,
        }
    }

    /// As [`run`](Self::run), where something is to be made of what went wrong.
    pub(super) async fn try_run(
        &self,
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
            if let (Fail::Late, Some(core)) = (&fail, self.me.upgrade()) {
                cancel::cancel(core);
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

    pub(super) async fn run_once(
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
                self.doubt_sessions();
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

    /// Runs a call to its end, also when its caller lets go of it.
    pub(super) async fn call<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let call = |core, pass| {
            let work = work(core);
            async move {
                let done = work.await;
                drop::<Pass>(pass);
                done
            }
        };
        self.call_with_pass(call).await
    }

    /// As [`call`](Self::call), for what may go on after its answer.
    pub(super) async fn call_with_pass<T, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>, Pass) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let pass = self.gate.enter()?;
        // The pass is dropped with what the work holds: at its end.
        to_the_end(work(self.clone(), pass)).await
    }
}

/// Its bytes, as they came.
fn size(row: &PgRow) -> usize {
    let values = (0..row.len()).filter_map(|column| row.try_get_raw(column).ok());
    values
        .filter_map(|value| value.as_bytes().ok().map(<[u8]>::len))
        .sum()
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStorage")
            .field("server", &self.server.name())
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
