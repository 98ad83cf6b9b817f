//! Deleting rows, as many as one transaction may.

use std::ops::Range;

use ::redb::{Key, ReadableTable, Table, Value};

use super::error::Fail;
use super::tables::{BatchKey, Head, emptied};

/// How much one transaction may still delete: a single row always, whatever its size.
pub(super) struct DeleteBudget {
    rows: usize,
    bytes: usize,
}

impl DeleteBudget {
    pub(super) const MAX_ROWS: usize = 1_000;
    const MAX_BYTES: usize = 8 * 1024 * 1024;

    /// All that a transaction may delete.
    pub(super) fn new() -> Self {
        Self {
            rows: Self::MAX_ROWS,
            bytes: Self::MAX_BYTES,
        }
    }

    /// Takes a row in, and says whether there was room for it.
    fn take(&mut self, bytes: usize) -> bool {
        let is_first = self.rows == Self::MAX_ROWS;
        if !is_first && (self.rows == 0 || self.bytes < bytes) {
            return false;
        }
        debug_assert!(self.rows > 0, "the first row finds room");
        self.rows -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

/// Deletes the batches of a log before its start, as far as the budget goes, and says whether none is
/// left. The newest of all stays, without its messages, because it tells the next offset.
pub(super) fn clear_log(
    batches: &mut Table<'_, BatchKey, &'static [u8]>,
    partition: u64,
    start: u64,
    budget: &mut DeleteBudget,
) -> Result<bool, Fail> {
    let newest = {
        let mut all = batches.range((partition, 0)..=(partition, u64::MAX))?;
        let Some((key, value)) = all.next_back().transpose()? else {
            return Ok(true);
        };
        let (key, bytes) = (key.value(), value.value().len());
        Head::decode(key, value.value()).map(|head| (key, bytes, head))
    };
    let damaged = || Fail::Damaged("the newest batch of a log that was trimmed".to_owned());
    let (key, bytes, newest) = newest.ok_or_else(damaged)?;
    let end = (partition, start.min(newest.base));
    debug_assert!(end <= key, "the newest batch stays");
    if delete_range(batches, (partition, 0)..end, budget)? < end {
        return Ok(false);
    }
    if newest.end() <= start && !newest.is_emptied {
        if !budget.take(bytes) {
            return Ok(false);
        }
        batches.insert(key, &emptied(key, &newest)[..])?;
    }
    Ok(true)
}

/// Deletes rows from the first one on, as far as the budget goes, and gives the first key that is left.
pub(super) fn delete_range<K, V>(
    table: &mut Table<'_, K, V>,
    keys: Range<K>,
    budget: &mut DeleteBudget,
) -> Result<K, Fail>
where
    K: for<'k> Key<SelfType<'k> = K> + Copy,
    V: Value,
{
    let mut left = keys.end;
    for entry in table.range(keys.clone())? {
        let (key, value) = entry?;
        if !budget.take(V::as_bytes(&value.value()).as_ref().len()) {
            left = key.value();
            break;
        }
    }
    table.retain_in(keys.start..left, |_, _| false)?;
    Ok(left)
}
