//! What an error of the server says of the session that it came in: whether that is good for anything
//! more.
//!
//! What a session remembers (that it takes no writes, how statements are planned) is as old as the
//! session. Whoever finds that out of one has reason to ask the others.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgSeverity};
use sqlx::{Connection, Executor, Postgres, Row};

use super::connect::{ANSWER, within};
use super::core::Core;
use super::error::Fail;

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is good for another statement.
    Stays,
    /// What was prepared in it is of a schema that has changed, or was taken away. Nothing was written.
    Outdated,
    /// It takes no writes, and would not for as long as it lives: a standby, or a setting from when it
    /// began.
    ReadOnly,
    /// It has ended, or is about to.
    Ends,
}

impl Fate {
    pub(super) fn of(said: &(dyn DatabaseError + 'static)) -> Self {
        match &*said.code().unwrap_or_default() {
            // Nothing of ours is unsupported, so this is "cached plan must not change result type". The
            // others: a prepared statement that is not there, and one that is there already.
            "0A000" | "26000" | "42P05" => Self::Outdated,
            "25006" => Self::ReadOnly,
            // Timeouts of a transaction and within one, which end the session; a broken protocol; a
            // server that ends, an idle session that is ended.
            "25P03" | "25P04" => Self::Ends,
            code if code.starts_with("08") || code.starts_with("57P") => Self::Ends,
            _ if is_fatal(said) => Self::Ends,
            _ => Self::Stays,
        }
    }
}

/// Whatever it is: the server closes the session behind it.
fn is_fatal(said: &(dyn DatabaseError + 'static)) -> bool {
    let said = said.try_downcast_ref::<PgDatabaseError>();
    said.is_some_and(|said| matches!(said.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Whether the session is over with this, and what it was about to do in doubt.
pub(crate) fn ends_session(said: &(dyn DatabaseError + 'static)) -> bool {
    Fate::of(said) == Fate::Ends
}

/// Whether a session takes writes: not on a standby, nor where that is a setting.
pub(super) async fn takes_writes<'a>(
    session: impl Executor<'a, Database = Postgres>,
) -> Result<bool, sqlx::Error> {
    let show = sqlx::raw_sql("SHOW transaction_read_only");
    let row = session.fetch_one(show).await?;
    Ok(row.try_get::<&str, _>(0)? == "off")
}

/// Forgets what was prepared in a session, in a transaction that has failed too; false if that cannot be
/// said to the server.
pub(super) async fn forget_plans(session: &mut PgConnection) -> bool {
    let forgetting = within(ANSWER, session.clear_cached_statements());
    matches!(forgetting.await, Some(Ok(())))
}

impl Core {
    /// A session was found to take no writes. The others are asked before they are used again, and the
    /// one that listens is asked now.
    pub(super) fn doubt_sessions(&self) {
        self.pool.doubt();
        self.leases.doubt();
        self.listening.doubt();
    }

    /// What a statement in a transaction of the application found out about its session, which stays with
    /// the application: that can only roll back.
    pub(super) async fn heed_within(&self, session: &mut PgConnection, fail: &Fail) {
        match fail.fate() {
            Fate::Outdated => {
                // Else the next transaction there fails as well.
                forget_plans(session).await;
            }
            Fate::ReadOnly => {
                self.here.doubt();
                self.doubt_sessions();
            }
            Fate::Ends | Fate::Stays => {}
        }
    }
}
