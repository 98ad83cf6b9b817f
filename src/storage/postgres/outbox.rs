//! The outbox: what transactions of the application appended is kept with what else they wrote, and moved
//! into the log once they have committed.

use std::sync::Arc;

use super::announcer::Announcer;
use super::columns::{Reader, not_understood};
use super::executor::Executor;
use super::in_flight::{InFlight, InFlightGuard};
use super::pieces::Pieces;
use super::value::Value;
use crate::error::Result;
use crate::storage::{Name, Notification, Partition};
use crate::sync::Mutex;

/// Moves what lies in the outbox into the log.
pub(super) struct Outbox {
    executor: Arc<Executor>,
    in_flight: InFlight,
    announcer: Arc<Announcer>,
    pieces: Pieces,
    /// What the last move saw, and where; so the next one begins where that ended. Taken alone.
    seen: Mutex<Option<String>>,
}

impl Outbox {
    pub(super) fn new(
        executor: Arc<Executor>,
        in_flight: InFlight,
        announcer: Arc<Announcer>,
    ) -> Self {
        Self {
            executor,
            in_flight,
            announcer,
            pieces: Pieces::default(),
            seen: Mutex::default(),
        }
    }

    /// Moves what committed transactions have left, piece by piece, and tells of it. What a piece saw is
    /// remembered once it was done, so that the next begins where it ended.
    pub(super) async fn move_committed(&self, guard: &InFlightGuard) -> Result<()> {
        let (executor, in_flight) = (&self.executor, &self.in_flight);
        let moving = (&executor.pools.aside, &executor.sql.move_outbox);
        loop {
            let seen = self.seen();
            let values = [Value::OptionalText(seen.as_deref())];
            let rows = self.pieces.run(executor, in_flight, moving, &values);
            let rows = rows.await?;
            let mut ends = Vec::with_capacity(rows.len());
            let mut is_more = false;
            for row in &rows {
                let mut columns = Reader::new(row);
                let (stream, index) = (columns.text()?, columns.int()?);
                let end = columns.offset()?;
                self.saw(columns.text()?);
                is_more = columns.bool()?;
                if !stream.is_empty() {
                    let partition = Partition {
                        stream: Name::new(stream)?,
                        index: index.ok_or_else(not_understood)? as u32,
                    };
                    ends.push(Notification::Appended(partition, end));
                }
            }
            if !ends.is_empty() {
                self.announcer.announce(guard, ends);
            }
            if !is_more {
                return Ok(());
            }
        }
    }

    fn seen(&self) -> Option<String> {
        let seen = self.seen.lock();
        seen.clone()
    }

    fn saw(&self, text: &str) {
        let mut seen = self.seen.lock();
        *seen = (!text.is_empty()).then(|| text.to_owned());
    }
}
