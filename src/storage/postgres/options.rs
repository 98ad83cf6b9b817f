//! How to open a Postgres storage.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::credentials::Credentials;

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
    pub(super) credentials: Option<Credentials>,
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
            credentials: None,
        }
    }

    /// The schema that holds everything, `flowstream` unless set: letters, digits and `_`, at most 48.
    /// Storages with different schemas have nothing in common. Best one of its own: what an application has
    /// there under the same names is in the way.
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
    /// then, and none is asked for when a connection begins, which poolers refuse: leave `options` out of
    /// the URL. Values go as text, which for batches of 1,000 messages takes two to three times as long.
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
    /// later, then without knowing the outcome. Where it is less than 30 seconds, opening has these all
    /// the same: it may have a schema to make.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        const MOST: Duration = Duration::from_millis(i32::MAX as u64);
        self.statement_timeout = timeout.clamp(Duration::from_millis(1), MOST);
        self
    }

    /// Who logs in, asked before each connection that the storage makes itself, the one that listens and
    /// those beside a pool included: for passwords that change, and for tokens that live for minutes. It
    /// gets the options that the connection was to be made with, and gives those that it is made with;
    /// role and password are what it may change.
    ///
    /// Connections that are there stay: end them at the server, if an old password is to be good for
    /// nothing. Those of a [pool of the application](super::PostgresStorage::from_pool) are made with what
    /// [`set_connect_options`](sqlx::Pool::set_connect_options) last told that.
    ///
    /// A call waits for it as for the connection, 5 seconds at most, so what takes long is to be kept
    /// somewhere and renewed beside. Where it gives an error, or panics, that is as if the server could
    /// not be reached ([`Unavailable`](crate::ErrorKind::Unavailable)), and it is asked again later;
    /// the text of the error is shown, so it should have no secret in it. So is a login that is refused
    /// once the storage is open: the new password may not have come to both sides yet.
    ///
    /// # Cancel safety
    ///
    /// Its future is dropped where the connection is not waited for any more.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> flowstream::Result<()> {
    /// use flowstream::Options;
    /// use flowstream::postgres::sqlx::postgres::PgConnectOptions;
    /// use flowstream::storage::PostgresOptions;
    ///
    /// // Renewed by a task of the application, or by an agent of the machine.
    /// let postgres = PostgresOptions::new().credentials(|server: PgConnectOptions| async move {
    ///     let token = tokio::fs::read_to_string("/run/secrets/token").await?;
    ///     Ok(server.password(token.trim()))
    /// });
    /// let options = Options::new().postgres(postgres);
    /// let flow = options.open("postgres://shop@db.internal/shop").await?;
    /// # Ok(()) }
    /// ```
    pub fn credentials<F, R>(mut self, give: F) -> Self
    where
        F: Fn(PgConnectOptions) -> R + Send + Sync + 'static,
        R: Future<Output = Result<PgConnectOptions, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        self.credentials = Some(Credentials::new(give));
        self
    }

    /// For what is done once, when a storage is opened: to make a schema takes longer than a statement of
    /// every day.
    pub(super) fn of_opening(&self) -> Self {
        const LEAST: Duration = Duration::from_secs(30);
        let mut options = self.clone();
        options.statement_timeout = options.statement_timeout.max(LEAST);
        options
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
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}
