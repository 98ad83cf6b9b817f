//! A group write under way: attempts, and what becomes of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::completion::Completion;
use super::group_write::GroupWrite;
use super::shared::AppenderShared;
use crate::error::{Error, ErrorKind, Result};
use crate::panics::caught;
use crate::retry::Pauses;
use crate::storage::{Append, Appended, Id};

impl AppenderShared {
    /// Writes a group write, and answers all who wait for it. Nothing is written before the group write
    /// that this one follows.
    pub(super) async fn write(
        &self,
        mut group_write: GroupWrite,
        completion: Arc<Completion>,
        mut before: Option<Arc<Completion>>,
    ) {
        let mut is_in_log = false;
        let mut id = completion.id();
        // What is left to write after an error that is about one of the units.
        let mut behind = VecDeque::new();
        let mut pauses = Pauses::default();
        loop {
            let append = group_write.seal(id, before.as_ref().map(|before| before.id()));
            let observer = self.watch.observe_append(&append.rows);
            let began = self.clock.now();
            let before_it = before.as_deref();
            let attempt = self.attempt(&mut group_write, &append, before_it, &mut pauses);
            let answer = attempt.await;
            if let Ok(Appended::Written(rows)) = &answer {
                observer.wrote(&append.rows, rows);
            }
            let landed = match answer {
                Ok(answer @ (Appended::Written(_) | Appended::Known(_))) => {
                    let bases = answer.bases().unwrap_or_default();
                    std::mem::take(&mut group_write).written(&bases, began, &self.storage);
                    true
                }
                Ok(Appended::Early) if before.take().is_none() => {
                    group_write.failed(&early());
                    break;
                }
                // In a box: it is rare, and large.
                refused => {
                    let taken = std::mem::take(&mut group_write);
                    let concluding = self.conclude(taken, refused, began, &mut behind);
                    let landed;
                    (group_write, landed) = Box::pin(concluding).await;
                    landed
                }
            };
            is_in_log |= landed && id == completion.id();
            while group_write.is_empty() {
                match behind.pop_front() {
                    Some(next) => group_write = self.without_what_goes(next),
                    None => return completion.end(is_in_log),
                }
            }
            id = Id::random();
        }
        completion.end(is_in_log);
    }

    /// What is left of a group write after an answer, to go at once under a new id; and whether it
    /// landed. Units of a lease that was lost are taken out. Where a stream is gone, each goes on its
    /// own, behind what is left.
    async fn conclude(
        &self,
        group_write: GroupWrite,
        answer: Result<Appended>,
        began: Duration,
        behind: &mut VecDeque<GroupWrite>,
    ) -> (GroupWrite, bool) {
        let (routing, storage) = (&self.routing, &self.storage);
        let error = match answer {
            Ok(Appended::Early) => {
                // It follows nothing any more. An attempt of it may be under way all the same.
                let (rest, landed) = self.resolve(group_write, began).await;
                return (self.without_what_goes(rest), landed);
            }
            Ok(Appended::Fenced(leases)) => {
                return (group_write.without(&leases, routing, storage), false);
            }
            Ok(Appended::Refused) => return (group_write.again(routing, storage), false),
            Ok(written) => {
                let bases = written.bases().unwrap_or_default();
                group_write.written(&bases, began, storage);
                return (GroupWrite::default(), true);
            }
            Err(error) => error,
        };
        if error.kind() != ErrorKind::NotFound {
            group_write.failed(&error);
            return (GroupWrite::default(), false);
        }
        if !group_write.is_shared() {
            // Made again for the next that goes there.
            routing.invalidate(&group_write.partitions());
            group_write.failed(&error);
            return (GroupWrite::default(), false);
        }
        let (rest, landed) = match error.in_doubt() {
            true => self.resolve(group_write, began).await,
            false => (group_write, false),
        };
        behind.extend(rest.split(routing, storage));
        (GroupWrite::default(), landed)
    }

    fn without_what_goes(&self, group_write: GroupWrite) -> GroupWrite {
        group_write.without_failed(&self.routing, &self.storage)
    }

    /// Gives a group write to the storage until it answers for good, or until the budgets of all in it
    /// are over. One whose budget is over before the others is answered by itself: where no attempt
    /// of it can have landed, the others have to go without it, as after a refusal.
    async fn attempt(
        &self,
        group_write: &mut GroupWrite,
        append: &Arc<Append>,
        before: Option<&Completion>,
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
            if group_write.is_overdue(next) {
                return Err(error);
            }
            let is_smaller = group_write.give_up(next, &error);
            tracing::debug!(%error, ?next, "trying again");
            self.clock.sleep_until(next).await;
            if is_smaller && !in_doubt {
                return Ok(Appended::Refused);
            }
        }
    }

    /// Sees to it that a group write does not land any more. If it has landed already, or nobody can
    /// tell, all are answered; else it comes back. And whether it has landed.
    async fn resolve(&self, group_write: GroupWrite, began: Duration) -> (GroupWrite, bool) {
        let Some(id) = group_write.id() else {
            return (group_write, false);
        };
        let partitions = group_write.partitions();
        match self.settle(id, &partitions, group_write.deadline()).await {
            Ok(Some(bases)) => {
                group_write.written(&bases, began, &self.storage);
                (GroupWrite::default(), true)
            }
            Ok(None) => (group_write, false),
            Err(error) => {
                group_write.failed(&error.with_doubt());
                (GroupWrite::default(), false)
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
