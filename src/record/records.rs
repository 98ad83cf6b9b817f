//! A batch as a storage keeps it: columns, not rows.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::{Attributes, Headers, Record};
use crate::clock::{from_micros, to_micros};
use crate::error::{Error, ErrorKind, Result};

/// The messages of one batch in one partition: all bodies in one piece, and where to cut.
///
/// Immutable and cheap to clone. Messages taken out are slices of it: nothing is copied. Keys,
/// headers and timestamps stand in a second column of the same shape, which a batch without any
/// does not have.
#[derive(Clone, PartialEq, Eq)]
pub struct Records(Arc<Columns>);

#[derive(PartialEq, Eq)]
struct Columns {
    bodies: Column,
    attributes: Option<Column>,
}

/// Values one after the other, and the end of each.
#[derive(Default, PartialEq, Eq)]
struct Column {
    ends: Vec<u32>,
    bytes: Bytes,
}

impl Column {
    #[inline]
    fn slice(&self, index: usize) -> Bytes {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.bytes.slice(start as usize..self.ends[index] as usize)
    }

    fn encoded_len(&self) -> usize {
        size_of::<u32>() * (1 + self.ends.len()) + self.bytes.len()
    }

    /// The length of the bytes, the ends, the bytes.
    fn encode(&self, mut out: &mut [u8]) {
        out.put_u32_le(self.bytes.len() as u32);
        for end in &self.ends {
            out.put_u32_le(*end);
        }
        out.put_slice(&self.bytes);
    }

    /// The column at the start of `encoded`, and how long it was.
    fn decode(encoded: &Bytes, count: usize) -> Option<(Self, usize)> {
        let (len, rest) = encoded.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        let (ends, rest) = rest.split_at_checked(count.checked_mul(size_of::<u32>())?)?;
        let ends: Vec<u32> = ends
            .as_chunks::<4>()
            .0
            .iter()
            .map(|end| u32::from_le_bytes(*end))
            .collect();
        let sorted = ends.is_sorted() && ends.last().map_or(0, |end| *end as usize) == len;
        if !sorted || rest.len() < len {
            return None;
        }
        let start = encoded.len() - rest.len();
        let bytes = encoded.slice(start..start + len);
        Some((Self { ends, bytes }, start + len))
    }
}

const HAS_ATTRIBUTES: u8 = 1;

impl Records {
    /// The number of messages; at least one.
    #[allow(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> u32 {
        self.0.bodies.ends.len() as u32
    }

    /// The record at `index`, counted from 0. Panics if there are not so many.
    #[inline]
    pub(crate) fn record(&self, index: u32) -> Record {
        let index = index as usize;
        let body = self.0.bodies.slice(index);
        let attributes = self.0.attributes.as_ref();
        let attributes = attributes.and_then(|column| decode_attributes(column.slice(index)));
        Record {
            body,
            attributes: attributes.filter(|attributes| !attributes.is_empty()),
        }
    }

    /// All bodies, one after the other.
    pub fn bodies(&self) -> &Bytes {
        &self.0.bodies.bytes
    }

    /// Where each body ends in [`bodies`](Self::bodies), in bytes.
    pub fn ends(&self) -> &[u32] {
        &self.0.bodies.ends
    }

    /// Its size in memory, in bytes; nearly that of its encoding.
    pub fn size(&self) -> usize {
        self.encoded_len()
    }

    /// The length of what [`encode`](Self::encode) writes, in bytes.
    pub fn encoded_len(&self) -> usize {
        let attributes = self.0.attributes.as_ref().map_or(0, Column::encoded_len);
        1 + size_of::<u32>() + self.0.bodies.encoded_len() + attributes
    }

    /// Writes the batch as one value, for storages that keep values: the number of messages, and
    /// the columns. Little endian, without a checksum.
    ///
    /// # Panics
    ///
    /// If `out` is not [`encoded_len`](Self::encoded_len) bytes long.
    pub fn encode(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.encoded_len(), "the buffer has another size");
        let (head, rest) = out.split_at_mut(1 + size_of::<u32>());
        head[0] = if self.0.attributes.is_some() {
            HAS_ATTRIBUTES
        } else {
            0
        };
        head[1..].copy_from_slice(&self.len().to_le_bytes());
        let (bodies, attributes) = rest.split_at_mut(self.0.bodies.encoded_len());
        self.0.bodies.encode(bodies);
        if let Some(column) = &self.0.attributes {
            column.encode(attributes);
        }
    }

    /// The column of keys, headers and timestamps: where those of each message end in its bytes, and the
    /// bytes. `None` where no message has any.
    #[cfg(feature = "postgres")]
    pub(crate) fn attributes(&self) -> Option<(&[u32], &Bytes)> {
        let column = self.0.attributes.as_ref();
        column.map(|column| (&column.ends[..], &column.bytes))
    }

    /// Puts the batch together again out of its two columns, each as where its values end, in four bytes
    /// each, the low one first, and their bytes. One copy: the messages are slices of it.
    ///
    /// # Errors
    ///
    /// [`Data`](ErrorKind::Data) if these are no such columns.
    #[cfg(feature = "postgres")]
    pub(crate) fn of_columns(
        bodies: (&[u8], &[u8]),
        attributes: Option<(&[u8], &[u8])>,
    ) -> Result<Self> {
        let columns = || std::iter::once(bodies).chain(attributes);
        let lens = columns().map(|(ends, bytes)| size_of::<u32>() + ends.len() + bytes.len());
        let mut encoded = Vec::with_capacity(1 + size_of::<u32>() + lens.sum::<usize>());
        encoded.put_u8(attributes.map_or(0, |_| HAS_ATTRIBUTES));
        encoded.put_u32_le((bodies.0.len() / size_of::<u32>()) as u32);
        for (ends, bytes) in columns() {
            encoded.put_u32_le(bytes.len() as u32);
            encoded.put_slice(ends);
            encoded.put_slice(bytes);
        }
        Self::decode(&encoded.into())
    }

    /// Reads what [`encode`](Self::encode) wrote. The messages are slices of `encoded`.
    ///
    /// # Errors
    ///
    /// [`Data`](ErrorKind::Data) if that is not what it wrote.
    pub fn decode(encoded: &Bytes) -> Result<Self> {
        Self::try_decode(encoded).ok_or_else(|| {
            Error::new(
                ErrorKind::Data,
                "a stored batch of messages is damaged: restore the storage from a backup",
            )
        })
    }

    fn try_decode(encoded: &Bytes) -> Option<Self> {
        let (flags, rest) = encoded.split_first_chunk::<1>()?;
        let (count, _) = rest.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        if count == 0 || flags[0] & !HAS_ATTRIBUTES != 0 {
            return None;
        }
        let rest = encoded.slice(1 + size_of::<u32>()..);
        let (bodies, len) = Column::decode(&rest, count)?;
        let rest = rest.slice(len..);
        let (attributes, len) = if flags[0] & HAS_ATTRIBUTES != 0 {
            let (column, len) = Column::decode(&rest, count)?;
            for index in 0..count {
                decode_attributes(column.slice(index))?;
            }
            (Some(column), len)
        } else {
            (None, 0)
        };
        (len == rest.len()).then(|| Self(Arc::new(Columns { bodies, attributes })))
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("messages", &self.len())
            .field("bytes", &self.size())
            .finish()
    }
}

impl fmt::Debug for RecordsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordsBuilder")
            .field("messages", &self.len())
            .field("bytes", &(self.bodies.len() + self.attributes.len()))
            .finish()
    }
}

const HAS_KEY: u8 = 1;
const HAS_TIMESTAMP: u8 = 2;

/// Nothing for a message that has only a body; otherwise flags, timestamp, key, headers.
fn encode_attributes(attributes: &Attributes, out: &mut Vec<u8>) {
    if attributes.is_empty() {
        return;
    }
    let Attributes {
        key,
        headers,
        timestamp,
    } = attributes;
    let mut flags = 0;
    if key.is_some() {
        flags |= HAS_KEY;
    }
    if timestamp.is_some() {
        flags |= HAS_TIMESTAMP;
    }
    out.put_u8(flags);
    if let Some(timestamp) = timestamp {
        out.put_i64_le(to_micros(*timestamp));
    }
    if let Some(key) = key {
        out.put_u32_le(key.len() as u32);
        out.put_slice(key);
    }
    out.put_slice(headers.encoded());
}

fn decode_attributes(encoded: Bytes) -> Option<Attributes> {
    let mut attributes = Attributes::default();
    let Some(flags) = encoded.first().copied() else {
        return Some(attributes);
    };
    if flags & !(HAS_KEY | HAS_TIMESTAMP) != 0 {
        return None;
    }
    let mut rest = encoded.slice(1..);
    if flags & HAS_TIMESTAMP != 0 {
        let micros = i64::from_le_bytes(*rest.first_chunk::<8>()?);
        attributes.timestamp = Some(from_micros(micros));
        rest = rest.slice(8..);
    }
    if flags & HAS_KEY != 0 {
        let len = u32::from_le_bytes(*rest.first_chunk::<4>()?) as usize;
        let end = 4usize.checked_add(len).filter(|end| *end <= rest.len())?;
        attributes.key = Some(rest.slice(4..end));
        rest = rest.slice(end..);
    }
    attributes.headers = Headers::decode(rest)?;
    Some(attributes)
}

/// Gathers messages into [`Records`].
#[derive(Default)]
pub struct RecordsBuilder {
    body_ends: Vec<u32>,
    bodies: Vec<u8>,
    attribute_ends: Vec<u32>,
    attributes: Vec<u8>,
}

impl RecordsBuilder {
    /// Adds a record, and gives its index. Panics if the batch grows over 4 GiB.
    #[inline]
    pub(crate) fn push_record(&mut self, body: &[u8], attributes: Option<&Attributes>) -> u32 {
        self.bodies.extend_from_slice(body);
        let end = u32::try_from(self.bodies.len()).expect("a batch under 4 GiB");
        self.body_ends.push(end);
        if attributes.is_some() || !self.attributes.is_empty() {
            self.push_attributes(attributes.unwrap_or(&Attributes::NONE));
        }
        self.body_ends.len() as u32 - 1
    }

    /// Adds the attributes of the record whose body was pushed last.
    fn push_attributes(&mut self, attributes: &Attributes) {
        encode_attributes(attributes, &mut self.attributes);
        if !self.attributes.is_empty() {
            let end = u32::try_from(self.attributes.len()).expect("a batch under 4 GiB");
            // Those before the first message with attributes have empty ones.
            self.attribute_ends.resize(self.body_ends.len() - 1, 0);
            self.attribute_ends.push(end);
        }
    }

    /// Makes room for so many more messages, with so many bytes in their bodies.
    pub fn reserve(&mut self, messages: usize, body_bytes: usize) {
        self.body_ends.reserve(messages);
        self.bodies.reserve(body_bytes);
    }

    /// The number of messages so far.
    pub fn len(&self) -> u32 {
        self.body_ends.len() as u32
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.body_ends.is_empty()
    }

    /// The batch; `None` if it has no messages.
    pub fn build(mut self) -> Option<Records> {
        if self.body_ends.is_empty() {
            return None;
        }
        trim(&mut self.bodies);
        trim(&mut self.attributes);
        let attributes = (!self.attributes.is_empty()).then(|| Column {
            ends: self.attribute_ends,
            bytes: self.attributes.into(),
        });
        Some(Records(Arc::new(Columns {
            bodies: Column {
                ends: self.body_ends,
                bytes: self.bodies.into(),
            },
            attributes,
        })))
    }
}

/// A batch may be kept for long, and counts for what is in it: what has grown by doubling gives back
/// what it has over.
fn trim(bytes: &mut Vec<u8>) {
    if bytes.capacity() - bytes.len() > bytes.len() / 8 {
        bytes.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests;
