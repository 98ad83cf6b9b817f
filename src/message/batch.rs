//! What is appended together.

use super::Message;
use crate::session::InDoubt;

/// Messages that are appended together or not at all.
///
/// Collect one from messages, or take one back from a producer or an error: such a batch remembers
/// under which id it was sent, so appending it again never doubles it.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) messages: Vec<Message>,
    /// What is known of an attempt whose outcome is not. In a box: most have none, and all are moved a
    /// lot.
    pub(crate) in_doubt: Option<Box<InDoubt>>,
}

impl Batch {
    /// The messages, in order.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The messages, with the commits that they carry. What the batch knew of an earlier attempt
    /// is lost: sent again one by one, messages in doubt may be doubled.
    pub fn into_messages(self) -> Vec<Message> {
        self.messages
    }

    /// Whether an earlier attempt to append it may have succeeded.
    pub fn in_doubt(&self) -> bool {
        self.in_doubt.is_some()
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it has no messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl FromIterator<Message> for Batch {
    fn from_iter<I: IntoIterator<Item = Message>>(messages: I) -> Self {
        Self {
            messages: messages.into_iter().collect(),
            in_doubt: None,
        }
    }
}

impl From<Vec<Message>> for Batch {
    fn from(messages: Vec<Message>) -> Self {
        Self {
            messages,
            in_doubt: None,
        }
    }
}

impl<const N: usize> From<[Message; N]> for Batch {
    fn from(messages: [Message; N]) -> Self {
        Self::from(Vec::from(messages))
    }
}

impl From<Message> for Batch {
    fn from(message: Message) -> Self {
        Self::from(vec![message])
    }
}
