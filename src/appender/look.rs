//! Looks at the storage before a batch can be part of a statement.

use std::time::Duration;

use super::Shared;
use super::submission::Submission;
use crate::caught::caught;
use crate::error::Result;
use crate::retry::until;
use crate::storage::{Id, Partition};

impl Shared {
    /// Finds out what has to be known of a batch: the streams that it names, and whether an earlier
    /// attempt is in the log. Then it waits in its place again.
    pub(super) async fn look(&self, mut submission: Submission) {
        if let Err(error) = self.learn_streams(&submission).await {
            return submission.fail(error);
        }
        if let Some(doubt) = &submission.batch.doubt {
            let (id, deadline) = (doubt.id, submission.deadline);
            match self.settle(id, &doubt.partitions, deadline).await {
                Ok(Some(bases)) => return submission.confirm(&bases, &self.storage),
                Ok(None) => submission.refute(),
                Err(error) => return submission.fail(error),
            }
        }
        self.queue().put_back(submission);
    }

    pub(super) async fn learn_streams(&self, submission: &Submission) -> Result<()> {
        for stream in self.routes.lacking(submission) {
            let learning = || self.storage.create_stream(&stream, None);
            let settings = self.ask("create_stream", submission.deadline, learning);
            self.routes.learn(stream.clone(), settings.await?);
        }
        Ok(())
    }

    /// Whether this append is in the log, and where; if not, it never will be.
    pub(super) async fn settle(
        &self,
        id: Id,
        partitions: &[Partition],
        deadline: Duration,
    ) -> Result<Option<Vec<u64>>> {
        let settling = || self.storage.settle(id, partitions);
        self.ask("settle", deadline, settling).await
    }

    /// Asks within the budget. Those that wait for a look as well share the failures.
    async fn ask<T, F>(&self, what: &str, deadline: Duration, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let asking = || async {
            let answer = caught(what, &call).await;
            match &answer {
                Ok(_) => self.look_failure.clear(),
                Err(error) if error.is_transient() => self.fails(&self.look_failure, error),
                Err(_) => {}
            }
            answer
        };
        until(deadline, &*self.clock, asking).await
    }
}
