//! Noticing that the storage is in another database than before: after a failover, or a restore.

use std::sync::Arc;

use super::columns::{Reader, not_understood};
use super::executor::Executor;
use super::identity::DatabaseIdentity;
use super::tracker::TransactionTracker;
use crate::error::{Error, ErrorKind, Result};

/// Knows in which database the storage is, and has everybody leave the one before.
pub(super) struct Failover {
    executor: Arc<Executor>,
    identity: DatabaseIdentity,
    tracker: Arc<TransactionTracker>,
}

impl Failover {
    pub(super) fn new(
        executor: Arc<Executor>,
        identity: DatabaseIdentity,
        tracker: Arc<TransactionTracker>,
    ) -> Self {
        Self {
            executor,
            identity,
            tracker,
        }
    }

    /// The database that the storage is in: learnt when it was opened, or when its listener came back;
    /// asked for only if that is in doubt.
    pub(super) async fn identity(&self) -> Result<Arc<str>> {
        if let Some(identity) = self.identity.known() {
            return Ok(identity);
        }
        let (aside, sql) = (&self.executor.pools.aside, &self.executor.sql.identity);
        let rows = self.executor.run(aside, sql, &[]).await?;
        let row = rows.first().ok_or_else(not_understood)?;
        let Some(identity) = Reader::new(row).optional_text()? else {
            // Whoever asks is about to write.
            self.executor.pools.doubt();
            let text = format!(
                "{} is a standby, which takes no writes: connect to the primary, or wait until it is one",
                self.executor.server.name()
            );
            return Err(Error::new(ErrorKind::Unavailable, text));
        };
        let identity: Arc<str> = identity.into();
        if self.learn(&identity) {
            self.executor.pools.listener.leave();
        }
        Ok(identity)
    }

    /// The storage may be in another database: whoever needs to know next has to ask.
    pub(super) fn doubt(&self) {
        self.identity.doubt();
    }

    /// The server said which database this is; whether it is another one than before. After a failover,
    /// what had been moved out of the outbox may be there again.
    pub(super) fn learn(&self, identity: &str) -> bool {
        if !self.identity.learn(identity) {
            return false;
        }
        tracing::warn!(
            schema = self.executor.schema,
            "this is another server than before, after a failover or a restore: what the one before \
             had acknowledged and not passed on is lost"
        );
        // They may lead to the server before.
        self.executor.pools.forget();
        self.tracker.move_soon();
        true
    }
}
