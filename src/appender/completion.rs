//! Where a group write gets to.

use tokio::sync::watch;

use crate::storage::Id;

/// Where a group write gets to, for the one that follows it.
#[derive(Debug)]
pub(super) struct Completion {
    id: Id,
    /// Whether it is in the log under this id, once that is known.
    ended: watch::Sender<Option<bool>>,
}

impl Completion {
    pub(super) fn new() -> Self {
        Self {
            id: Id::random(),
            ended: watch::Sender::new(None),
        }
    }

    /// The id that the group write is tried with first.
    pub(super) fn id(&self) -> Id {
        self.id
    }

    pub(super) fn end(&self, is_in_log: bool) {
        self.ended.send_replace(Some(is_in_log));
    }

    /// Once the group write is settled: whether it is in the log under its first id.
    pub(super) async fn landed(&self) -> bool {
        let mut ended = self.ended.subscribe();
        // Whoever asks keeps the sender: it is not gone.
        let ended = ended.wait_for(Option::is_some).await;
        ended.is_ok_and(|ended| *ended == Some(true))
    }
}
