//! What waits for the writer, and the job that writes it: one call of the blocking pool a commit,
//! and a piece of what is to be deleted.

use std::mem;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::core::{Core, Done};
use super::error::Fail;
use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Id;
use crate::storage::group::closed;

#[derive(Default)]
pub(super) struct Queue {
    waiting: Vec<Box<dyn Operation>>,
    closing: Vec<oneshot::Sender<Result<()>>>,
    job: JobState,
    /// `close` was called: nothing more is taken.
    is_closed: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum JobState {
    #[default]
    None,
    Spawned,
    Running,
}

impl Queue {
    fn has_more(&self) -> bool {
        !self.waiting.is_empty() || !self.closing.is_empty()
    }
}

/// A write that waits for its turn.
pub(super) trait Operation: Send {
    /// The id by which it can be found after a commit that may have failed.
    fn id(&self) -> Option<Id>;

    /// Does it, and keeps the answer; may be called again after an abort.
    fn apply(&mut self, txn: &mut Transaction<'_>) -> Result<(), Fail>;

    /// Gives the answer, or this error in its place.
    fn finish(self: Box<Self>, error: Option<Error>);
}

struct Write<W, T> {
    id: Option<Id>,
    work: W,
    answer: Option<Result<T>>,
    to: oneshot::Sender<Result<T>>,
}

impl<W, T> Operation for Write<W, T>
where
    W: FnMut(&mut Transaction<'_>) -> Done<T> + Send,
    T: Send,
{
    fn id(&self) -> Option<Id> {
        self.id
    }

    fn apply(&mut self, txn: &mut Transaction<'_>) -> Result<(), Fail> {
        self.answer = Some((self.work)(txn)?);
        Ok(())
    }

    fn finish(self: Box<Self>, error: Option<Error>) {
        let answer = error.map(Err).or(self.answer);
        // The caller may have gone. Without an answer, dropping the sender says so.
        if let Some(answer) = answer {
            let _ = self.to.send(answer);
        }
    }
}

impl Core {
    /// Queues `work`, starts the writer if it rests, and waits for the answer.
    pub(super) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        id: Option<Id>,
        work: impl FnMut(&mut Transaction<'_>) -> Done<T> + Send + 'static,
    ) -> Result<T> {
        let (to, answer) = oneshot::channel();
        self.enqueue(|queue| {
            if queue.is_closed {
                return Err(closed());
            }
            queue.waiting.push(Box::new(Write {
                id,
                work,
                answer: None,
                to,
            }));
            Ok(())
        })?;
        answer
            .await
            .unwrap_or_else(|_| Err(broken_off().with_doubt()))
    }

    /// Closes the file after what waits.
    pub(super) async fn shut(self: &Arc<Self>) -> Result<()> {
        let (to, answer) = oneshot::channel();
        self.enqueue(|queue| {
            queue.is_closed = true;
            queue.closing.push(to);
            Ok(())
        })?;
        answer.await.unwrap_or_else(|_| Err(broken_off()))
    }

    fn enqueue(self: &Arc<Self>, push: impl FnOnce(&mut Queue) -> Result<()>) -> Result<()> {
        let runtime = runtime()?;
        {
            let mut queue = self.queue();
            push(&mut queue)?;
            if queue.job != JobState::None {
                return Ok(());
            }
            queue.job = JobState::Spawned;
        }
        Job::spawn(self.clone(), &runtime);
        Ok(())
    }

    /// Closes the file when nobody can call any more, so that it can be opened again at once. It
    /// waits for a job that works on it, but not for one that has not begun and has something to
    /// write: that may need the thread that this is called on, and closes the file when it lets go
    /// of it.
    pub(super) fn abandon(&self) {
        let mut queue = self.queue();
        queue.is_closed = true;
        while queue.job == JobState::Running {
            let waited = self.job_ended.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
        // One that was only to delete what is old finds it closed.
        if queue.job == JobState::None || !queue.has_more() {
            drop(queue);
            // Nobody is left to be told.
            let _ = self.close();
        }
    }

    /// Waits until no job is under way, so that the next call starts one on its own runtime.
    #[cfg(test)]
    pub(super) fn rest(&self) {
        let mut queue = self.queue();
        while queue.job != JobState::None {
            let waited = self.job_ended.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that a call comes from.
pub(super) fn runtime() -> Result<Handle> {
    Handle::try_current().map_err(|error| {
        Error::closed("a redb storage works on a tokio runtime: call it from one")
            .with_source(error)
    })
}

fn broken_off() -> Error {
    let text = "the write broke off with the runtime that it ran on: try again on another";
    Error::new(ErrorKind::Unavailable, text)
}

/// One run of the writer.
struct Job {
    core: Arc<Core>,
    is_done: bool,
}

impl Job {
    fn spawn(core: Arc<Core>, runtime: &Handle) {
        let job = Self {
            core,
            is_done: false,
        };
        runtime.spawn_blocking(move || job.run());
    }

    fn run(mut self) {
        let group = {
            let mut queue = self.core.queue();
            queue.job = JobState::Running;
            mem::take(&mut queue.waiting)
        };
        if !group.is_empty() {
            self.core.commit(group);
        }
        self.close_if_asked();
        // Whoever came meanwhile waits for no more than this.
        let has_old = self.core.sweep();
        let has_more = {
            let mut queue = self.core.queue();
            let has_more = queue.has_more() || has_old && !queue.is_closed;
            queue.job = match has_more {
                true => JobState::Spawned,
                false => JobState::None,
            };
            has_more
        };
        self.core.job_ended.notify_all();
        self.is_done = true;
        if has_more {
            Self::spawn(self.core.clone(), &Handle::current());
        }
    }

    fn close_if_asked(&self) {
        let closing = {
            let mut queue = self.core.queue();
            if !queue.waiting.is_empty() || queue.closing.is_empty() {
                return;
            }
            mem::take(&mut queue.closing)
        };
        let closed = self.core.close();
        for to in closing {
            let _ = to.send(closed.as_ref().map_err(Error::share).copied());
        }
    }
}

/// A job that never ran, because its runtime ended, or that panicked: nobody waits for it, and the
/// next call starts another.
impl Drop for Job {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let (waiting, closing) = {
            let mut queue = self.core.queue();
            queue.job = JobState::None;
            (mem::take(&mut queue.waiting), mem::take(&mut queue.closing))
        };
        self.core.job_ended.notify_all();
        for operation in waiting {
            operation.finish(Some(broken_off()));
        }
        drop(closing);
    }
}
