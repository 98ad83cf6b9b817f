//! Calls that run to their end, whoever waits for them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};

/// Runs a call to its end: where it is awaited, which saves two changes of task, and goes on in a task of its own when it
/// is dropped halfway.
pub(super) fn run_to_completion<T, F>(work: F) -> RunToCompletion<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    RunToCompletion {
        work: Some(Box::pin(work)),
        runtime: None,
    }
}

/// A call that goes on in a task of its own when it is dropped halfway.
pub(super) struct RunToCompletion<T: Send + 'static> {
    /// `None` once it has ended.
    work: Option<Call<T>>,
    /// The runtime that its sockets are of, once it has begun.
    runtime: Option<Handle>,
}

type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

impl<T: Send + 'static> Future for RunToCompletion<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let this = self.get_mut();
        let Some(work) = &mut this.work else {
            return Poll::Ready(Err(ended(
                "a call of the storage was polled after its end: a defect, which should be reported",
            )));
        };
        if this.runtime.is_none() {
            this.runtime = Handle::try_current().ok();
        }
        let done = match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(done)) => done,
            Err(_) => Err(ended(
                "a call of the storage panicked: a defect, which should be reported",
            )),
        };
        this.work = None;
        Poll::Ready(done)
    }
}

impl<T: Send + 'static> Drop for RunToCompletion<T> {
    fn drop(&mut self) {
        // What has not begun does not begin.
        if let (Some(work), Some(runtime)) = (self.work.take(), self.runtime.take()) {
            runtime.spawn(work);
        }
    }
}

fn ended(text: &str) -> Error {
    Error::new(ErrorKind::Internal, text)
}
