//! What a producer gives.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

use crate::appender::Doubt;
use crate::delivery::Commit;
use crate::error::Result;
use crate::headers::Headers;
use crate::name::Name;

/// A message: a body, and optionally a key, headers, a timestamp and the stream it goes to.
///
/// A message may also carry commits of deliveries that it was made from: the producer of the same
/// storage writes them in the transaction that writes the message. A clone copies the data only: a
/// commit has one owner, and is written with the message that has it. So where a message goes to
/// two sinks as two clones (`a.fanout(b)` of `futures`), the commit rides in one of them, and the
/// other is written or lost by itself. To write both or neither, give both to one
/// [`append`](crate::Producer::append), each with its [stream](Self::with_stream).
///
/// ```
/// use flowstream::Message;
///
/// let message = Message::new("2 beers").with_key("table 7");
/// assert_eq!(message.body(), "2 beers");
/// ```
#[derive(Default)]
pub struct Message {
    body: Bytes,
    // The first, so that relaying a message allocates nothing.
    commit: Option<Commit>,
    // Most messages have none of it, and all are moved a lot.
    rest: Option<Box<Rest>>,
}

/// What a message may have besides its body.
#[derive(Default)]
struct Rest {
    attributes: Attributes,
    stream: Option<Name>,
    commits: Vec<Commit>,
}

/// What is stored beside the body.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) key: Option<Bytes>,
    pub(crate) headers: Headers,
    pub(crate) timestamp: Option<SystemTime>,
}

// As of the message: a key may be secret, too.
impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attributes")
            .field("key_bytes", &self.key.as_ref().map(Bytes::len))
            .field("headers", &self.headers)
            .field("timestamp", &self.timestamp)
            .finish()
    }
}

static NO_ATTRIBUTES: Attributes = Attributes {
    key: None,
    headers: Headers::EMPTY,
    timestamp: None,
};

impl Message {
    /// A message with this body.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    pub(crate) fn stored(body: Bytes, attributes: Attributes) -> Self {
        let mut message = Self::new(body);
        message.rest().attributes = attributes;
        message
    }

    pub(crate) fn attributes(&self) -> &Attributes {
        self.rest
            .as_ref()
            .map_or(&NO_ATTRIBUTES, |rest| &rest.attributes)
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// Whether it has anything besides its body and one commit.
    pub(crate) fn has_rest(&self) -> bool {
        self.rest.is_some()
    }

    /// The body.
    ///
    /// That of a delivery is a slice of its batch, and keeps the whole batch in memory for as long
    /// as it lives: see [`compact`](Self::compact).
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The key, if it has one. Messages with equal keys go to one partition.
    pub fn key(&self) -> Option<&Bytes> {
        self.attributes().key.as_ref()
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.attributes().headers
    }

    /// When it happened, if the producer said so; a delivery has the time of its append otherwise.
    /// Stored with a resolution of a microsecond.
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.attributes().timestamp
    }

    /// The stream it goes to, if that is not the producer's own.
    pub fn stream(&self) -> Option<&Name> {
        self.rest.as_ref()?.stream.as_ref()
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.rest().attributes.key = Some(key.into());
        self
    }

    /// Takes the key off.
    #[must_use]
    pub fn without_key(mut self) -> Self {
        if self.key().is_some() {
            self.rest().attributes.key = None;
        }
        self
    }

    /// Adds a header.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid), as [`Headers::insert`].
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self> {
        self.rest().attributes.headers.insert(name, value)?;
        Ok(self)
    }

    /// Sets all headers.
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.rest().attributes.headers = headers;
        self
    }

    /// Sets the timestamp.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: SystemTime) -> Self {
        self.rest().attributes.timestamp = Some(timestamp);
        self
    }

    /// Sends it to this stream instead of the producer's own.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid), as [`Name::new`].
    pub fn with_stream(mut self, stream: impl AsRef<str>) -> Result<Self> {
        self.rest().stream = Some(Name::new(stream)?);
        Ok(self)
    }

    pub(crate) fn send_to(&mut self, stream: Name) {
        self.rest().stream = Some(stream);
    }

    /// Lets `commit` ride along: it is written in the transaction that writes this message.
    /// Several may ride, when one message is made from many deliveries.
    pub fn attach(&mut self, commit: Commit) {
        match &mut self.commit {
            Some(_) => self.rest().commits.push(commit),
            none => *none = Some(commit),
        }
    }

    /// Takes the commits off again; the message goes on without them.
    pub fn take_commits(&mut self) -> Vec<Commit> {
        let more = self
            .rest
            .as_mut()
            .map(|rest| std::mem::take(&mut rest.commits));
        let first = self.commit.take();
        first
            .into_iter()
            .chain(more.into_iter().flatten())
            .collect()
    }

    pub(crate) fn commits(&self) -> impl Iterator<Item = &Commit> {
        let more = self.rest.iter().flat_map(|rest| &rest.commits);
        self.commit.iter().chain(more)
    }

    pub(crate) fn has_commits(&self) -> bool {
        self.commit.is_some()
    }

    /// Copies body, key and headers out of the batch they came in, so that keeping a small message
    /// does not keep a large batch in memory.
    #[must_use]
    pub fn compact(mut self) -> Self {
        self.body = Bytes::copy_from_slice(&self.body);
        if let Some(rest) = &mut self.rest {
            let Attributes { key, headers, .. } = &mut rest.attributes;
            if let Some(key) = key {
                *key = Bytes::copy_from_slice(key);
            }
            headers.compact();
        }
        self
    }

    /// Its size in bytes, as it counts towards limits: body, key and headers. The headers that
    /// [`dead_letter`](crate::Delivery::dead_letter) adds do not count towards
    /// [`max_message_bytes`](crate::Options::max_message_bytes).
    #[inline]
    pub fn size(&self) -> usize {
        let Some(rest) = &self.rest else {
            return self.body.len();
        };
        let Attributes { key, headers, .. } = &rest.attributes;
        self.body.len() + key.as_ref().map_or(0, Bytes::len) + headers.size()
    }
}

/// Without the commits: they stay with the original.
impl Clone for Message {
    fn clone(&self) -> Self {
        let rest = self.rest.as_ref().map(|rest| {
            Box::new(Rest {
                attributes: rest.attributes.clone(),
                stream: rest.stream.clone(),
                commits: Vec::new(),
            })
        });
        Self {
            body: self.body.clone(),
            commit: None,
            rest,
        }
    }
}

// A body may be large or secret: only its size is shown.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("body_bytes", &self.body.len())
            .field("key_bytes", &self.key().map(Bytes::len))
            .field("headers", &self.headers().iter().count())
            .field("timestamp", &self.timestamp())
            .field("stream", &self.stream())
            .field("commits", &self.commits().count())
            .finish()
    }
}

macro_rules! from_body {
    ($($body:ty),*) => {$(
        impl From<$body> for Message {
            fn from(body: $body) -> Self {
                Self::new(body)
            }
        }
    )*};
}

from_body!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);

/// Messages that are appended together or not at all.
///
/// Collect one from messages, or take one back from a producer or an error: such a batch remembers
/// under which id it was sent, so appending it again never doubles it.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) messages: Vec<Message>,
    /// In a box: most have none, and all are moved a lot.
    pub(crate) doubt: Option<Box<Doubt>>,
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
        self.doubt.is_some()
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
            doubt: None,
        }
    }
}

impl From<Vec<Message>> for Batch {
    fn from(messages: Vec<Message>) -> Self {
        Self {
            messages,
            doubt: None,
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
