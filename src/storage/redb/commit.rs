//! Group commit: all that waits in one transaction.

use std::sync::PoisonError;

use ::redb::{Database, ReadableDatabase};

use super::cache::Cache;
use super::core::{Core, Opened};
use super::error::{Fail, guarded};
use super::open::begin;
use super::queue::Operation;
use super::transaction::Transaction;
use crate::clock::to_micros;
use crate::storage::Notification;

type Group = Vec<Box<dyn Operation>>;

/// Where a round broke off.
enum Broken {
    /// Nothing was begun, because the file is not where it was.
    Gone(Fail),
    /// Nothing was begun.
    Begin(Fail),
    /// This operation failed, and nothing was written.
    Operation(usize, Fail),
    /// It may have been written.
    Commit(Fail),
}

impl Core {
    /// Writes the group and answers it. An operation that fails is taken out, and the others are
    /// written without it.
    pub(super) fn commit(&self, mut group: Group) {
        let mut was_reopened = false;
        while !group.is_empty() {
            let round = self.with_open(|opened| {
                let round = self.try_round(opened, &mut group);
                round.map_err(|broken| (opened.serial, broken))
            });
            let (serial, broken) = match round {
                Ok(Ok(notifications)) => {
                    group.drain(..).for_each(|operation| operation.finish(None));
                    return self.notifier.send(notifications);
                }
                Ok(Err(broken)) => broken,
                Err(error) => {
                    return group
                        .into_iter()
                        .for_each(|operation| operation.finish(Some(error.share())));
                }
            };
            match broken {
                Broken::Commit(fail) => return self.settle(group, serial, fail),
                Broken::Operation(index, fail) => {
                    if fail.is_lasting() {
                        // If that fails, the next round says so.
                        let _ = self.reopen(serial);
                    }
                    let error = fail.explain(&self.path);
                    group.remove(index).finish(Some(error));
                }
                Broken::Begin(_) if !was_reopened => {
                    was_reopened = true;
                    let _ = self.reopen(serial);
                }
                Broken::Begin(fail) | Broken::Gone(fail) => {
                    let error = fail.explain(&self.path);
                    return group
                        .into_iter()
                        .for_each(|operation| operation.finish(Some(error.share())));
                }
            }
        }
    }

    fn try_round(&self, opened: &Opened, group: &mut Group) -> Result<Vec<Notification>, Broken> {
        opened.place.check().map_err(Broken::Gone)?;
        let mut cache = opened.cache.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out, so that it is loaded anew after a round that broke off.
        let mut current = match cache.take() {
            Some(cache) => cache,
            None => guarded(|| load(&opened.db)).map_err(Broken::Begin)?,
        };
        let notifications = self.round(&opened.db, &mut current, group)?;
        *cache = Some(current);
        Ok(notifications)
    }

    fn round(
        &self,
        db: &Database,
        cache: &mut Cache,
        group: &mut Group,
    ) -> Result<Vec<Notification>, Broken> {
        let txn = guarded(|| begin(db, self.options.has_quick_repair)).map_err(Broken::Begin)?;
        let now = to_micros(self.options.clock.wall());
        let (notifications, has_written) = {
            let mut work = Transaction::new(&txn, cache, self.boot, now);
            for (index, operation) in group.iter_mut().enumerate() {
                let applied = guarded(|| operation.apply(&mut work));
                applied.map_err(|fail| Broken::Operation(index, fail))?;
            }
            (work.notifications, work.has_written)
        };
        if has_written {
            guarded(|| Ok(txn.commit()?)).map_err(Broken::Commit)?;
        }
        Ok(notifications)
    }

    /// After a commit that failed: the file tells which appends are in it.
    fn settle(&self, mut group: Group, serial: u64, fail: Fail) {
        let error = fail.explain(&self.path);
        let found = self
            .reopen(serial)
            .and_then(|()| self.with_open(|opened| self.find(opened, &mut group)));
        let is_settled = matches!(found, Ok(Ok(_)));
        let found = found.ok().and_then(Result::ok).unwrap_or_default();
        for (index, operation) in group.into_iter().enumerate() {
            let is_found = found.contains(&index);
            let is_in_doubt = !is_settled || operation.id().is_none();
            operation.finish(match is_found {
                true => None,
                false if is_in_doubt => Some(error.share().with_doubt()),
                false => Some(error.share()),
            });
        }
        self.notifier.send([Notification::Missed]);
    }

    /// Which of the group are in the file; they get their answers from a transaction that changes
    /// nothing.
    fn find(&self, opened: &Opened, group: &mut Group) -> Result<Vec<usize>, Fail> {
        guarded(|| {
            let mut cache = load(&opened.db)?;
            let txn = begin(&opened.db, false)?;
            let mut found = Vec::new();
            for (index, operation) in group.iter_mut().enumerate() {
                if operation.id().is_some_and(|id| cache.has_written(id)) {
                    operation.apply(&mut Transaction::new(&txn, &mut cache, self.boot, 0))?;
                    found.push(index);
                }
            }
            Ok(found)
        })
    }
}

fn load(db: &Database) -> Result<Cache, Fail> {
    Cache::load(&db.begin_read()?)
}
