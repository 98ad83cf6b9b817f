//! The blocking pool of the tokio runtime that a call comes from, where the file is read and written.

use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};

/// Runs `work` on the blocking pool, and waits for what it says.
pub(super) async fn on_pool<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime = runtime()?;
    match runtime.spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) if ended.is_cancelled() => Err(Error::new(
            ErrorKind::Closed,
            "the tokio runtime that the storage was called on has ended: call it on one that goes on",
        )),
        Err(panicked) => Err(Error::new(
            ErrorKind::Internal,
            "reading a redb storage panicked: a defect, which should be reported",
        )
        .with_source(panicked)),
    }
}

/// The runtime that a call comes from.
pub(super) fn runtime() -> Result<Handle> {
    Handle::try_current().map_err(|error| {
        Error::closed("a redb storage works on a tokio runtime: call it from one")
            .with_source(error)
    })
}
