//! Messages into the records of a batch, and out of them.

use super::Message;
use crate::record::{Record, Records, RecordsBuilder};

impl Records {
    /// The message at `index`, counted from 0.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    #[inline]
    pub fn message(&self, index: u32) -> Message {
        Message::from(self.record(index))
    }
}

impl RecordsBuilder {
    /// Adds a message, and gives its index.
    ///
    /// # Panics
    ///
    /// If the batch grows over 4 GiB; the limits of messages and appends are far below.
    #[inline]
    pub fn push(&mut self, message: &Message) -> u32 {
        self.push_record(message.body(), message.attributes())
    }
}

impl<'a> FromIterator<&'a Message> for RecordsBuilder {
    fn from_iter<I: IntoIterator<Item = &'a Message>>(messages: I) -> Self {
        let mut builder = Self::default();
        for message in messages {
            builder.push(message);
        }
        builder
    }
}

impl From<Record> for Message {
    #[inline]
    fn from(record: Record) -> Self {
        let mut message = Self::new(record.body);
        if let Some(attributes) = record.attributes {
            message.rest().attributes = attributes;
        }
        message
    }
}
