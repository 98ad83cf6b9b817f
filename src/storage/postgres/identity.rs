//! Which database of which server the storage is in: the incarnation.

use std::sync::Arc;

use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::columns::Reader;
use super::options::PostgresOptions;
use super::settings::message;
use super::template::for_schema;
use super::timeouts::{ACQUIRE, within};
use crate::sync::{Mutex, MutexGuard};

/// The database, as the server says it; unknown at first.
#[derive(Debug, Default)]
pub(super) struct DatabaseIdentity(
    /// Guards what is known; taken alone.
    Mutex<KnownIdentity>,
);

#[derive(Debug, Default)]
struct KnownIdentity {
    identity: Option<Arc<str>>,
    /// The storage may be in another one by now.
    is_doubtful: bool,
}

impl DatabaseIdentity {
    /// The identity as this connection of the storage says it; unknown if it does not.
    pub(super) async fn ask(connection: &mut PgConnection, options: &PostgresOptions) -> Self {
        let sql = for_schema("SELECT {schema}.incarnation()::text", &options.schema);
        let asking = message(connection, options, &sql);
        let asking = connection.fetch_one(asking);
        let row = within(ACQUIRE, asking).await.and_then(|row| row.ok());
        let asked = Self::default();
        if let Some(row) = row
            && let Ok(identity) = Reader::new(&row).text()
        {
            asked.learn(identity);
        }
        asked
    }

    /// The identity, unless it is in doubt.
    pub(super) fn known(&self) -> Option<Arc<str>> {
        let known = self.lock();
        known.identity.clone().filter(|_| !known.is_doubtful)
    }

    /// The storage may be in another database: whoever needs to know next has to ask.
    pub(super) fn doubt(&self) {
        self.lock().is_doubtful = true;
    }

    /// The server said which one it is. Whether that is another one than before.
    pub(super) fn learn(&self, identity: &str) -> bool {
        let mut known = self.lock();
        known.is_doubtful = false;
        if known.identity.as_deref() == Some(identity) {
            return false;
        }
        known.identity.replace(identity.into()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, KnownIdentity> {
        self.0.lock()
    }
}
