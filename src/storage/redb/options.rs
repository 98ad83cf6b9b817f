//! How a file is opened.

use std::fs::File;
use std::sync::Arc;

#[cfg(not(test))]
use ::redb::StorageBackend;
use ::redb::backends::FileBackend;
use ::redb::{Builder, Database};

use super::error::Fail;
#[cfg(test)]
use super::faults::{Disk, Faults};
use crate::clock::Clock;

/// How to open a [`RedbStorage`](super::RedbStorage).
#[derive(Debug, Clone)]
pub struct RedbOptions {
    pub(super) clock: Arc<dyn Clock>,
    cache_bytes: usize,
    pub(super) has_quick_repair: bool,
    /// Up to this size a file is verified whole when it is opened.
    pub(super) verified_bytes: u64,
    /// Makes the disk fail where a test says so.
    #[cfg(test)]
    pub(super) faults: Option<Arc<Faults>>,
}

impl RedbOptions {
    /// The defaults, with this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            cache_bytes: 64 * 1024 * 1024,
            has_quick_repair: false,
            verified_bytes: VERIFIED_BYTES,
            #[cfg(test)]
            faults: None,
        }
    }

    /// Sets the memory for caching pages of the file, in bytes; 64 MiB unless set.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Whether a file can be opened at once after a crash, at the price of slower writes; off unless
    /// set. See [`Options::quick_repair`](crate::Options::quick_repair).
    #[must_use]
    pub fn quick_repair(mut self, enabled: bool) -> Self {
        self.has_quick_repair = enabled;
        self
    }

    /// What redb opens a file with.
    pub(super) fn builder(&self) -> Builder {
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        builder
    }

    /// What redb reads and writes the file through. It locks the file.
    #[cfg(not(test))]
    pub(super) fn backend(&self, file: File) -> Result<impl StorageBackend, Fail> {
        Ok(FileBackend::new(file)?)
    }

    /// As outside of tests, on a disk that can fail.
    #[cfg(test)]
    pub(super) fn backend(&self, file: File) -> Result<Disk, Fail> {
        Ok(Disk {
            file: FileBackend::new(file)?,
            faults: self.faults.clone().unwrap_or_default(),
        })
    }
}

/// Verifying reads the whole file: 0.1 s for this size out of the page cache. Above it redb trusts a
/// file that was closed cleanly, and the checksums of the values tell what is damaged.
const VERIFIED_BYTES: u64 = 256 * 1024 * 1024;
