//! What stands in a message, so that it can be told from all others wherever it turns up.

use flowstream::Message;

/// A message of a writer: the how-manieth, and its place among those that were appended in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) writer: u32,
    pub(crate) number: u32,
    /// Its place in the call.
    pub(crate) place: u32,
    /// How many the call had.
    pub(crate) of: u32,
}

impl Tag {
    /// Unlike that of all others; never 0.
    pub(crate) fn id(&self) -> u64 {
        u64::from(self.writer) << 32 | u64::from(self.number)
    }

    pub(crate) fn message(&self) -> Message {
        let Self {
            writer,
            number,
            place,
            of,
        } = self;
        Message::new(format!("{writer} {number} {place} {of} {:-<60}", ""))
    }

    /// Of a message that [`message`](Self::message) made.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        let text = std::str::from_utf8(message.body()).ok()?;
        let mut numbers = text.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            writer: next()?,
            number: next()?,
            place: next()?,
            of: next()?,
        })
    }
}
