//! What transactions of the application append: kept with what else they write, and moved into the
//! log once they have committed.

use std::sync::Arc;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::append::{Rows, arrays, columns};
use super::columns::{Reader, not_understood};
use super::core::Core;
use super::gate::Pass;
use super::tell::tell;
use super::value::Value;
use crate::error::Result;
use crate::storage::{Append, Name, Notification, Partition};

/// How many rows one move takes, more or less: it takes transactions as a whole.
const AT_MOST: i32 = 10_000;

impl Core {
    /// Leaves the rows in the outbox, as part of a transaction of the application, whose end is
    /// looked for from then on.
    pub(crate) async fn append_in(
        self: &Arc<Self>,
        transaction: &mut PgConnection,
        append: &Append,
    ) -> Result<()> {
        let here = self.here().await?;
        let (streams, partitions) = arrays(append.rows.iter().map(|row| row.partition.clone()));
        let columns = columns(append);
        let rows = Rows::of(&columns);
        let [counts, ends, bodies, attribute_ends, attributes] = rows.values();
        let values = [
            Value::Text(&here),
            Value::Id(Uuid::from_u128(append.id.0)),
            Value::Texts(&streams),
            Value::Ints(&partitions),
            counts,
            ends,
            bodies,
            attribute_ends,
            attributes,
        ];
        let row = self.within(transaction, &self.sql.append_in, &values);
        let xid = Reader::new(&row.await?).xid()?;
        self.follow_append(xid);
        Ok(())
    }

    /// Moves what committed transactions have left, and tells of it.
    pub(super) async fn move_outbox(self: &Arc<Self>, pass: &Pass) -> Result<()> {
        loop {
            let seen = self.users.seen();
            let values = [Value::OptionalText(seen.as_deref()), Value::Int(AT_MOST)];
            let rows = self.run(&self.pool, &self.sql.move_outbox, &values).await?;
            let mut ends = Vec::with_capacity(rows.len());
            let mut is_more = false;
            for row in &rows {
                let mut columns = Reader::new(row);
                let (stream, index) = (columns.text()?, columns.int()?);
                let end = columns.offset()?;
                self.users.saw(columns.text()?.to_owned());
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
                tell(self, pass, ends);
            }
            if !is_more {
                return Ok(());
            }
        }
    }
}
