//! A write that somebody waits for.

use tokio::sync::oneshot;

use super::error::{Answer, Fail};
use super::transaction::Transaction;
use crate::error::{Error, Result};
use crate::storage::Id;

/// What is written together, in its order.
pub(super) type WriteRequests = Vec<Box<dyn WriteRequest>>;

/// A write that waits for its turn, and for its answer.
pub(super) trait WriteRequest: Send {
    /// The id by which it can be found after a commit that may have failed.
    fn id(&self) -> Option<Id>;

    /// Does it, and keeps the answer; may be called again after an abort.
    fn apply(&mut self, txn: &mut Transaction<'_>) -> Result<(), Fail>;

    /// Gives the answer, or this error in its place.
    fn finish(self: Box<Self>, error: Option<Error>);
}

/// A request to do `work`, and where its answer comes.
pub(super) fn request<T: Send + 'static>(
    id: Option<Id>,
    work: impl FnMut(&mut Transaction<'_>) -> Answer<T> + Send + 'static,
) -> (Box<dyn WriteRequest>, oneshot::Receiver<Result<T>>) {
    let (to, answer) = oneshot::channel();
    let request = WorkRequest {
        id,
        work,
        answer: None,
        to,
    };
    (Box::new(request), answer)
}

/// A request whose work is a closure.
struct WorkRequest<W, T> {
    id: Option<Id>,
    work: W,
    /// What the last call of `work` said.
    answer: Option<Result<T>>,
    to: oneshot::Sender<Result<T>>,
}

impl<W, T> WriteRequest for WorkRequest<W, T>
where
    W: FnMut(&mut Transaction<'_>) -> Answer<T> + Send,
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
        debug_assert!(answer.is_some(), "without an error it was applied");
        // The caller may have gone. Without an answer, dropping the sender says so.
        if let Some(answer) = answer {
            let _ = self.to.send(answer);
        }
    }
}
