//! Transactions of the application, in the PostgreSQL database that the streams are in too: what it
//! writes, what it appends and what it has consumed become durable together, or not at all.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use flowstream::Message;
//! use flowstream::postgres::{self, DeliveryExt, ProducerExt, sqlx};
//!
//! let pool = sqlx::PgPool::connect("postgres://localhost/shop").await?;
//! let flow = flowstream::Flowstream::from_pool(pool.clone()).await?;
//! let mut shipped = flow.producer("shipped").await?;
//! let mut orders = flow.consumer("orders", "shipping").await?;
//! while let Some(order) = orders.try_next().await? {
//!     let mut tx = pool.begin().await?;
//!     sqlx::query("UPDATE stock SET left = left - 1").execute(&mut *tx).await?;
//!     shipped.append_in(&mut tx, Message::new(order.body().clone())).await?;
//!     order.commit_in(&mut tx).await?;
//!     postgres::commit(tx).await?; // all three, or none
//! }
//! # Ok(()) }
//! ```
//!
//! The transaction may be of any isolation level. Only two things in it are this crate's, a row a call;
//! they lock nothing that others need, so a transaction may stay open: it delays nobody but itself.

use std::any::Any;
use std::sync::Arc;

pub use sqlx;
use sqlx::Row;
use sqlx::postgres::PgTransaction;

use crate::consumer::Delivery;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{AppendError, Batch};
use crate::producer::Producer;
use crate::session::{Commit, Session};
use crate::storage::Storage;
use crate::storage::postgres::{
    CommitOutcome, CommitStep, Ending, PostgresStorage, Transactions, ended, explain_commit,
};

/// Appending as part of a transaction.
pub trait ProducerExt: sealed::Sealed {
    /// Appends messages when the transaction commits, together or not at all, over several streams
    /// and partitions too; those of one transaction in the order of the calls.
    ///
    /// They come behind what had committed when the call was made. So transactions that take a lock of
    /// the application (a row that they update, say) and append then have their messages in the order
    /// in which they had the lock. What is appended before that lock is taken, or with none, comes in
    /// any order with what other transactions append at that time.
    ///
    /// They stand in a table beside the log (the outbox) until then, and are moved into the log soon
    /// after: at once after [`commit`], within about a second after a plain `commit` of the
    /// transaction; if the process ends before, within seconds by another one that consumes, or by
    /// whatever process opens the storage next. So their offsets are not
    /// known here, and no partition is locked while the transaction runs. A transaction that is rolled
    /// back leaves nothing, and no gap.
    ///
    /// What the sink accepted goes its own way, before or after.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported): the producer's storage is not PostgreSQL.
    /// [`Invalid`](ErrorKind::Invalid): a message, or all together, is over the limit; commits ride in
    /// them; they are in doubt; the transaction is in another database, or has failed before.
    /// [`Unavailable`](ErrorKind::Unavailable): the server cannot take them now. After an error of the
    /// server the transaction can only be rolled back. The error has the messages:
    /// [`AppendError::unsent`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, the messages may or may not be part of the transaction: roll it
    /// back.
    fn append_in(
        &mut self,
        transaction: &mut PgTransaction<'_>,
        messages: impl Into<Batch> + Send,
    ) -> impl Future<Output = Result<(), AppendError>> + Send;
}

/// Committing a delivery as part of a transaction.
pub trait DeliveryExt: sealed::Sealed {
    /// The delivery is done when the transaction commits, with everything else that it wrote: exactly
    /// once, whatever crashes.
    ///
    /// Then drop the delivery, and give no other verdict on it. Until the transaction is over it is
    /// delivered to nobody; if it is rolled back, the message comes again after
    /// [`redeliver_after`](crate::ConsumerBuilder::redeliver_after), or may be given to another
    /// transaction by who still holds it.
    ///
    /// If the lease was lost, or is lost before the commit, **the transaction cannot commit**: the
    /// server refuses, in every isolation level, also if this error is not heeded. That holds for the
    /// transaction that the call is part of; who rolls back a savepoint before it takes the call back
    /// as well, and commits the rest without it. In repeatable read and serializable, a commit that
    /// comes just after a change of the lease may also fail as a serialization failure.
    ///
    /// Locks nothing until the commit, so a transaction that idles keeps no takeover waiting; it
    /// waits only for another transaction that is about to commit the same delivery.
    ///
    /// # Errors
    ///
    /// [`Fenced`](ErrorKind::Fenced): the lease was lost, and the message reaches the new owner.
    /// [`Invalid`](ErrorKind::Invalid): another transaction has done this message; this one is in
    /// another database, or has failed before. [`Unavailable`](ErrorKind::Unavailable): a collision
    /// with another transaction, or the server is gone. [`Unsupported`](ErrorKind::Unsupported): it was
    /// not delivered from PostgreSQL. Roll back after any of them.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, the commit may or may not be part of the transaction: roll it back.
    /// If the delivery is then dropped as well, its lease is given up, since nobody can find out.
    fn commit_in(
        &self,
        transaction: &mut PgTransaction<'_>,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// Commits a transaction, as its own `commit` does, and says so only if it has.
///
/// The server turns the commit of a transaction in which a statement has failed into a rollback, of
/// which `commit` of sqlx says Ok. Here that is an error. What was appended in it is moved into the log
/// at once. The inner one of two nested transactions is not over with this: its savepoint is released.
///
/// # Errors
///
/// [`Fenced`](ErrorKind::Fenced): it holds the commit of a delivery whose lease was lost.
/// [`Invalid`](ErrorKind::Invalid): a statement of it has failed, a message in it was done by another
/// transaction, or a constraint of the application does not hold.
/// [`Unavailable`](ErrorKind::Unavailable): it collided with another transaction, or the server is gone.
/// Nothing was written then, unless the error is [in doubt](Error::in_doubt): the answer to the commit
/// got lost, and it may have succeeded. A delivery in it comes again only if it has not.
///
/// # Cancel safety
///
/// Dropped before it is ready, the transaction may or may not have committed.
pub async fn commit(mut transaction: PgTransaction<'_>) -> Result<()> {
    // Fails if an earlier statement has.
    let asked =
        sqlx::raw_sql("SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text");
    let asked = asked.fetch_one(&mut *transaction).await;
    let xid = asked.and_then(|row| row.try_get::<Option<String>, _>(0));
    let xid = match xid {
        Ok(xid) => xid.and_then(|xid| xid.parse().ok()),
        Err(error) => {
            // If that fails, too, the connection is gone, and with it the transaction.
            let _ = transaction.rollback().await;
            return Err(explain_commit(&error, CommitStep::Before));
        }
    };
    let result = transaction.commit().await;
    if let Some(xid) = xid {
        ended(xid);
    }
    result.map_err(|error| explain_commit(&error, CommitStep::Committing))
}

impl ProducerExt for Producer {
    async fn append_in(
        &mut self,
        transaction: &mut PgTransaction<'_>,
        messages: impl Into<Batch> + Send,
    ) -> Result<(), AppendError> {
        let batch = messages.into();
        let transactions = match transactions(self.context().storage()) {
            Ok(transactions) => transactions.clone(),
            Err(error) => return Err(AppendError::new(error, batch)),
        };
        let (append, batch) = self.to_rows(batch).await?;
        if append.rows.is_empty() {
            return Ok(());
        }
        let written = transactions.append_in(transaction, &append).await;
        written.map_err(|error| AppendError::new(error, batch))
    }
}

impl DeliveryExt for Delivery {
    async fn commit_in(&self, transaction: &mut PgTransaction<'_>) -> Result<()> {
        self.handle().commit_in(transaction).await
    }
}

impl DeliveryExt for Commit {
    async fn commit_in(&self, transaction: &mut PgTransaction<'_>) -> Result<()> {
        let (session, offset) = (self.session(), self.offset());
        let transactions = transactions(session.storage())?;
        // Before it is sent: if this future is dropped meanwhile, it may be written all the same.
        let before = session.join_transaction(offset, None);
        let put_back = || match before {
            Some(_) => drop(session.join_transaction(offset, before)),
            None => session.leave_transaction(offset),
        };
        match transactions
            .commit_in(transaction, session.lease(), offset)
            .await
        {
            Ok(CommitOutcome::Stands(stands_in)) => {
                session.join_transaction(offset, Some(stands_in.xid));
                let ending = ending(session, offset, stands_in.xid);
                let group = session.lease().group.clone();
                transactions.track_ack(stands_in, group, offset, ending);
                Ok(())
            }
            Ok(CommitOutcome::Fenced) => {
                put_back();
                session.fence();
                Err(session.end_error())
            }
            Ok(CommitOutcome::Taken) => {
                put_back();
                Err(Error::invalid(format!(
                    "the message at offset {offset} is done by another transaction, {}: roll this \
                     one back",
                    session.lease().group
                )))
            }
            Err(error) => {
                put_back();
                Err(error)
            }
        }
    }
}

/// A session that is gone has nobody to deliver anything to.
fn ending(session: &Arc<Session>, offset: u64, xid: u64) -> Ending {
    let session = Arc::downgrade(session);
    Ending::new(move |is_done| {
        if let Some(session) = session.upgrade() {
            session.transaction_ended(offset, xid, is_done);
        }
    })
}

fn transactions(storage: &Arc<dyn Storage>) -> Result<&Arc<Transactions>> {
    let storage: &dyn Any = &**storage;
    let storage = storage.downcast_ref::<PostgresStorage>();
    storage.map(PostgresStorage::transactions).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "append_in and commit_in are for PostgreSQL: another storage takes no part in transactions \
             of the application; use append and commit",
        )
    })
}

mod sealed {
    use super::{Commit, Delivery, Producer};

    pub trait Sealed {}

    impl Sealed for Producer {}
    impl Sealed for Delivery {}
    impl Sealed for Commit {}
}
