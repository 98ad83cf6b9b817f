//! What a session remembers: whether it takes writes, and how its statements are planned. Both are as old as
//! the session.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Postgres, Row};

use super::timeouts::{ANSWER, within};

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
