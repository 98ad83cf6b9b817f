//! What is done within a transaction of the application: appending, and committing messages.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::arrays::{RowArrays, columns_of, partition_arrays};
use super::columns::{Columns, Reader, not_understood};
use super::executor::Executor;
use super::fail::Fail;
use super::failover::Failover;
use super::open_transactions::{Ending, Transaction};
use super::session::forget_plans;
use super::sqlstate::{Fate, Meaning};
use super::tracker::TransactionTracker;
use super::value::{Value, as_bigint, write_into};
use crate::error::{Error, Result};
use crate::storage::{Append, Group, Id, Lease, Row};

/// What a storage does within transactions of the application.
pub(crate) struct Transactions {
    executor: Arc<Executor>,
    failover: Arc<Failover>,
    tracker: Arc<TransactionTracker>,
}

/// What became of the commit of a message in a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CommitOutcome {
    /// The commit stands in this transaction.
    Stands(Transaction),
    /// The lease was lost: the transaction cannot commit.
    Fenced,
    /// Another transaction has done the message: this one cannot commit.
    Taken,
}

impl Transactions {
    pub(super) fn new(
        executor: Arc<Executor>,
        failover: Arc<Failover>,
        tracker: Arc<TransactionTracker>,
    ) -> Self {
        Self {
            executor,
            failover,
            tracker,
        }
    }

    /// Leaves the rows in the outbox, as part of a transaction of the application, whose end is
    /// looked for from then on.
    pub(crate) async fn append_in(
        &self,
        transaction: &mut PgConnection,
        append: &Append,
    ) -> Result<()> {
        let database = self.failover.identity().await?;
        let row = match &*append.rows {
            [row] => {
                self.append_one_in(transaction, &database, append.id, row)
                    .await
            }
            _ => self.append_many_in(transaction, &database, append).await,
        };
        let xid = Reader::new(&row?).xid()?;
        self.tracker.track_append(Transaction { database, xid });
        Ok(())
    }

    /// The message is done if the transaction commits.
    pub(crate) async fn commit_in(
        &self,
        transaction: &mut PgConnection,
        lease: &Lease,
        offset: u64,
    ) -> Result<CommitOutcome> {
        let database = self.failover.identity().await?;
        let of = &lease.group.partition;
        let values = [
            Value::Text(&database),
            Value::Text(of.stream.as_str()),
            Value::Int(of.index as i32),
            Value::Text(lease.group.name.as_str()),
            Value::Id(Uuid::from_u128(lease.owner.0)),
            Value::Bigint(as_bigint(lease.epoch)),
            Value::Bigint(as_bigint(offset)),
        ];
        let row = self
            .run(transaction, &self.executor.sql.commit_in, &values)
            .await?;
        let mut columns = Reader::new(&row);
        match columns.text()? {
            "done" => {
                let xid = columns.xid()?;
                Ok(CommitOutcome::Stands(Transaction { database, xid }))
            }
            "fenced" => Ok(CommitOutcome::Fenced),
            "taken" => Ok(CommitOutcome::Taken),
            _ => Err(not_understood()),
        }
    }

    /// Looks from now on for the end of a transaction that commits a message.
    pub(crate) fn track_ack(
        &self,
        transaction: Transaction,
        group: Group,
        offset: u64,
        ending: Ending,
    ) {
        self.tracker.track_ack(transaction, group, offset, ending);
    }

    async fn append_one_in(
        &self,
        transaction: &mut PgConnection,
        database: &str,
        id: Id,
        row: &Row,
    ) -> Result<PgRow> {
        let columns = Columns::of(&row.records);
        let values = [
            Value::Text(database),
            Value::Id(Uuid::from_u128(id.0)),
            Value::Text(row.partition.stream.as_str()),
            Value::Int(row.partition.index as i32),
            Value::Int(columns.count),
            Value::Bytes(Some(&columns.ends)),
            Value::Bytes(Some(&columns.bodies)),
            Value::Bytes(columns.attribute_ends()),
            Value::Bytes(columns.attributes()),
        ];
        self.run(transaction, &self.executor.sql.append_one_in, &values)
            .await
    }

    async fn append_many_in(
        &self,
        transaction: &mut PgConnection,
        database: &str,
        append: &Append,
    ) -> Result<PgRow> {
        let partitions = append.rows.iter().map(|row| row.partition.clone());
        let (streams, partitions) = partition_arrays(partitions);
        let columns = columns_of(append);
        let rows = RowArrays::of(&columns);
        let [counts, ends, bodies, attribute_ends, attributes] = rows.values();
        let values = [
            Value::Text(database),
            Value::Id(Uuid::from_u128(append.id.0)),
            Value::Texts(&streams),
            Value::Ints(&partitions),
            counts,
            ends,
            bodies,
            attribute_ends,
            attributes,
        ];
        self.run(transaction, &self.executor.sql.append_many_in, &values)
            .await
    }

    /// Runs a statement that gives one row on the connection of a transaction. What goes wrong there
    /// leaves the transaction failed.
    async fn run(
        &self,
        transaction: &mut PgConnection,
        sql: &Arc<str>,
        values: &[Value<'_>],
    ) -> Result<PgRow> {
        let answer = if self.executor.is_direct {
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
                self.heed(transaction, &fail).await;
                Err(self.explain(fail))
            }
        }
    }

    /// What a statement found out about the session, which stays with the application: that can only roll
    /// back.
    async fn heed(&self, session: &mut PgConnection, fail: &Fail) {
        match fail.fate() {
            Fate::Outdated => {
                // Else the next transaction there fails as well.
                forget_plans(session).await;
            }
            Fate::ReadOnly => {
                self.failover.doubt();
                self.executor.pools.doubt();
            }
            Fate::Ends | Fate::Stays => {}
        }
    }

    fn explain(&self, fail: Fail) -> Error {
        let meaning = fail.meaning();
        if matches!(meaning, Meaning::OtherDatabase | Meaning::SchemaIncomplete) {
            // After a failover the storage may be in another place than it was.
            self.failover.doubt();
        }
        self.executor.server.explain_in_transaction(fail)
    }
}
