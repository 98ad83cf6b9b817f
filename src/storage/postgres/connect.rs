//! Connections: what a session is told, and how they are pooled.

use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::options::PostgresOptions;

/// How long a call waits for a connection.
pub(super) const ACQUIRE: Duration = Duration::from_secs(5);

/// A connection that was idle for longer is asked whether it still lives before it is used.
const FRESH: Duration = Duration::from_secs(1);

/// The options of a connection of ours: quiet, and with timeouts. What the user sets stays.
pub(super) fn of_ours(server: PgConnectOptions, options: &PostgresOptions) -> PgConnectOptions {
    let mut server = server.disable_statement_logging();
    if server.get_application_name().is_none() {
        server = server.application_name("flowstream");
    }
    if options.is_pooled {
        // Nothing of a session is ours there, and poolers refuse options at the start.
        return server;
    }
    let given = server.get_options().unwrap_or_default().to_owned();
    let timeout = options.statement_timeout.as_millis().to_string();
    let settings = [
        // Functions take their locks first and look then: each look needs a fresh snapshot.
        ("default_transaction_isolation", "read committed"),
        ("statement_timeout", &*timeout),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "60s"),
        ("tcp_user_timeout", "10s"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("client_connection_check_interval", "5s"),
        // Plans are kept: none may read a whole table because it was small when it was made.
        ("enable_seqscan", "off"),
    ];
    let ours = settings
        .into_iter()
        .filter(|(name, _)| !given.contains(name));
    server.options(ours)
}

/// A pool that connects when it has to.
pub(super) fn pool(server: &PgConnectOptions, max_connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE)
        .idle_timeout(Duration::from_secs(300))
        .test_before_acquire(false)
        .before_acquire(|connection, idle| {
            Box::pin(async move {
                if idle.idle_for > FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(server.clone())
}
