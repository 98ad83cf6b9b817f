//! What an error of the server says of the session that it came in: whether that is good for anything
//! more.
//!
//! What a session remembers (that it takes no writes, how statements are planned) is as old as the
//! session. Whoever finds that out of one has reason to ask the others.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Postgres, Row};

use super::connect::{ANSWER, within};
use super::core::Core;
use super::fail::Fail;
use super::sqlstate::Fate;

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
