//! What is left of a group write, as a new one.

use std::collections::HashSet;
use std::sync::Arc;

use super::group_write::GroupWrite;
use super::outcome::finish;
use super::routing::Routing;
use crate::error::{Error, ErrorKind};
use crate::message::Message;
use crate::session::{Commit, Session};
use crate::storage::Storage;

impl GroupWrite {
    /// This group write without what came from these leases.
    pub(super) fn without(
        mut self,
        leases: &[usize],
        routing: &Routing,
        storage: &Arc<dyn Storage>,
    ) -> Self {
        let lost: Vec<Arc<Session>> = leases
            .iter()
            .filter_map(|index| self.commits.get(*index))
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
            let request = &mut entry.request;
            if request.atomic && request.batch.messages.iter().any(is_lost) {
                entry.request.fail(Error::new(
                    ErrorKind::Fenced,
                    "nothing of this append was written: it carries a commit of a lease that \
                     another consumer took over, who gets the message again",
                ));
                continue;
            }
            let before = request.batch.len();
            request.batch.messages.retain(|message| !is_lost(message));
            let dropped = before - request.batch.len();
            if dropped > 0 {
                tracing::info!(
                    stream = %request.stream,
                    messages = dropped,
                    "dropped relayed messages whose lease was taken over"
                );
            }
            if request.batch.is_empty() {
                finish(entry.request, false, Vec::new(), storage);
            } else {
                rest.add(entry.request, routing, storage);
            }
        }
        rest
    }

    /// This group write without what is behind a batch that failed, and without what nobody wants.
    pub(super) fn without_failed(mut self, routing: &Routing, storage: &Arc<dyn Storage>) -> Self {
        let mut rest = Self::default();
        for request in self.take_all() {
            if let Some(request) = request.check() {
                rest.add(request, routing, storage);
            }
        }
        rest
    }

    /// Whether something in it is behind a batch that failed, or wanted by nobody.
    pub(super) fn has_what_goes(&self) -> bool {
        let mut requests = self.entries.iter().map(|entry| &entry.request);
        requests.any(|it| it.sequence.is_broken() || it.is_unwanted())
    }

    /// This group write under a new id.
    pub(super) fn again(self, routing: &Routing, storage: &Arc<dyn Storage>) -> Self {
        self.without(&[], routing, storage)
    }

    /// The batches of this group write, each in one of its own.
    pub(super) fn split(mut self, routing: &Routing, storage: &Arc<dyn Storage>) -> Vec<Self> {
        let alone = |request| {
            let mut alone = Self::default();
            alone.add(request, routing, storage);
            alone
        };
        self.take_all().map(alone).collect()
    }
}
