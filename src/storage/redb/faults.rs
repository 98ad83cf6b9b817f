//! A disk that fails when a test says so, and that remembers what was written to it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::{Bound, Range};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ::redb::backends::FileBackend;
use ::redb::{BackendError, StorageBackend};

/// What fails, and what was done. Each lock is held for one look at what it guards, and none is taken
/// under another; all orderings are the strongest, because a test may look from any thread and is not
/// measured.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Which of the operations that change the file fail, counted from 0.
    failing: Mutex<Range<u64>>,
    changes: AtomicU64,
    /// Which of the operations that read the file fail, counted from 0.
    failing_reads: Mutex<Range<u64>>,
    reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) syncs: AtomicU64,
    /// Whether a write that fails has written its first half.
    tears: AtomicBool,
    /// How many operations of each kind failed.
    fired: Mutex<BTreeMap<&'static str, u64>>,
    journal: Mutex<Option<Journal>>,
}

/// What was done to a file since a moment.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The file at that moment.
    pub(super) before: Vec<u8>,
    pub(super) changes: Vec<Change>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl Faults {
    /// Lets so many changes succeed, and so many fail after them.
    pub(super) fn fail(&self, after: u64, count: u64) {
        *self.failing.lock().unwrap() = window(&self.changes, after, count);
    }

    /// Lets so many reads succeed, and so many fail after them.
    pub(super) fn fail_reads(&self, after: u64, count: u64) {
        *self.failing_reads.lock().unwrap() = window(&self.reads, after, count);
    }

    /// Nothing fails any more.
    pub(super) fn heal(&self) {
        self.fail(0, 0);
        self.fail_reads(0, 0);
    }

    /// Writes that fail from now on have written their first half.
    pub(super) fn tear(&self) {
        self.tears.store(true, Ordering::SeqCst);
    }

    /// How many changes and reads there were so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (count(&self.changes), count(&self.reads))
    }

    pub(super) fn fired(&self) -> BTreeMap<&'static str, u64> {
        self.fired.lock().unwrap().clone()
    }

    /// Remembers every change from now on; the file must not be open.
    pub(super) fn record(&self, path: &Path) {
        *self.journal.lock().unwrap() = Some(Journal {
            before: fs::read(path).unwrap(),
            changes: Vec::new(),
        });
    }

    /// How many changes were remembered.
    pub(super) fn recorded(&self) -> usize {
        let journal = self.journal.lock().unwrap();
        journal.as_ref().map_or(0, |journal| journal.changes.len())
    }

    pub(super) fn take_journal(&self) -> Journal {
        self.journal.lock().unwrap().take().unwrap_or_default()
    }

    fn change(&self, what: &'static str) -> io::Result<()> {
        self.call(&self.changes, &self.failing, what)
    }

    fn call(
        &self,
        counter: &AtomicU64,
        failing: &Mutex<Range<u64>>,
        what: &'static str,
    ) -> io::Result<()> {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        if failing.lock().unwrap().contains(&number) {
            *self.fired.lock().unwrap().entry(what).or_default() += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn remember(&self, change: impl FnOnce() -> Change) {
        if let Some(journal) = &mut *self.journal.lock().unwrap() {
            journal.changes.push(change());
        }
    }
}

fn window(counter: &AtomicU64, after: u64, count: u64) -> Range<u64> {
    let first = counter.load(Ordering::SeqCst) + after;
    first..first.saturating_add(count)
}

#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: FileBackend,
    pub(super) faults: Arc<Faults>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let faults = &self.faults;
        faults.call(&faults.reads, &faults.failing_reads, "read")?;
        faults
            .read_bytes
            .fetch_add(out.len() as u64, Ordering::SeqCst);
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.faults.change("set_len")?;
        self.file.set_len(len)?;
        self.faults.remember(|| Change::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.change("sync")?;
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        self.file.sync_data()?;
        self.faults.remember(|| Change::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Err(error) = self.faults.change("write") {
            if self.faults.tears.load(Ordering::SeqCst) {
                self.file.write(offset, &data[..data.len() / 2])?;
            }
            return Err(error);
        }
        self.file.write(offset, data)?;
        self.faults
            .remember(|| Change::Write(offset, data.to_vec()));
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}
