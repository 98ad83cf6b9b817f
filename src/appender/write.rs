//! A statement under way: attempts, and what becomes of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::landing::Landing;
use super::statement::Statement;
use crate::caught::caught;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::Pauses;
use crate::storage::{Append, Appended, Id};

impl Shared {
    /// Writes a statement, and answers all who wait for it. Nothing is written before the statement
    /// that this one follows.
    pub(super) async fn write(
        &self,
        mut statement: Statement,
        landing: Arc<Landing>,
        mut before: Option<Arc<Landing>>,
    ) {
        let mut is_in_log = false;
        let mut id = landing.id();
        // What is left to write after an error that is about one of the units.
        let mut behind = VecDeque::new();
        let mut pauses = Pauses::default();
        loop {
            let append = statement.seal(id, before.as_ref().map(|before| before.id()));
            let witness = self.watch.witness(&append.rows);
            let began = self.clock.now();
            let before_it = before.as_deref();
            let attempt = self.attempt(&mut statement, &append, before_it, &mut pauses);
            let answer = attempt.await;
            if let Ok(Appended::Written(rows)) = &answer {
                witness.wrote(&append.rows, rows);
            }
            let landed = match answer {
                Ok(answer @ (Appended::Written(_) | Appended::Known(_))) => {
                    let bases = answer.bases().unwrap_or_default();
                    std::mem::take(&mut statement).written(&bases, began, &self.storage);
                    true
                }
                Ok(Appended::Early) if before.take().is_none() => {
                    statement.failed(&early());
                    break;
                }
                // In a box: it is rare, and large.
                refused => {
                    let taken = std::mem::take(&mut statement);
                    let concluding = self.conclude(taken, refused, began, &mut behind);
                    let landed;
                    (statement, landed) = Box::pin(concluding).await;
                    landed
                }
            };
            is_in_log |= landed && id == landing.id();
            while statement.is_empty() {
                match behind.pop_front() {
                    Some(next) => statement = self.without_what_goes(next),
                    None => return landing.end(is_in_log),
                }
            }
            id = Id::random();
        }
        landing.end(is_in_log);
    }

    /// What is left of a statement after an answer, to go at once under a new id; and whether it
    /// landed. Units of a lease that was lost are taken out. Where a stream is gone, each goes on its
    /// own, behind what is left.
    async fn conclude(
        &self,
        statement: Statement,
        answer: Result<Appended>,
        began: Duration,
        behind: &mut VecDeque<Statement>,
    ) -> (Statement, bool) {
        let (routes, storage) = (&self.routes, &self.storage);
        let error = match answer {
            Ok(Appended::Early) => {
                // It follows nothing any more. An attempt of it may be under way all the same.
                let (rest, landed) = self.refute(statement, began).await;
                return (self.without_what_goes(rest), landed);
            }
            Ok(Appended::Fenced(leases)) => {
                return (statement.without(&leases, routes, storage), false);
            }
            Ok(Appended::Refused) => return (statement.again(routes, storage), false),
            Ok(written) => {
                let bases = written.bases().unwrap_or_default();
                statement.written(&bases, began, storage);
                return (Statement::default(), true);
            }
            Err(error) => error,
        };
        if error.kind() != ErrorKind::NotFound {
            statement.failed(&error);
            return (Statement::default(), false);
        }
        if !statement.is_shared() {
            // Made again for the next that goes there.
            routes.doubt(&statement.partitions());
            statement.failed(&error);
            return (Statement::default(), false);
        }
        let (rest, landed) = match error.in_doubt() {
            true => self.refute(statement, began).await,
            false => (statement, false),
        };
        behind.extend(rest.apart(routes, storage));
        (Statement::default(), landed)
    }

    fn without_what_goes(&self, statement: Statement) -> Statement {
        statement.unchained(&self.routes, &self.storage)
    }

    /// Gives a statement to the storage until it answers for good, or until the budgets of all in it
    /// are over. One whose budget is over before the others is answered by itself: where no attempt
    /// of it can have landed, the others have to go without it, as after a refusal.
    async fn attempt(
        &self,
        statement: &mut Statement,
        append: &Arc<Append>,
        before: Option<&Landing>,
        pauses: &mut Pauses,
    ) -> Result<Appended> {
        let mut in_doubt = false;
        let mut has_waited = false;
        loop {
            let attempt = caught("append", || self.storage.append(append.clone())).await;
            let error = match (attempt, before) {
                (Ok(Appended::Early), Some(before)) if !has_waited && before.landed().await => {
                    has_waited = true;
                    continue;
                }
                (Ok(answer), _) => {
                    self.failure.clear();
                    return Ok(answer);
                }
                (Err(error), _) => error,
            };
            in_doubt |= error.in_doubt();
            let error = if in_doubt { error.with_doubt() } else { error };
            if !error.is_transient() {
                return Err(error);
            }
            self.fails(&self.failure, &error);
            let next = self.clock.now().saturating_add(pauses.next());
            if statement.is_overdue(next) {
                return Err(error);
            }
            let is_smaller = statement.give_up(next, &error);
            tracing::debug!(%error, ?next, "trying again");
            self.clock.sleep_until(next).await;
            if is_smaller && !in_doubt {
                return Ok(Appended::Refused);
            }
        }
    }

    /// Sees to it that a statement does not land any more. If it has landed already, or nobody can
    /// tell, all are answered; else it comes back. And whether it has landed.
    async fn refute(&self, statement: Statement, began: Duration) -> (Statement, bool) {
        let Some(id) = statement.id() else {
            return (statement, false);
        };
        let partitions = statement.partitions();
        match self.settle(id, &partitions, statement.deadline()).await {
            Ok(Some(bases)) => {
                statement.written(&bases, began, &self.storage);
                (Statement::default(), true)
            }
            Ok(None) => (statement, false),
            Err(error) => {
                statement.failed(&error.with_doubt());
                (Statement::default(), false)
            }
        }
    }
}

/// Said by a storage of an append that follows none.
fn early() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the storage waits for an append that this one does not follow: a defect of its driver, which \
         should be reported",
    )
}
