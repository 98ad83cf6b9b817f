//! What waits for the commit task, and whether there is one. It is there only while there is work:
//! whoever brings some starts it where there is none, and it ends when it finds none.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::request::{WriteRequest, WriteRequests};
use crate::error::Result;
use crate::storage::shared::refusals::closed;

/// The queue of the writer.
#[derive(Default)]
pub(super) struct WriteQueue {
    /// Guards what waits. Held for a moment, and no other lock is taken under it.
    state: Mutex<QueueState>,
    /// Told when a run of the commit task has ended.
    run_ended: Condvar,
}

/// Those who wait until the file is closed.
pub(super) type Closers = Vec<oneshot::Sender<Result<()>>>;

#[derive(Default)]
struct QueueState {
    /// What the next run writes, in this order.
    requests: WriteRequests,
    closers: Closers,
    task: TaskPhase,
    /// Whether the queue refuses what comes now.
    is_closed: bool,
}

/// How far the commit task is. A run takes what waits then; if there is more, another is spawned.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum TaskPhase {
    /// There is no task, and nothing waits.
    #[default]
    Absent,
    /// A run has not begun yet.
    Spawned,
    /// A run works on the file.
    Running,
}

impl WriteQueue {
    /// Puts a request into the queue, unless it is closed, and says whether the caller has to spawn a
    /// run of the commit task.
    pub(super) fn push(&self, request: Box<dyn WriteRequest>) -> Result<bool> {
        let mut state = self.state();
        if state.is_closed {
            return Err(closed());
        }
        state.assert_task();
        state.requests.push(request);
        Ok(state.needs_run())
    }

    /// Closes the queue, and lets `closer` wait until the file is closed, after what waits. Says
    /// whether the caller has to spawn a run of the commit task.
    #[must_use]
    pub(super) fn close(&self, closer: oneshot::Sender<Result<()>>) -> bool {
        let mut state = self.state();
        state.assert_task();
        state.is_closed = true;
        state.closers.push(closer);
        state.needs_run()
    }

    /// Closes the queue, waits for a run that works on the file, and says whether the caller has to
    /// close the file: not where a run that has not begun has something to write. That one is not waited
    /// for, because it may need the thread that this is called on.
    pub(super) fn abandon(&self) -> bool {
        let mut state = self.state();
        state.is_closed = true;
        while state.task == TaskPhase::Running {
            state = self.wait(state);
        }
        // One that was only to delete what is old finds the file closed.
        state.task == TaskPhase::Absent || !state.has_more()
    }

    /// Begins a run, and gives what it has to write.
    pub(super) fn begin_run(&self) -> WriteRequests {
        let mut state = self.state();
        debug_assert_eq!(state.task, TaskPhase::Spawned, "one run at a time");
        state.task = TaskPhase::Running;
        mem::take(&mut state.requests)
    }

    /// Those who wait until the file is closed, once nothing is left to be written before.
    pub(super) fn take_closers(&self) -> Closers {
        let mut state = self.state();
        debug_assert!(state.is_closed || state.closers.is_empty());
        match state.requests.is_empty() {
            true => mem::take(&mut state.closers),
            false => Vec::new(),
        }
    }

    /// Ends a run, and says whether the caller has to spawn another one: where something came meanwhile,
    /// or where there is more to sweep and the queue is not closed.
    #[must_use]
    pub(super) fn end_run(&self, has_more_to_sweep: bool) -> bool {
        let needs_run = {
            let mut state = self.state();
            debug_assert_eq!(state.task, TaskPhase::Running, "a run ends once");
            let needs_run = state.has_more() || has_more_to_sweep && !state.is_closed;
            state.task = match needs_run {
                true => TaskPhase::Spawned,
                false => TaskPhase::Absent,
            };
            state.assert_task();
            needs_run
        };
        self.run_ended.notify_all();
        needs_run
    }

    /// Ends a run that never began, or that panicked, and gives what waits: nobody works on it now.
    pub(super) fn abort_run(&self) -> (WriteRequests, Closers) {
        let left = {
            let mut state = self.state();
            debug_assert!(state.task != TaskPhase::Absent, "there was a task");
            state.task = TaskPhase::Absent;
            (
                mem::take(&mut state.requests),
                mem::take(&mut state.closers),
            )
        };
        self.run_ended.notify_all();
        left
    }

    /// Waits until there is no task, so that the next call starts one on its own runtime.
    #[cfg(test)]
    pub(super) fn rest(&self) {
        let mut state = self.state();
        while state.task != TaskPhase::Absent {
            state = self.wait(state);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, QueueState>) -> MutexGuard<'a, QueueState> {
        let waited = self.run_ended.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn has_more(&self) -> bool {
        !self.requests.is_empty() || !self.closers.is_empty()
    }

    /// Takes note that there is a task from now on, and says whether a run has to be spawned for that.
    fn needs_run(&mut self) -> bool {
        let is_absent = self.task == TaskPhase::Absent;
        if is_absent {
            self.task = TaskPhase::Spawned;
        }
        is_absent
    }

    /// Where there is no task, nothing waits for one.
    fn assert_task(&self) {
        debug_assert!(self.task != TaskPhase::Absent || !self.has_more());
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Fail;
    use super::super::transaction::Transaction;
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::storage::Id;

    /// A request that is never applied.
    struct Idle;

    impl WriteRequest for Idle {
        fn id(&self) -> Option<Id> {
            None
        }

        fn apply(&mut self, _: &mut Transaction<'_>) -> Result<(), Fail> {
            Ok(())
        }

        fn finish(self: Box<Self>, _: Option<Error>) {}
    }

    #[test]
    fn there_is_one_task_and_only_while_there_is_work() {
        let queue = WriteQueue::default();
        assert!(queue.push(Box::new(Idle)).unwrap());
        assert!(!queue.push(Box::new(Idle)).unwrap(), "it was spawned");
        assert_eq!(queue.begin_run().len(), 2);
        assert!(!queue.push(Box::new(Idle)).unwrap(), "it runs");
        assert!(queue.end_run(false), "something came meanwhile");
        assert_eq!(queue.begin_run().len(), 1);
        assert!(queue.end_run(true), "there is more to sweep");
        assert_eq!(queue.begin_run().len(), 0);
        assert!(!queue.end_run(false), "it ends");
        assert!(queue.push(Box::new(Idle)).unwrap());
        assert_eq!(queue.abort_run().0.len(), 1);
        assert!(queue.push(Box::new(Idle)).unwrap(), "another is needed");
    }

    #[test]
    fn a_closed_queue_gets_to_its_end() {
        let queue = WriteQueue::default();
        assert!(queue.push(Box::new(Idle)).unwrap());
        let (to, _answer) = oneshot::channel();
        assert!(!queue.close(to));
        let refused = queue.push(Box::new(Idle)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed);
        assert!(!queue.abandon(), "there is something to write");
        assert_eq!(queue.begin_run().len(), 1);
        assert_eq!(queue.take_closers().len(), 1);
        assert!(!queue.end_run(true), "nothing is swept any more");
        assert!(queue.abandon());
    }
}
