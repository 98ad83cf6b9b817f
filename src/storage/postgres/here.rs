//! Which database of which server the storage is in: the incarnation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::columns::{Reader, not_understood};
use super::connect::{ACQUIRE, within};
use super::core::Core;
use super::options::PostgresOptions;
use super::settings::message;
use super::template::for_schema;
use crate::error::{Error, ErrorKind, Result};

/// The place, as the server says it; unknown at first.
#[derive(Debug, Default)]
pub(super) struct Here(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    place: Option<Arc<str>>,
    /// It may be another one by now.
    is_doubtful: bool,
}

impl Here {
    /// As this connection of the storage says; unknown if it does not.
    pub(super) async fn ask(connection: &mut PgConnection, options: &PostgresOptions) -> Self {
        let sql = for_schema("SELECT {schema}.incarnation()::text", &options.schema);
        let asking = message(connection, options, &sql);
        let asking = connection.fetch_one(asking);
        let row = within(ACQUIRE, asking).await.and_then(|row| row.ok());
        let here = Self::default();
        if let Some(row) = row
            && let Ok(place) = Reader::new(&row).text()
        {
            here.learn(place);
        }
        here
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> Option<Arc<str>> {
        let state = self.state();
        state.place.clone().filter(|_| !state.is_doubtful)
    }

    /// Whoever needs it next has to ask.
    pub(super) fn doubt(&self) {
        self.state().is_doubtful = true;
    }

    /// Whether it is another one than before.
    fn learn(&self, place: &str) -> bool {
        let mut state = self.state();
        state.is_doubtful = false;
        if state.place.as_deref() == Some(place) {
            return false;
        }
        state.place.replace(place.into()).is_some()
    }
}

impl Core {
    /// Where the storage is: learnt when it was opened, or when its listener came back; asked for only if
    /// that is in doubt.
    pub(super) async fn here(self: &Arc<Self>) -> Result<Arc<str>> {
        if let Some(place) = self.here.known() {
            return Ok(place);
        }
        let rows = self.run(&self.aside, &self.sql.here, &[]).await?;
        let row = rows.first().ok_or_else(not_understood)?;
        let Some(place) = Reader::new(row).optional_text()? else {
            // Whoever asks is about to write.
            self.doubt_sessions();
            let text = format!(
                "{} is a standby, which takes no writes: connect to the primary, or wait until it is one",
                self.server.name()
            );
            return Err(Error::new(ErrorKind::Unavailable, text));
        };
        let place: Arc<str> = place.into();
        if self.is_at(&place) {
            self.listening.leave();
        }
        Ok(place)
    }

    /// The server said where the storage is. After a failover, what had been moved out of the outbox may
    /// be there again. Whether it is another place than before.
    pub(super) fn is_at(self: &Arc<Self>, place: &str) -> bool {
        if !self.here.learn(place) {
            return false;
        }
        tracing::warn!(
            schema = self.schema,
            "this is another server than before, after a failover or a restore: what the one before \
             had acknowledged and not passed on is lost"
        );
        // They may lead to the server before.
        self.pool.forget();
        self.leases.forget();
        self.move_soon();
        true
    }
}
