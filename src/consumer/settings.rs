//! What a consumer is built with.

use std::time::Duration;

/// What a consumer was built with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) lease: Duration,
    pub(super) max_processing: Duration,
    pub(super) drain: Duration,
    pub(super) redeliver_after: Duration,
    pub(super) max_attempts: Option<u32>,
    pub(super) prefetch: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            max_processing: Duration::from_secs(300),
            drain: Duration::from_secs(10),
            redeliver_after: Duration::from_secs(5),
            max_attempts: None,
            prefetch: 2 << 20,
        }
    }
}

/// What the last writes of a lease get at least, however short a shutdown waits for handles.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// Between an error that was reported and the next attempt.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

impl Settings {
    /// The last commits get as long, and giving the lease back, too.
    pub(super) fn last_write(&self) -> Duration {
        self.drain.max(LAST_WRITES) / 2
    }
}
