//! What is left of a statement, as a new one.

use std::collections::HashSet;
use std::sync::Arc;

use super::doubt::finish;
use super::route::Routes;
use super::statement::Statement;
use crate::consumer::Session;
use crate::delivery::Commit;
use crate::error::{Error, ErrorKind};
use crate::message::Message;
use crate::storage::Storage;

impl Statement {
    /// The same without what came from these leases.
    pub(super) fn without(
        mut self,
        leases: &[usize],
        routes: &Routes,
        storage: &Arc<dyn Storage>,
    ) -> Self {
        let lost: Vec<Arc<Session>> = leases
            .iter()
            .filter_map(|index| self.riders.get(*index))
            .map(|(session, _)| session.clone())
            .collect();
        for session in &lost {
            session.fence();
        }
        let addresses: HashSet<usize> = lost.iter().map(|it| Arc::as_ptr(it).addr()).collect();
        let is_lost = |message: &Message| {
            let mut sessions = message.commits().map(Commit::session);
            sessions.any(|session| addresses.contains(&Arc::as_ptr(session).addr()))
        };
        let mut rest = Self::default();
        for mut entry in std::mem::take(&mut self.entries) {
            let submission = &mut entry.submission;
            if submission.atomic && submission.batch.messages.iter().any(is_lost) {
                entry.submission.fail(Error::new(
                    ErrorKind::Fenced,
                    "nothing of this append was written: it carries a commit of a lease that \
                     another consumer took over, who gets the message again",
                ));
                continue;
            }
            let before = submission.batch.len();
            submission
                .batch
                .messages
                .retain(|message| !is_lost(message));
            let dropped = before - submission.batch.len();
            if dropped > 0 {
                tracing::info!(
                    stream = %submission.stream,
                    messages = dropped,
                    "dropped relayed messages whose lease was taken over"
                );
            }
            if submission.batch.is_empty() {
                finish(entry.submission, false, Vec::new(), storage);
            } else {
                rest.add(entry.submission, routes, storage);
            }
        }
        rest
    }

    /// The same without what is behind a batch that failed, and without what nobody wants.
    pub(super) fn unchained(mut self, routes: &Routes, storage: &Arc<dyn Storage>) -> Self {
        let mut rest = Self::default();
        for submission in self.take_all() {
            if let Some(submission) = submission.check() {
                rest.add(submission, routes, storage);
            }
        }
        rest
    }

    /// Whether something in it is behind a batch that failed, or wanted by nobody.
    pub(super) fn has_what_goes(&self) -> bool {
        let mut submissions = self.entries.iter().map(|entry| &entry.submission);
        submissions.any(|it| it.chain.is_broken() || it.is_unwanted())
    }

    /// The same under a new id.
    pub(super) fn again(self, routes: &Routes, storage: &Arc<dyn Storage>) -> Self {
        self.without(&[], routes, storage)
    }

    /// The same, each batch on its own.
    pub(super) fn apart(mut self, routes: &Routes, storage: &Arc<dyn Storage>) -> Vec<Self> {
        let alone = |submission| {
            let mut alone = Self::default();
            alone.add(submission, routes, storage);
            alone
        };
        self.take_all().map(alone).collect()
    }
}
