//! Batches and other values as columns of a row.

use std::borrow::Cow;
use std::str::FromStr;

use bytes::{BufMut, Bytes};
use sqlx::Row;
use sqlx::postgres::{PgRow, PgValueFormat};
use uuid::Uuid;

use super::liveness::FailureDetector;
use crate::clock::from_micros;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{GroupState, Id, Progress, Ranges, Records, StoredBatch};

/// A batch as it is written.
pub(super) struct Columns {
    pub(super) count: i32,
    pub(super) ends: Bytes,
    pub(super) bodies: Bytes,
    /// Where the attributes of each message end, and the attributes; `None` where no message has any.
    attributes: Option<(Bytes, Bytes)>,
}

impl Columns {
    pub(super) fn of(records: &Records) -> Self {
        let attributes = records.attributes();
        Self {
            count: records.len() as i32,
            ends: encode_ends(records.ends()),
            bodies: records.bodies().clone(),
            attributes: attributes.map(|(ends, bytes)| (encode_ends(ends), bytes.clone())),
        }
    }

    pub(super) fn attribute_ends(&self) -> Option<&[u8]> {
        self.attributes.as_ref().map(|(ends, _)| &ends[..])
    }

    pub(super) fn attributes(&self) -> Option<&[u8]> {
        self.attributes.as_ref().map(|(_, bytes)| &bytes[..])
    }
}

/// Reads columns of a row from left to right.
pub(super) struct Reader<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> Reader<'r> {
    pub(super) fn new(row: &'r PgRow) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn skip(&mut self, columns: usize) {
        self.next += columns;
    }

    /// The place of the row's number, counted from 1, which is its next column.
    pub(super) fn numbered<'a, T>(&mut self, all: &'a mut [T]) -> Result<&'a mut T> {
        let number = self.int()?.and_then(|number| usize::try_from(number).ok());
        let index = number.and_then(|number| number.checked_sub(1));
        index
            .and_then(|index| all.get_mut(index))
            .ok_or_else(not_understood)
    }

    fn raw(&mut self) -> Result<Option<(PgValueFormat, &'r [u8])>> {
        let value = self.row.try_get_raw(self.next);
        let value = value.map_err(|_| not_understood())?;
        self.next += 1;
        let format = value.format();
        // The only error there is: NULL.
        Ok(value.as_bytes().ok().map(|bytes| (format, bytes)))
    }

    /// A value of so many bytes, or what its text says.
    fn fixed<T, const N: usize>(
        &mut self,
        binary: impl FnOnce([u8; N]) -> T,
        text: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let value = match self.raw()? {
            None => return Ok(None),
            Some((PgValueFormat::Binary, bytes)) => bytes.try_into().ok().map(binary),
            Some((PgValueFormat::Text, bytes)) => std::str::from_utf8(bytes).ok().and_then(text),
        };
        value.map(Some).ok_or_else(not_understood)
    }

    pub(super) fn int(&mut self) -> Result<Option<i32>> {
        self.fixed(i32::from_be_bytes, |text| text.parse().ok())
    }

    pub(super) fn bool(&mut self) -> Result<bool> {
        Ok(self.optional_bool()?.unwrap_or(false))
    }

    fn optional_bool(&mut self) -> Result<Option<bool>> {
        self.fixed(|[byte]| byte != 0, |text| Some(text == "t"))
    }

    pub(super) fn bigint(&mut self) -> Result<Option<i64>> {
        self.fixed(i64::from_be_bytes, |text| text.parse().ok())
    }

    /// A number that is never negative: an offset, an epoch, a generation.
    pub(super) fn offset(&mut self) -> Result<u64> {
        let value = self.bigint()?.ok_or_else(not_understood)?;
        u64::try_from(value).map_err(|_| nonsense())
    }

    pub(super) fn id(&mut self) -> Result<Option<Id>> {
        let of_text = |text: &str| Some(Id(Uuid::parse_str(text).ok()?.as_u128()));
        self.fixed(|bytes| Id(u128::from_be_bytes(bytes)), of_text)
    }

    pub(super) fn text(&mut self) -> Result<&'r str> {
        self.optional_text()?.ok_or_else(not_understood)
    }

    pub(super) fn optional_text(&mut self) -> Result<Option<&'r str>> {
        let text = self.raw()?.map(|(_, bytes)| std::str::from_utf8(bytes));
        // In a database without an encoding names may be any bytes.
        text.transpose().map_err(|_| nonsense())
    }

    /// The id of a transaction, as text.
    pub(super) fn xid(&mut self) -> Result<u64> {
        self.text()?.parse().map_err(|_| not_understood())
    }

    fn bytes(&mut self) -> Result<Option<Cow<'r, [u8]>>> {
        match self.raw()? {
            None => Ok(None),
            Some((PgValueFormat::Binary, bytes)) => Ok(Some(bytes.into())),
            Some((PgValueFormat::Text, text)) => {
                let bytes = decode_hex(text).ok_or_else(not_understood)?;
                Ok(Some(bytes.into()))
            }
        }
    }

    /// The elements of an array without NULLs; none of one that is NULL itself.
    fn array<T: FromStr, const N: usize>(&mut self, binary: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let (format, bytes) = self.raw()?.unwrap_or((PgValueFormat::Binary, &[]));
        decode_array(format, bytes, binary).ok_or_else(nonsense)
    }

    /// A range of offsets in two columns.
    pub(super) fn bounds(&mut self) -> Result<std::ops::Range<u64>> {
        let bounds = self.offset()?..self.offset()?;
        match bounds.start <= bounds.end {
            true => Ok(bounds),
            false => Err(nonsense()),
        }
    }

    /// The progress in two columns: the position, and the acked ranges as text.
    pub(super) fn progress(&mut self) -> Result<Progress> {
        let mut progress = Progress::at(self.offset()?);
        progress.merge(&decode_ranges(self.text()?).ok_or_else(nonsense)?);
        Ok(progress)
    }

    /// The progress as a commit gives it: the position; where the acked ranges begin, and then where they end.
    pub(super) fn committed(&mut self) -> Result<Progress> {
        let mut progress = Progress::at(self.offset()?);
        let bounds = self.array(i64::from_be_bytes)?;
        let (starts, ends) = bounds.split_at(bounds.len() / 2);
        let mut acked = Ranges::new();
        for (start, end) in starts.iter().zip(ends) {
            let offset = |number: &i64| u64::try_from(*number).map_err(|_| nonsense());
            acked.insert(offset(start)?..offset(end)?);
        }
        progress.merge(&acked);
        Ok(progress)
    }

    /// How a group stands, as `state` of the schema gives it.
    pub(super) fn state(&mut self, detector: &FailureDetector) -> Result<GroupState> {
        let owner = self.id()?;
        let epoch = self.offset()?;
        let generation = self.offset()?;
        let progress = self.progress()?;
        let offsets = self.array(i64::from_be_bytes)?;
        let counts = self.array(i32::from_be_bytes)?;
        let attempts = offsets.into_iter().zip(counts).map(|(offset, count)| {
            let attempt = (offset.try_into().ok()?, count.try_into().ok()?);
            Some(attempt)
        });
        let attempts: Option<Vec<(u64, u32)>> = attempts.collect();
        let mut attempts = attempts.ok_or_else(nonsense)?;
        attempts.sort_unstable();
        let bounds = self.bounds()?;
        let incarnation = self.bigint()?.unwrap_or_default() as u64;
        let is_alive = self.optional_bool()?;
        Ok(GroupState {
            owner,
            // Where its process is not known, it is the owner that is not there.
            liveness: detector.liveness_of(self.id()?.or(owner), is_alive),
            epoch,
            generation,
            progress,
            attempts,
            bounds,
            incarnation,
        })
    }

    /// A batch; `None` where there is none. One copy: messages are slices of it.
    pub(super) fn batch(&mut self) -> Result<Option<StoredBatch>> {
        let Some(base) = self.bigint()? else {
            return Ok(None);
        };
        let count = self.int()?.ok_or_else(not_understood)? as u32;
        let appended_at = from_micros(self.bigint()?.ok_or_else(not_understood)?);
        let ends = self.bytes()?.unwrap_or_default();
        let bodies = self.bytes()?.unwrap_or_default();
        let attribute_ends = self.bytes()?.unwrap_or_default();
        let attributes = self.bytes()?;
        let is_whole = attributes.is_some() || attribute_ends.is_empty();
        if ends.len() != count as usize * size_of::<u32>() || !is_whole {
            return Err(damaged(base));
        }
        let attributes = attributes.as_deref().map(|bytes| (&*attribute_ends, bytes));
        let records = Records::of_columns((&ends, &bodies), attributes);
        let records = records.map_err(|_| damaged(base))?;
        Ok(Some(StoredBatch {
            base_offset: u64::try_from(base).map_err(|_| damaged(base))?,
            appended_at,
            records,
        }))
    }
}

/// The ends of values as the schema keeps them: in four bytes each, the low one first.
fn encode_ends(ends: &[u32]) -> Bytes {
    let mut encoded = Vec::with_capacity(size_of_val(ends));
    ends.iter().for_each(|end| encoded.put_u32_le(*end));
    encoded.into()
}

fn decode_array<T: FromStr, const N: usize>(
    format: PgValueFormat,
    bytes: &[u8],
    binary: fn([u8; N]) -> T,
) -> Option<Vec<T>> {
    const HEAD: usize = 20;
    if format == PgValueFormat::Text {
        let text = std::str::from_utf8(bytes).ok()?;
        let inside = text.strip_prefix('{')?.strip_suffix('}')?;
        let elements = inside.split_terminator(',').map(str::parse);
        return elements.collect::<Result<_, _>>().ok();
    }
    let elements = bytes.get(HEAD..).unwrap_or_default();
    let step = size_of::<u32>() + N;
    if !elements.len().is_multiple_of(step) {
        return None;
    }
    let elements = elements.chunks_exact(step).map(|element| {
        let (len, value) = element.split_first_chunk()?;
        let is_whole = u32::from_be_bytes(*len) as usize == N;
        is_whole.then_some(binary(value.try_into().ok()?))
    });
    elements.collect()
}

/// The bytes of a `bytea` in text: as `bytea_output = hex` has it, which messages begin with.
fn decode_hex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = text.strip_prefix(b"\\x")?.as_chunks() else {
        return None;
    };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8));
    bytes.collect()
}

/// Ranges as the server reads and writes an `int8multirange`.
pub(super) fn encode_ranges(ranges: &Ranges) -> String {
    let mut text = String::from("{");
    for range in ranges.iter() {
        if text.len() > 1 {
            text.push(',');
        }
        text += &format!("[{},{})", range.start, range.end);
    }
    text.push('}');
    text
}

fn decode_ranges(text: &str) -> Option<Ranges> {
    let inside = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut ranges = Ranges::new();
    for range in inside.split_terminator("),") {
        let (start, end) = range.strip_prefix('[')?.split_once(',')?;
        let end = end.strip_suffix(')').unwrap_or(end);
        ranges.insert(start.parse().ok()?..end.parse().ok()?);
    }
    Some(ranges)
}

pub(super) fn not_understood() -> Error {
    Error::new(
        ErrorKind::Internal,
        "an answer of the server is not understood: is its schema the one of this flowstream?",
    )
}

/// That a row holds what somebody else wrote.
pub(super) fn nonsense() -> Error {
    Error::new(
        ErrorKind::Data,
        "a row holds what flowstream never writes: restore the database from a backup",
    )
}

pub(super) fn damaged(base: i64) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("the batch at offset {base} is damaged: restore the database from a backup"),
    )
}

/// Decodes values of columns, in both formats, out of any bytes.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    for format in [PgValueFormat::Binary, PgValueFormat::Text] {
        let _ = decode_array(format, data, u32::from_be_bytes);
        let _ = decode_array(format, data, u64::from_be_bytes);
    }
    let _ = decode_hex(data);
    let ranges = std::str::from_utf8(data).ok().and_then(decode_ranges);
    if let Some(ranges) = ranges {
        assert_eq!(decode_ranges(&encode_ranges(&ranges)), Some(ranges));
    }
}

#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_text_for_the_server() {
        for (ranges, text) in [
            (&[][..], "{}"),
            (&[0..5], "{[0,5)}"),
            (&[1..2, 7..9], "{[1,2),[7,9)}"),
        ] {
            let ranges: Ranges = ranges.iter().cloned().collect();
            assert_eq!(encode_ranges(&ranges), text);
            assert_eq!(decode_ranges(text), Some(ranges));
        }
        for text in ["", "{", "[1,2)", "{(1,2)}", "{[a,b)}"] {
            assert_eq!(decode_ranges(text), None, "{text}");
        }
    }
}
