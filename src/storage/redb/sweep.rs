//! The sweep: deleting what nobody reads any more, which is batches before the start of their log, and
//! old ids. It is let go of for good in the transaction that says so. The space that it takes is given
//! back in pieces, each of which is a transaction of its own, so that a write waits for no longer than
//! one of them takes; a small one goes with the trim itself. A crash between two pieces leaves nothing
//! wrong, and the rest to whoever writes to the file next.

use std::sync::atomic::Ordering;

use ::redb::ReadableTable;

use super::cache::{WriterCache, outdated};
use super::database::begin;
use super::delete::{clear_log, delete_range};
use super::error::{Fail, guarded};
use super::file::{OpenFile, StorageFile};
use super::transaction::Transaction;

/// Deletes a piece of what is old, if there is anything, and says whether there is more.
pub(super) fn sweep(file: &StorageFile) -> bool {
    let swept = file.with_open(|open| {
        // Relaxed: only the task that sweeps stores it, one at a time.
        if open.has_failed_sweep.load(Ordering::Relaxed) {
            return false;
        }
        guarded(|| sweep_piece(file, open)).unwrap_or_else(|fail| {
            // The next write says so as well, if it is the disk. Not again before the file is opened
            // anew, if it is damage.
            open.has_failed_sweep.store(true, Ordering::Relaxed);
            let error = fail.explain(&file.path);
            tracing::warn!(%error, "what was trimmed away cannot be deleted now");
            false
        })
    });
    // Otherwise it was closed, or cannot be opened anew.
    swept.unwrap_or(false)
}

fn sweep_piece(file: &StorageFile, open: &OpenFile) -> Result<bool, Fail> {
    let mut cache = open.cache.lock();
    // Taken out, so that it is loaded anew after a piece that broke off.
    let Some(mut current) = cache.take_if(|cache| cache.has_old()) else {
        return Ok(false);
    };
    let txn = begin(&open.db, file.options.has_quick_repair)?;
    let mut work = Transaction::new(&txn, &mut current, file.open_count, 0);
    work.sweep()?;
    debug_assert!(work.notifications.is_empty(), "nobody can see it");
    drop(work);
    txn.commit()?;
    let has_more = current.has_old();
    *cache = Some(current);
    Ok(has_more)
}

impl Transaction<'_> {
    /// Deletes old ids, or what was trimmed away, as far as the budget goes.
    fn sweep(&mut self) -> Result<(), Fail> {
        let WriterCache {
            appends, refused, ..
        } = &*self.cache;
        if let Some(old) = outdated(appends) {
            let left = delete_range(self.appends.get()?, old, &mut self.delete_budget)?;
            self.cache.appends.start = left;
        } else if let Some(old) = outdated(refused) {
            let left = delete_range(self.refused.get()?, old, &mut self.delete_budget)?;
            self.cache.refused.start = left;
        } else {
            self.sweep_logs()?;
        }
        debug_assert!(self.cache.appends.start <= self.cache.appends.end);
        debug_assert!(self.cache.refused.start <= self.cache.refused.end);
        Ok(())
    }

    /// Deletes batches before the start of their log, one log after the other.
    fn sweep_logs(&mut self) -> Result<(), Fail> {
        loop {
            let trimmed = self.sweeps.get()?.first()?.map(|(key, _)| key.value());
            let Some(key) = trimmed else {
                self.cache.has_sweeps = false;
                return Ok(());
            };
            let start = self.starts.get()?.get(key)?;
            let start = start.map_or(0, |start| start.value());
            let batches = self.batches.get()?;
            if !clear_log(batches, key, start, &mut self.delete_budget)? {
                return Ok(());
            }
            self.sweeps.get()?.remove(key)?;
        }
    }
}
