//! Looks at the storage before a batch can be part of a group write.

use std::time::Duration;

use super::request::AppendRequest;
use super::shared::AppenderShared;
use crate::error::Result;
use crate::panics::caught;
use crate::retry::until;
use crate::storage::{Id, Partition};

impl AppenderShared {
    /// Finds out what has to be known of a batch: the streams that it names, and whether an earlier
    /// attempt is in the log. Then it waits in its place again.
    pub(super) async fn look(&self, mut request: AppendRequest) {
        if let Err(error) = self.learn_streams(&request).await {
            return request.fail(error);
        }
        if let Some(in_doubt) = &request.batch.in_doubt {
            let (id, deadline) = (in_doubt.id, request.deadline);
            match self.settle(id, &in_doubt.partitions, deadline).await {
                Ok(Some(bases)) => return request.resolve_written(&bases, &self.storage),
                Ok(None) => request.resolve_absent(),
                Err(error) => return request.fail(error),
            }
        }
        self.queue().put_back(request);
    }

    pub(super) async fn learn_streams(&self, request: &AppendRequest) -> Result<()> {
        for stream in self.routing.unknown(request) {
            let learning = || self.storage.create_stream(&stream, None);
            let settings = self.ask("create_stream", request.deadline, learning);
            self.routing.learn(stream.clone(), settings.await?);
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
