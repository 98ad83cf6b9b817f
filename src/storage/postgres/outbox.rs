//! What transactions of the application append: kept with what else they write, and moved into the
//! log once they have committed.

use std::sync::Arc;

use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::append::{Rows, arrays, columns};
use super::columns::{Columns, Reader, not_understood};
use super::core::Core;
use super::gate::Pass;
use super::tell::tell;
use super::user::Transaction;
use super::value::Value;
use crate::error::Result;
use crate::storage::{Append, Id, Name, Notification, Partition, Row};

impl Core {
    /// Leaves the rows in the outbox, as part of a transaction of the application, whose end is
    /// looked for from then on.
    pub(crate) async fn append_in(
        self: &Arc<Self>,
        transaction: &mut PgConnection,
        append: &Append,
    ) -> Result<()> {
        let here = self.here().await?;
        let row = match &*append.rows {
            [row] => self.append_one_in(transaction, &here, append.id, row).await,
            _ => self.append_many_in(transaction, &here, append).await,
        };
        let xid = Reader::new(&row?).xid()?;
        self.follow_append(Transaction { place: here, xid });
        Ok(())
    }

    async fn append_one_in(
        &self,
        transaction: &mut PgConnection,
        here: &str,
        id: Id,
        row: &Row,
    ) -> Result<PgRow> {
        let columns = Columns::of(&row.records);
        let values = [
            Value::Text(here),
            Value::Id(Uuid::from_u128(id.0)),
            Value::Text(row.partition.stream.as_str()),
            Value::Int(row.partition.index as i32),
            Value::Int(columns.count),
            Value::Bytes(Some(&columns.ends)),
            Value::Bytes(Some(&columns.bodies)),
            Value::Bytes(columns.attribute_ends()),
            Value::Bytes(columns.attributes()),
        ];
        self.within(transaction, &self.sql.append_one_in, &values)
            .await
    }

    async fn append_many_in(
        &self,
        transaction: &mut PgConnection,
        here: &str,
        append: &Append,
    ) -> Result<PgRow> {
        let (streams, partitions) = arrays(append.rows.iter().map(|row| row.partition.clone()));
        let columns = columns(append);
        let rows = Rows::of(&columns);
        let [counts, ends, bodies, attribute_ends, attributes] = rows.values();
        let values = [
            Value::Text(here),
            Value::Id(Uuid::from_u128(append.id.0)),
            Value::Texts(&streams),
            Value::Ints(&partitions),
            counts,
            ends,
            bodies,
            attribute_ends,
            attributes,
        ];
        self.within(transaction, &self.sql.append_many_in, &values)
            .await
    }

    /// Moves what committed transactions have left, piece by piece, and tells of it. What a piece saw is
    /// remembered once it was done, so that the next begins where it ended.
    pub(super) async fn move_outbox(self: &Arc<Self>, pass: &Pass) -> Result<()> {
        loop {
            let seen = self.users.seen();
            let values = [Value::OptionalText(seen.as_deref())];
            let moving = self.run_piece(&self.aside, &self.sql.move_outbox, &self.moves, &values);
            let rows = moving.await?;
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
