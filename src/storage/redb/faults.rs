//! A disk that fails when a test says so.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ::redb::StorageBackend;
use ::redb::backends::FileBackend;

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) fail_writes: AtomicBool,
    pub(super) fail_syncs: AtomicBool,
    pub(super) syncs: AtomicU64,
}

impl Faults {
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

fn fail_if(flag: &AtomicBool) -> io::Result<()> {
    if flag.load(Ordering::SeqCst) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fail_if(&self.faults.fail_writes)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        fail_if(&self.faults.fail_syncs)?;
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        fail_if(&self.faults.fail_writes)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
