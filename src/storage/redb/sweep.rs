//! Deleting what nobody reads any more: batches before the start of their log, and old ids. It is let
//! go of for good in the transaction that says so. The space that it takes is given back in pieces,
//! each of which is a transaction of its own, so that a write waits for no longer than one of them
//! takes; a small one goes with the trim itself. A crash between two pieces leaves nothing wrong, and
//! the rest to whoever writes to the file next.

use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use ::redb::{Key, ReadableTable, Table, Value};

use super::cache::{Cache, outdated};
use super::core::{Core, Opened};
use super::error::{Fail, guarded};
use super::open::begin;
use super::tables::{Head, emptied};
use super::transaction::Transaction;

/// How much one transaction may still delete: a single row always, whatever its size.
pub(super) struct Room {
    rows: usize,
    bytes: usize,
}

impl Room {
    pub(super) const MAX_ROWS: usize = 1_000;
    const MAX_BYTES: usize = 8 * 1024 * 1024;

    pub(super) fn new() -> Self {
        Self {
            rows: Self::MAX_ROWS,
            bytes: Self::MAX_BYTES,
        }
    }

    /// Takes a row in, if there is room for it.
    fn take(&mut self, bytes: usize) -> bool {
        let is_first = self.rows == Self::MAX_ROWS;
        if !is_first && (self.rows == 0 || self.bytes < bytes) {
            return false;
        }
        self.rows -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

impl Core {
    /// Deletes a piece, if there is anything to delete, and says whether there is more.
    pub(super) fn sweep(&self) -> bool {
        let swept = self.with_open(|opened| {
            if opened.has_failed_sweep.load(Ordering::Relaxed) {
                return false;
            }
            guarded(|| self.sweep_piece(opened)).unwrap_or_else(|fail| {
                // The next write says so as well, if it is the disk. Not again before the file is
                // opened anew, if it is damage.
                opened.has_failed_sweep.store(true, Ordering::Relaxed);
                let error = fail.explain(&self.path);
                tracing::warn!(%error, "what was trimmed away cannot be deleted now");
                false
            })
        });
        // Otherwise it was closed, or cannot be opened anew.
        swept.unwrap_or(false)
    }

    fn sweep_piece(&self, opened: &Opened) -> Result<bool, Fail> {
        let mut cache = opened.cache.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out, so that it is loaded anew after a piece that broke off.
        let Some(mut current) = cache.take_if(|cache| cache.has_old()) else {
            return Ok(false);
        };
        let txn = begin(&opened.db, self.options.has_quick_repair)?;
        Transaction::new(&txn, &mut current, self.boot, 0).sweep()?;
        txn.commit()?;
        let has_more = current.has_old();
        *cache = Some(current);
        Ok(has_more)
    }
}

impl Transaction<'_> {
    /// Deletes what there is room for.
    fn sweep(&mut self) -> Result<(), Fail> {
        let Cache {
            appends, refused, ..
        } = &*self.cache;
        if let Some(old) = outdated(appends) {
            let left = delete(self.appends.get()?, old, &mut self.room)?;
            self.cache.appends.start = left;
        } else if let Some(old) = outdated(refused) {
            let left = delete(self.refused.get()?, old, &mut self.room)?;
            self.cache.refused.start = left;
        } else {
            self.sweep_logs()?;
        }
        Ok(())
    }

    fn sweep_logs(&mut self) -> Result<(), Fail> {
        loop {
            let trimmed = self.sweeps.get()?.first()?.map(|(key, _)| key.value());
            let Some(key) = trimmed else {
                self.cache.has_sweeps = false;
                return Ok(());
            };
            let start = self.starts.get()?.get(key)?;
            let start = start.map_or(0, |start| start.value());
            if !self.clear(key, start)? {
                return Ok(());
            }
            self.sweeps.get()?.remove(key)?;
        }
    }

    /// Deletes the batches of a log before its start, as far as there is room, and says whether none
    /// is left. The newest of all stays, without its messages, because it tells the next offset.
    pub(super) fn clear(&mut self, key: u64, start: u64) -> Result<bool, Fail> {
        let (batches, room) = (self.batches.get()?, &mut self.room);
        let newest = {
            let mut all = batches.range((key, 0)..=(key, u64::MAX))?;
            let Some((at, value)) = all.next_back().transpose()? else {
                return Ok(true);
            };
            let (at, bytes) = (at.value(), value.value().len());
            Head::decode(at, value.value()).map(|head| (at, bytes, head))
        };
        let damaged = || Fail::Damaged("the newest batch of a log that was trimmed".to_owned());
        let (at, bytes, newest) = newest.ok_or_else(damaged)?;
        let end = start.min(newest.base);
        let all = (key, 0)..(key, end);
        if delete(batches, all.clone(), room)? < all.end {
            return Ok(false);
        }
        if newest.end() <= start && !newest.is_emptied {
            if !room.take(bytes) {
                return Ok(false);
            }
            batches.insert(at, &emptied(at, &newest)[..])?;
        }
        Ok(true)
    }
}

/// Deletes rows from the first one on, as far as there is room, and gives the first that is left.
fn delete<K, V>(table: &mut Table<'_, K, V>, keys: Range<K>, room: &mut Room) -> Result<K, Fail>
where
    K: for<'k> Key<SelfType<'k> = K> + Copy,
    V: Value,
{
    let mut left = keys.end;
    for entry in table.range(keys.clone())? {
        let (key, value) = entry?;
        if !room.take(V::as_bytes(&value.value()).as_ref().len()) {
            left = key.value();
            break;
        }
    }
    table.retain_in(keys.start..left, |_, _| false)?;
    Ok(left)
}
