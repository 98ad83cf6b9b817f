//! Headers of a message.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};

/// Names and values that travel beside the body of a message, in the order they were added.
///
/// A name may occur more than once, as in HTTP. Headers are kept encoded, so that those of a
/// delivery are a slice of its batch: cloning is cheap, looking one up is linear in their number.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    // A sequence of: length of the name (u16), of the value (u32), both little endian, name, value.
    encoded: Bytes,
}

const PREFIX: usize = 2 + 4;

impl Headers {
    /// The longest name of a header, in bytes.
    pub const MAX_NAME_BYTES: usize = 1024;

    pub(crate) const EMPTY: Self = Self {
        encoded: Bytes::new(),
    };

    /// No headers.
    pub const fn new() -> Self {
        Self::EMPTY
    }

    /// Adds a header after those that are there.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) if the name is empty, has a control character, or is
    /// longer than [`MAX_NAME_BYTES`](Self::MAX_NAME_BYTES), or if the value is longer than 4 GiB.
    pub fn insert(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        let value = value.as_ref();
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!(
                "a header's name cannot be empty or have control characters: {name:?}"
            )));
        }
        if name.len() > Self::MAX_NAME_BYTES {
            return Err(Error::invalid(format!(
                "a header's name has at most {} bytes, this one has {}: shorten it",
                Self::MAX_NAME_BYTES,
                name.len()
            )));
        }
        if u32::try_from(value.len()).is_err() {
            return Err(Error::invalid(format!(
                "the header {name:?} is over 4 GiB: put it into the body, or elsewhere"
            )));
        }
        self.put(name, value);
        Ok(())
    }

    /// One that was in headers before, and is taken as it is: what is stored may have a name that
    /// nobody can give any more.
    pub(crate) fn put(&mut self, name: &str, value: &[u8]) {
        let mut grown = match std::mem::take(&mut self.encoded).try_into_mut() {
            Ok(unique) => unique,
            Err(shared) => BytesMut::from(&shared[..]),
        };
        grown.reserve(PREFIX + name.len() + value.len());
        grown.put_u16_le(name.len() as u16);
        grown.put_u32_le(value.len() as u32);
        grown.put_slice(name.as_bytes());
        grown.put_slice(value);
        self.encoded = grown.freeze();
    }

    /// The value of the first header with this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter()
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// All headers, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = &self.encoded[..];
        std::iter::from_fn(move || {
            let (header, tail) = split(rest)?;
            rest = tail;
            Some(header)
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// Their size in bytes, as it counts towards the limit of a message.
    pub fn size(&self) -> usize {
        self.encoded.len()
    }

    /// What one header takes of it.
    pub(crate) fn encoded_bytes(name: &str, value: &[u8]) -> usize {
        PREFIX + name.len() + value.len()
    }

    pub(crate) fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// `None` where the bytes are not headers.
    pub(crate) fn decode(encoded: Bytes) -> Option<Self> {
        let mut rest = &encoded[..];
        while !rest.is_empty() {
            (_, rest) = split(rest)?;
        }
        Some(Self { encoded })
    }

    pub(crate) fn compact(&mut self) {
        self.encoded = Bytes::copy_from_slice(&self.encoded);
    }
}

/// A name and its value.
type Header<'a> = (&'a str, &'a [u8]);

/// Takes the first header off; `None` at the end, and where the bytes are not headers.
fn split(encoded: &[u8]) -> Option<(Header<'_>, &[u8])> {
    let (name_len, rest) = encoded.split_first_chunk::<2>()?;
    let (value_len, rest) = rest.split_first_chunk::<4>()?;
    let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*name_len).into())?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
    Some(((std::str::from_utf8(name).ok()?, value), rest))
}

// A value may be secret, a token, say: only its size is shown.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self.iter().map(|(name, value)| (name, value.len()));
        f.debug_map().entries(sizes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_order_and_repeat() {
        let mut headers = Headers::new();
        headers.insert("a", "1").unwrap();
        let before = headers.clone();
        headers.insert("b", [0, 255]).unwrap();
        headers.insert("a", "").unwrap();
        let all: Vec<_> = headers.iter().collect();
        assert_eq!(
            all,
            [("a", &b"1"[..]), ("b", &[0, 255][..]), ("a", &b""[..])]
        );
        assert_eq!(headers.get("a"), Some(&b"1"[..]));
        assert_eq!(headers.get("c"), None);
        assert_eq!(before.iter().count(), 1);
        assert_eq!(Headers::decode(headers.encoded().clone()).unwrap(), headers);
    }

    #[test]
    fn bad_headers_are_refused() {
        let mut headers = Headers::new();
        for bad in ["", "a\0", "\n", &"x".repeat(1025)] {
            assert!(headers.insert(bad, "v").is_err());
        }
        assert!(headers.is_empty());
        for damaged in [
            &b"\x01"[..],
            b"\x01\0\0\0\0\0",
            b"\x01\0\x09\0\0\0ab",
            b"\x01\0\0\0\0\0\xff",
        ] {
            assert!(Headers::decode(Bytes::from_static(damaged)).is_none());
        }
    }

    #[test]
    fn the_longest_name_is_accepted() {
        let longest = "x".repeat(Headers::MAX_NAME_BYTES);
        let mut headers = Headers::new();
        headers.insert(&longest, "v").unwrap();
        assert_eq!(headers.get(&longest), Some(&b"v"[..]));
    }

    #[test]
    fn what_is_compacted_keeps_no_batch_in_memory() {
        let mut headers = Headers::new();
        headers.insert("a", "1").unwrap();
        let mut batch = BytesMut::from(&[0; 1000][..]);
        batch.extend_from_slice(headers.encoded());
        let batch = batch.freeze();
        let mut part = Headers::decode(batch.slice(1000..)).unwrap();
        part.compact();
        assert!(batch.is_unique());
        assert_eq!(part, headers);
    }
}
