//! Group commit: all requests that wait, in one transaction.

use ::redb::{Database, ReadableDatabase};

use super::cache::WriterCache;
use super::database::begin;
use super::error::{Fail, guarded};
use super::file::{OpenFile, StorageFile};
use super::request::WriteRequests;
use super::transaction::Transaction;
use crate::clock::to_micros;
use crate::storage::Notification;
use crate::storage::shared::notify::Notifier;

/// Where a group is committed, and who is told of it.
pub(super) struct GroupCommit<'a> {
    pub(super) file: &'a StorageFile,
    pub(super) notifier: &'a Notifier,
}

/// Where a round broke off.
enum RoundFail {
    /// Nothing was begun, because the file is not where it was.
    Gone(Fail),
    /// Nothing was begun.
    Begin(Fail),
    /// This request failed, and nothing was written.
    Request(usize, Fail),
    /// It may have been written.
    Commit(Fail),
}

impl GroupCommit<'_> {
    /// Writes the requests and answers them. One that fails is taken out, and the others are written
    /// without it, in another round.
    pub(super) fn commit(&self, mut requests: WriteRequests) {
        let mut was_reopened = false;
        while !requests.is_empty() {
            let round = self.file.with_open(|open| {
                let round = self.try_round(open, &mut requests);
                round.map_err(|fail| (open.reopens, fail))
            });
            let (reopens, fail) = match round {
                Ok(Ok(notifications)) => {
                    requests.drain(..).for_each(|request| request.finish(None));
                    return self.notifier.send(notifications);
                }
                Ok(Err(fail)) => fail,
                Err(error) => {
                    return requests
                        .into_iter()
                        .for_each(|request| request.finish(Some(error.share())));
                }
            };
            match fail {
                RoundFail::Commit(fail) => return self.resolve(requests, reopens, fail),
                RoundFail::Request(index, fail) => {
                    if fail.needs_reopen() {
                        // If that fails, the next round says so.
                        let _ = self.file.reopen(reopens);
                    }
                    let error = fail.explain(&self.file.path);
                    requests.remove(index).finish(Some(error));
                }
                RoundFail::Begin(_) if !was_reopened => {
                    was_reopened = true;
                    let _ = self.file.reopen(reopens);
                }
                RoundFail::Begin(fail) | RoundFail::Gone(fail) => {
                    let error = fail.explain(&self.file.path);
                    return requests
                        .into_iter()
                        .for_each(|request| request.finish(Some(error.share())));
                }
            }
        }
    }

    /// Runs a round with what the writer knows of the file.
    fn try_round(
        &self,
        open: &OpenFile,
        requests: &mut WriteRequests,
    ) -> Result<Vec<Notification>, RoundFail> {
        open.place.check().map_err(RoundFail::Gone)?;
        let mut cache = open.cache.lock();
        // Taken out, so that it is loaded anew after a round that broke off.
        let mut current = match cache.take() {
            Some(cache) => cache,
            None => guarded(|| load(&open.db)).map_err(RoundFail::Begin)?,
        };
        let notifications = self.round(&open.db, &mut current, requests)?;
        *cache = Some(current);
        Ok(notifications)
    }

    /// Applies all requests in one transaction, and commits it: what subscribers are to be told.
    fn round(
        &self,
        db: &Database,
        cache: &mut WriterCache,
        requests: &mut WriteRequests,
    ) -> Result<Vec<Notification>, RoundFail> {
        let StorageFile {
            options,
            open_count,
            ..
        } = self.file;
        let txn = guarded(|| begin(db, options.has_quick_repair)).map_err(RoundFail::Begin)?;
        let now = to_micros(options.clock.wall());
        let (notifications, has_written) = {
            let mut work = Transaction::new(&txn, cache, *open_count, now);
            for (index, request) in requests.iter_mut().enumerate() {
                let applied = guarded(|| request.apply(&mut work));
                applied.map_err(|fail| RoundFail::Request(index, fail))?;
            }
            (work.notifications, work.has_written)
        };
        debug_assert!(
            has_written || notifications.is_empty(),
            "nobody is told of what was not written"
        );
        if has_written {
            guarded(|| Ok(txn.commit()?)).map_err(RoundFail::Commit)?;
        }
        Ok(notifications)
    }

    /// Resolves the doubt after a commit that failed: the file tells which appends are in it.
    fn resolve(&self, mut requests: WriteRequests, reopens: u64, fail: Fail) {
        let error = fail.explain(&self.file.path);
        let found = self.file.reopen(reopens).and_then(|()| {
            self.file
                .with_open(|open| self.find_written(open, &mut requests))
        });
        let is_resolved = matches!(found, Ok(Ok(_)));
        let found = found.ok().and_then(Result::ok).unwrap_or_default();
        for (index, request) in requests.into_iter().enumerate() {
            let is_found = found.contains(&index);
            let is_in_doubt = !is_resolved || request.id().is_none();
            request.finish(match is_found {
                true => None,
                false if is_in_doubt => Some(error.share().with_doubt()),
                false => Some(error.share()),
            });
        }
        self.notifier.send([Notification::Missed]);
    }

    /// Which of the requests are in the file; they get their answers from a transaction that changes
    /// nothing.
    fn find_written(
        &self,
        open: &OpenFile,
        requests: &mut WriteRequests,
    ) -> Result<Vec<usize>, Fail> {
        guarded(|| {
            let mut cache = load(&open.db)?;
            let txn = begin(&open.db, false)?;
            let mut found = Vec::new();
            for (index, request) in requests.iter_mut().enumerate() {
                if request.id().is_some_and(|id| cache.has_written(id)) {
                    let mut work = Transaction::new(&txn, &mut cache, self.file.open_count, 0);
                    request.apply(&mut work)?;
                    debug_assert!(!work.has_written, "it is known, and written once");
                    found.push(index);
                }
            }
            Ok(found)
        })
    }
}

fn load(db: &Database) -> Result<WriterCache, Fail> {
    WriterCache::load(&db.begin_read()?)
}
