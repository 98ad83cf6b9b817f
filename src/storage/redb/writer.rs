//! The writer: a queue of requests, and the task that commits what waits in it. Each run of the task is
//! one call of the blocking pool: one commit, and a piece of what is to be swept.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::commit::GroupCommit;
use super::error::Answer;
use super::file::StorageFile;
use super::pool;
use super::request::request;
use super::sweep::sweep;
use super::transaction::Transaction;
use super::write_queue::WriteQueue;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Id;
use crate::storage::shared::notify::Notifier;

/// The one that writes to the file.
pub(super) struct Writer {
    /// Tells of what was written. The field before the file, because it is dropped first: subscribers
    /// do not wait until the disk is done.
    pub(super) notifier: Notifier,
    queue: WriteQueue,
    file: Arc<StorageFile>,
}

impl Writer {
    /// The writer of this file, which has no other.
    pub(super) fn new(file: Arc<StorageFile>) -> Self {
        Self {
            notifier: Notifier::new(),
            queue: WriteQueue::default(),
            file,
        }
    }

    /// Queues `work`, starts the commit task if there is none, and waits for the answer. `work` may
    /// run again after a transaction that was aborted.
    pub(super) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        id: Option<Id>,
        work: impl FnMut(&mut Transaction<'_>) -> Answer<T> + Send + 'static,
    ) -> Result<T> {
        let runtime = pool::runtime()?;
        let (request, answer) = request(id, work);
        if self.queue.push(request)? {
            CommitTask::spawn(self, &runtime);
        }
        answer
            .await
            .unwrap_or_else(|_| Err(broken_off().with_doubt()))
    }

    /// Closes the file after what waits.
    pub(super) async fn close(self: &Arc<Self>) -> Result<()> {
        let runtime = pool::runtime()?;
        let (to, answer) = oneshot::channel();
        if self.queue.close(to) {
            CommitTask::spawn(self, &runtime);
        }
        answer.await.unwrap_or_else(|_| Err(broken_off()))
    }

    /// Closes the file when nobody can call any more, so that it can be opened again at once. It
    /// waits for a run that works on it, but not for one that has not begun and has something to
    /// write: that closes the file when it lets go of it.
    pub(super) fn abandon(&self) {
        if self.queue.abandon() {
            // Nobody is left to be told.
            let _ = self.close_file();
        }
    }

    /// Waits until there is no commit task, so that the next call starts one on its own runtime.
    #[cfg(test)]
    pub(super) fn rest(&self) {
        self.queue.rest();
    }

    fn close_file(&self) -> Result<()> {
        self.file.close(|| self.notifier.close())
    }
}

fn broken_off() -> Error {
    let text = "the write broke off with the runtime that it ran on: try again on another";
    Error::new(ErrorKind::Unavailable, text)
}

/// One run of the task that commits.
struct CommitTask {
    writer: Arc<Writer>,
    has_ended: bool,
}

impl CommitTask {
    fn spawn(writer: &Arc<Writer>, runtime: &Handle) {
        let task = Self {
            writer: writer.clone(),
            has_ended: false,
        };
        runtime.spawn_blocking(move || task.run());
    }

    fn run(mut self) {
        let Writer {
            notifier,
            queue,
            file,
        } = &*self.writer;
        let requests = queue.begin_run();
        if !requests.is_empty() {
            GroupCommit { file, notifier }.commit(requests);
        }
        self.close_if_asked();
        // Whoever came meanwhile waits for no more than this.
        let has_more_to_sweep = sweep(file);
        let needs_run = queue.end_run(has_more_to_sweep);
        self.has_ended = true;
        if needs_run {
            Self::spawn(&self.writer, &Handle::current());
        }
    }

    fn close_if_asked(&self) {
        let closers = self.writer.queue.take_closers();
        if closers.is_empty() {
            return;
        }
        let closed = self.writer.close_file();
        for to in closers {
            let _ = to.send(closed.as_ref().map_err(Error::share).copied());
        }
    }
}

/// A run that never began, because its runtime ended, or that panicked: nobody waits for it, and the
/// next call starts another.
impl Drop for CommitTask {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let (requests, closers) = self.writer.queue.abort_run();
        for request in requests {
            request.finish(Some(broken_off()));
        }
        drop(closers);
    }
}
