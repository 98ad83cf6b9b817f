//! Within a transaction of the application.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::columns::{Reader, not_understood};
use super::core::Core;
use super::fail::Fail;
use super::sqlstate::Meaning;
use super::log::as_bigint;
use super::value::{Value, write_into};
use crate::error::{Error, Result};
use crate::storage::Lease;

/// A transaction of the application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Transaction {
    /// Where its id counts.
    pub(super) place: Arc<str>,
    pub(crate) xid: u64,
}

/// What became of the commit of a message in a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It stands in this one.
    Stands(Transaction),
    /// The lease was lost: the transaction cannot commit.
    Fenced,
    /// Another transaction has done the message: this one cannot commit.
    Taken,
}

impl Core {
    pub(crate) async fn commit_in(
        self: &Arc<Self>,
        transaction: &mut PgConnection,
        lease: &Lease,
        offset: u64,
    ) -> Result<Outcome> {
        let here = self.here().await?;
        let of = &lease.group.partition;
        let values = [
            Value::Text(&here),
            Value::Text(of.stream.as_str()),
            Value::Int(of.index as i32),
            Value::Text(lease.group.name.as_str()),
            Value::Id(Uuid::from_u128(lease.owner.0)),
            Value::Bigint(as_bigint(lease.epoch)),
            Value::Bigint(as_bigint(offset)),
        ];
        let row = self
            .within(transaction, &self.sql.commit_in, &values)
            .await?;
        let mut columns = Reader::new(&row);
        match columns.text()? {
            "done" => {
                let xid = columns.xid()?;
                Ok(Outcome::Stands(Transaction { place: here, xid }))
            }
            "fenced" => Ok(Outcome::Fenced),
            "taken" => Ok(Outcome::Taken),
            _ => Err(not_understood()),
        }
    }

    /// Runs a statement that gives one row on the connection of a transaction. What goes wrong there
    /// leaves the transaction failed.
    pub(super) async fn within(
        &self,
        transaction: &mut PgConnection,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<PgRow> {
        let answer = if self.is_direct {
            let query = sqlx::query(AssertSqlSafe(sql.clone()));
            let query = values.iter().fold(query, |query, value| value.bind(query));
            query.fetch_one(&mut *transaction).await
        } else {
            let sql = write_into(sql, values);
            sqlx::raw_sql(AssertSqlSafe(sql))
                .fetch_one(&mut *transaction)
                .await
        };
        match answer.map_err(Fail::Running) {
            Ok(row) => Ok(row),
            Err(fail) => {
                self.heed_within(transaction, &fail).await;
                Err(self.explain_within(fail))
            }
        }
    }

    fn explain_within(&self, fail: Fail) -> Error {
        if matches!(fail.meaning(), Meaning::OtherDatabase | Meaning::SchemaIncomplete) {
            // After a failover the storage may be in another place than it was.
            self.here.doubt();
        }
        self.server.explain_in_transaction(fail)
    }
}
