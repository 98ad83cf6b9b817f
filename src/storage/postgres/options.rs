//! How to open a Postgres storage.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

/// How to open a [`PostgresStorage`](super::PostgresStorage).
#[derive(Clone)]
#[must_use = "options do nothing until a storage is opened with them"]
pub struct PostgresOptions {
    pub(super) schema: String,
    pub(super) migrates: bool,
    pub(super) is_pooled: bool,
    pub(super) listens: bool,
    pub(super) listen_on: Option<PgConnectOptions>,
    pub(super) max_connections: u32,
    pub(super) statement_timeout: Duration,
}

impl PostgresOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            schema: "flowstream".to_owned(),
            migrates: true,
            is_pooled: false,
            listens: true,
            listen_on: None,
            max_connections: 8,
            statement_timeout: Duration::from_secs(30),
        }
    }

    /// The schema that holds everything, `flowstream` unless set: letters, digits and `_`, at most 48.
    /// Storages with different schemas have nothing in common.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Whether opening makes or migrates the schema, as it does unless told not to. Otherwise it only
    /// checks it; [`schema_sql`](super::schema_sql) is what somebody with the right to do so runs.
    pub fn migrate(mut self, migrates: bool) -> Self {
        self.migrates = migrates;
        self
    }

    /// Says that connections go through a pooler in transaction mode, such as pgbouncer; those of a
    /// pool of the application too. No prepared statement and no setting of a session is relied on
    /// then: values go as text, which for batches of 1,000 messages takes two to three times as long.
    /// LISTEN does not work there: give [`listen_on`](Self::listen_on) a direct way, or consumers look
    /// for messages ten times a second.
    pub fn pooled(mut self, is_pooled: bool) -> Self {
        self.is_pooled = is_pooled;
        self
    }

    /// Where the one connection that listens goes, if not where the others do.
    pub fn listen_on(mut self, server: PgConnectOptions) -> Self {
        self.listen_on = Some(server);
        self
    }

    /// Whether to listen for notifications, as it does unless told not to.
    pub fn listen(mut self, listens: bool) -> Self {
        self.listens = listens;
        self
    }

    /// The most connections for appends and reads: 8 unless set. Leases have up to 4 of their own, and
    /// listening one.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// After how long the server gives up a statement: 30 seconds unless set, 1 millisecond at least,
    /// and 24 days at most, which is as far as the server counts. The client gives up two seconds
    /// later, then without knowing the outcome.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        const MOST: Duration = Duration::from_millis(i32::MAX as u64);
        self.statement_timeout = timeout.clamp(Duration::from_millis(1), MOST);
        self
    }

    /// After how long the client gives up: later than the server, whose answer says what became of
    /// the statement.
    pub(super) fn deadline(&self) -> Duration {
        const GRACE: Duration = Duration::from_secs(2);
        self.statement_timeout.saturating_add(GRACE)
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Without what stands in the options of connections: they have passwords.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("schema", &self.schema)
            .field("migrate", &self.migrates)
            .field("pooled", &self.is_pooled)
            .field("listen", &self.listens)
            .field("max_connections", &self.max_connections)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}
