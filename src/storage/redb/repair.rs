//! Repairing a file that was not closed, and reading it only once for that.
//!
//! redb reads such a file twice: it compares every page with its checksum, and then walks all trees
//! again to learn which pages are in use. What a leaf with batches holds is of no interest to the
//! second walk, because such a leaf leads to no other page. So the first walk notes where they are, and
//! the second one gets a blank leaf for each, without a read. Whatever else is asked for is read. The
//! database that was given blank leaves is closed, with all its caches, before the file is opened for
//! use; and where this fails, redb repairs the file alone.

use std::collections::HashMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::redb::{BackendError, Builder, StorageBackend};

use super::error::Fail;
use super::tables::{BatchKey, Head};
use crate::sync::{Mutex, MutexGuard};

/// Repairs the file behind `backend`, and closes it.
pub(super) fn repair(
    builder: &mut Builder,
    path: &Path,
    backend: impl StorageBackend,
) -> Result<(), Fail> {
    let bytes = backend.len()?;
    let path = path.display().to_string();
    tracing::warn!(
        path,
        bytes,
        "the file was not closed: it is read whole before it is opened, which quick repair avoids \
         (Options::quick_repair)"
    );
    let progress = Arc::new(RepairProgress::new(&path, bytes));
    let told = progress.clone();
    builder.set_repair_callback(move |session| told.is_at(session.progress()));
    let backend = RepairBackend {
        file: backend,
        progress,
        leaves: Mutex::default(),
    };
    builder.create_with_backend(backend)?.close()?;
    tracing::info!(path, "the file is repaired");
    Ok(())
}

/// The backend of a file, while it is repaired.
#[derive(Debug)]
struct RepairBackend<B> {
    file: B,
    progress: Arc<RepairProgress>,
    /// Guards what the first walk found; held for one look at it, and no other lock is taken under it.
    leaves: Mutex<BatchLeaves>,
}

impl<B> RepairBackend<B> {
    fn leaves(&self) -> MutexGuard<'_, BatchLeaves> {
        self.leaves.lock()
    }
}

impl<B: StorageBackend> StorageBackend for RepairBackend<B> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let is_second_walk = self.progress.is_second_walk();
        if is_second_walk && self.leaves().contains(offset) {
            debug_assert!(
                out.len() as u64 >= BatchLeaves::PAGE,
                "redb asks for a whole page"
            );
            out.fill(0);
            out[0] = LEAF;
            return Ok(());
        }
        self.file.read(offset, out)?;
        self.progress.has_read(out.len());
        if !is_second_walk && has_batches(out) {
            self.leaves().insert(offset);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// How far a repair is.
#[derive(Debug)]
struct RepairProgress {
    path: String,
    /// The size of the file.
    bytes: u64,
    /// How many bytes of it were read.
    read: AtomicU64,
    /// The first walk is over, and the second one, through the tables of the user, is not.
    is_second_walk: AtomicBool,
}

impl RepairProgress {
    fn new(path: &str, bytes: u64) -> Self {
        Self {
            path: path.to_owned(),
            bytes,
            read: AtomicU64::new(0),
            is_second_walk: AtomicBool::new(false),
        }
    }

    /// Takes note of how far redb is. It says 0.3 if the newest state is torn and the one before it is
    /// verified as well, 0.6 before the second walk, and 0.9 before it goes through its own tables.
    fn is_at(&self, progress: f64) {
        let is_second_walk = (0.6..0.9).contains(&progress);
        // Release, so that whoever sees it also sees every leaf that the first walk found.
        self.is_second_walk.store(is_second_walk, Ordering::Release);
    }

    fn is_second_walk(&self) -> bool {
        // Acquire, to see what was done before it was stored.
        self.is_second_walk.load(Ordering::Acquire)
    }

    /// Counts what was read, and traces each tenth.
    fn has_read(&self, bytes: usize) {
        // Relaxed: a count, which nothing else hangs on.
        let before = self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        let tenth = (self.bytes / 10).max(1);
        let now = (before + bytes as u64) / tenth;
        if now > before / tenth {
            let (path, percent) = (&self.path, (now * 10).min(100));
            tracing::info!(path, percent, "reading the file that was not closed");
        }
    }
}

/// Where leaves with batches begin: a bit for each page of the file.
#[derive(Debug, Default)]
struct BatchLeaves(HashMap<u64, u64>);

impl BatchLeaves {
    const PAGE: u64 = 4096;

    /// The word and the bit of the page that begins at this offset; `None` if none does.
    fn bit(offset: u64) -> Option<(u64, u64)> {
        let page = offset / Self::PAGE;
        offset
            .is_multiple_of(Self::PAGE)
            .then_some((page / 64, 1 << (page % 64)))
    }

    fn insert(&mut self, offset: u64) {
        if let Some((word, bit)) = Self::bit(offset) {
            *self.0.entry(word).or_default() |= bit;
        }
    }

    fn contains(&self, offset: u64) -> bool {
        let bits = |(word, bit)| self.0.get(&word).is_some_and(|bits| bits & bit != 0);
        Self::bit(offset).is_some_and(bits)
    }
}

/// What redb calls a leaf: the first byte of a page.
const LEAF: u8 = 1;

/// Whether a page is a leaf of the table of batches: the first value in it has a head with a checksum
/// over itself and its key.
fn has_batches(page: &[u8]) -> bool {
    first_batch(page).is_some_and(|(key, value)| Head::decode(key, value).is_some())
}

/// The first key and value of a leaf whose keys have 16 bytes. In a leaf stand the type, the number of
/// pairs, where each value ends, the keys, and the values. Numbers are little endian.
fn first_batch(page: &[u8]) -> Option<(BatchKey, &[u8])> {
    let [LEAF, _, low, high, ends @ ..] = page else {
        return None;
    };
    let pairs = usize::from(u16::from_le_bytes([*low, *high]));
    let end = u32::from_le_bytes(*ends.first_chunk()?) as usize;
    let keys = page.get(4 + 4 * pairs..)?;
    let key = u128::from_le_bytes(*keys.first_chunk()?);
    let value = page.get(4 + (4 + 16) * pairs..end)?;
    Some(((key as u64, (key >> 64) as u64), value))
}
