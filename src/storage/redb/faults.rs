//! A disk that fails when a test says so.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ::redb::StorageBackend;
use ::redb::backends::FileBackend;

#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Which of the operations that change the file fail, counted from 0.
    failing: Mutex<Range<u64>>,
    changes: AtomicU64,
    pub(super) syncs: AtomicU64,
}

impl Faults {
    /// Lets so many changes succeed, and so many fail after them.
    pub(super) fn fail(&self, after: u64, count: u64) {
        let first = self.changes.load(Ordering::SeqCst) + after;
        *self.failing.lock().unwrap() = first..first.saturating_add(count);
    }

    fn change(&self) -> io::Result<()> {
        let change = self.changes.fetch_add(1, Ordering::SeqCst);
        if self.failing.lock().unwrap().contains(&change) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn open(self: &Arc<Self>, path: &Path) -> Result<Disk, redb::DatabaseError> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Disk {
            file: FileBackend::new(file)?,
            faults: self.clone(),
        })
    }
}

#[derive(Debug)]
pub(super) struct Disk {
    file: FileBackend,
    faults: Arc<Faults>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.faults.change()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.change()?;
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.faults.change()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
