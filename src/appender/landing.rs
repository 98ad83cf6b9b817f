//! Where a statement gets to.

use tokio::sync::watch;

use crate::storage::Id;

/// Where a statement gets to, for the one that follows it.
#[derive(Debug)]
pub(super) struct Landing {
    id: Id,
    /// Whether it is in the log under this id, once that is known.
    ended: watch::Sender<Option<bool>>,
}

impl Landing {
    pub(super) fn new() -> Self {
        Self {
            id: Id::random(),
            ended: watch::Sender::new(None),
        }
    }

    /// The id that the statement is tried with first.
    pub(super) fn id(&self) -> Id {
        self.id
    }

    pub(super) fn end(&self, is_in_log: bool) {
        self.ended.send_replace(Some(is_in_log));
    }

    /// Once the statement is settled: whether it is in the log under its first id.
    pub(super) async fn landed(&self) -> bool {
        let mut ended = self.ended.subscribe();
        // Whoever asks keeps the sender: it is not gone.
        let ended = ended.wait_for(Option::is_some).await;
        ended.is_ok_and(|ended| *ended == Some(true))
    }
}
