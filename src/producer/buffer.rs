//! What a producer gathers before it leaves together.

use crate::limits::{MAX_APPEND_BYTES, MAX_APPEND_MESSAGES};
use crate::message::{Batch, Message};

/// What one message costs in a buffer besides its bytes.
const MESSAGE_OVERHEAD: usize = 64;

/// When a buffer leaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct BufferLimits {
    pub(super) bytes: usize,
    pub(super) messages: usize,
}

/// The messages that were accepted and have not left.
pub(super) struct Buffer {
    limits: BufferLimits,
    messages: Vec<Message>,
    bytes: usize,
    /// It took a message that there was no room for.
    is_over: bool,
}

impl Buffer {
    pub(super) fn new(limits: BufferLimits) -> Self {
        Self {
            limits,
            messages: Vec::new(),
            bytes: 0,
            is_over: false,
        }
    }

    pub(super) fn limits(&self) -> BufferLimits {
        self.limits
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.limits.bytes || self.messages.len() >= self.limits.messages
    }

    /// Whether it took a message that there was no room for.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn set_over(&mut self) {
        self.is_over = true;
    }

    /// Whether a batch with this message, too, is one that an append takes.
    #[inline]
    pub(super) fn fits(&self, message: &Message) -> bool {
        self.bytes + message.size() <= MAX_APPEND_BYTES && self.messages.len() < MAX_APPEND_MESSAGES
    }

    #[inline]
    pub(super) fn push(&mut self, message: Message) {
        self.bytes += message.size() + MESSAGE_OVERHEAD;
        self.messages.push(message);
    }

    /// Takes all out. The next messages mostly are as many.
    pub(super) fn take(&mut self) -> Batch {
        self.bytes = 0;
        self.is_over = false;
        let capacity = self.messages.len();
        let filled = std::mem::replace(&mut self.messages, Vec::with_capacity(capacity));
        Batch::from(filled)
    }
}
