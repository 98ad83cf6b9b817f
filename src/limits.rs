//! What one message and one append may take.

use crate::error::{Error, Result};
use crate::message::Message;
use crate::message::dead_letter::own_bytes;

/// The most that one append takes, in bytes.
pub(crate) const MAX_APPEND_BYTES: usize = 64 << 20;

/// The most messages that one append takes.
pub(crate) const MAX_APPEND_MESSAGES: usize = 1 << 20;

/// The largest message, as [`Options::max_message_bytes`](crate::Options::max_message_bytes) says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_message_bytes: usize,
}

impl Limits {
    /// Refuses a message that is over the limit.
    #[inline]
    pub(crate) fn check(self, message: &Message) -> Result<()> {
        match message.size() > self.max_message_bytes {
            true => check_oversized(message, self.max_message_bytes),
            false => Ok(()),
        }
    }

    /// Refuses messages that are too much for one append. What the headers of dead letters take is on top
    /// of it.
    pub(crate) fn check_append(self, messages: &[Message]) -> Result<()> {
        let bytes: usize = messages.iter().map(Message::size).sum();
        let own = || {
            messages
                .iter()
                .map(|m| own_bytes(m.headers()))
                .sum::<usize>()
        };
        let is_too_much = bytes > MAX_APPEND_BYTES && bytes - own() > MAX_APPEND_BYTES;
        if is_too_much || messages.len() > MAX_APPEND_MESSAGES {
            return Err(Error::invalid(format!(
                "one append takes at most {MAX_APPEND_BYTES} bytes and {MAX_APPEND_MESSAGES} \
                 messages, not {bytes} bytes and {} messages: append it in parts",
                messages.len()
            )));
        }
        Ok(())
    }
}

/// One that is over the limit with the headers of a dead letter, and not without, can be appended back.
#[cold]
fn check_oversized(message: &Message, limit: usize) -> Result<()> {
    let size = message.size() - own_bytes(message.headers());
    if size <= limit {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a message of {size} bytes is over the limit of {limit} bytes: cut it, or raise the limit \
         (Options::max_message_bytes)"
    )))
}
