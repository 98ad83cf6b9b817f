//! Batches and other values as columns of a row.

use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{GroupState, Id, Progress, Ranges, Records, StoredBatch};

/// A batch as it is written.
pub(super) struct Columns {
    pub(super) count: i32,
    pub(super) ends: Vec<i32>,
    pub(super) attributes: Option<(Vec<i32>, Bytes)>,
}

/// The flag and the number of messages, as [`Records::encode`] writes them.
const HEAD: usize = 1 + size_of::<u32>();
const HAS_ATTRIBUTES: u8 = 1;

impl Columns {
    pub(super) fn of(records: &Records) -> Self {
        let ends = records.ends().iter().map(|end| *end as i32).collect();
        let plain = HEAD + size_of::<u32>() + size_of_val(records.ends()) + records.bodies().len();
        let attributes = (records.encoded_len() > plain).then(|| {
            let mut encoded = BytesMut::zeroed(records.encoded_len());
            records.encode(&mut encoded);
            let column = encoded.freeze().slice(plain + size_of::<u32>()..);
            let (ends, bytes) = column.split_at(size_of_val(records.ends()));
            let ends = ends
                .as_chunks()
                .0
                .iter()
                .map(|end| i32::from_le_bytes(*end));
            (ends.collect(), column.slice_ref(bytes))
        });
        Self {
            count: records.len() as i32,
            ends,
            attributes,
        }
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

    fn raw(&mut self) -> Result<Option<&'r [u8]>> {
        let value = self
            .row
            .try_get_raw(self.next)
            .map_err(|_| not_understood())?;
        self.next += 1;
        match value.as_bytes() {
            Ok(bytes) => Ok(Some(bytes)),
            // The only error there is: NULL.
            Err(_) => Ok(None),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<Option<[u8; N]>> {
        let Some(bytes) = self.raw()? else {
            return Ok(None);
        };
        bytes.try_into().map(Some).map_err(|_| not_understood())
    }

    pub(super) fn int(&mut self) -> Result<Option<i32>> {
        Ok(self.fixed()?.map(i32::from_be_bytes))
    }

    pub(super) fn bool(&mut self) -> Result<bool> {
        Ok(self.fixed::<1>()?.is_some_and(|byte| byte != [0]))
    }

    pub(super) fn bigint(&mut self) -> Result<Option<i64>> {
        Ok(self.fixed()?.map(i64::from_be_bytes))
    }

    /// An offset, an epoch, a generation.
    pub(super) fn offset(&mut self) -> Result<u64> {
        let value = self.bigint()?.ok_or_else(not_understood)?;
        u64::try_from(value).map_err(|_| not_understood())
    }

    pub(super) fn id(&mut self) -> Result<Option<Id>> {
        Ok(self.fixed()?.map(|bytes| Id(u128::from_be_bytes(bytes))))
    }

    pub(super) fn text(&mut self) -> Result<&'r str> {
        let bytes = self.raw()?.ok_or_else(not_understood)?;
        std::str::from_utf8(bytes).map_err(|_| not_understood())
    }

    fn time(&mut self) -> Result<SystemTime> {
        // Microseconds since 2000.
        const YEAR_2000: Duration = Duration::from_secs(946_684_800);
        let micros = self.bigint()?.ok_or_else(not_understood)?;
        let distance = Duration::from_micros(micros.unsigned_abs());
        let origin = SystemTime::UNIX_EPOCH + YEAR_2000;
        let time = if micros < 0 {
            origin.checked_sub(distance)
        } else {
            origin.checked_add(distance)
        };
        Ok(time.unwrap_or(origin))
    }

    /// The elements of an array without NULLs, `N` bytes each; none of one that is NULL itself.
    fn array<const N: usize>(
        &mut self,
    ) -> Result<impl ExactSizeIterator<Item = [u8; N]> + use<'r, N>> {
        const HEAD: usize = 20;
        let bytes = self.raw()?.unwrap_or_default();
        let elements = bytes.get(HEAD..).unwrap_or_default();
        let step = size_of::<u32>() + N;
        let is_whole = elements.len().is_multiple_of(step)
            && elements
                .chunks_exact(step)
                .all(|element| element[..4] == (N as u32).to_be_bytes());
        if !is_whole {
            return Err(not_understood());
        }
        let element = |chunk: &[u8]| chunk[4..].try_into().expect("as long as that");
        Ok(elements.chunks_exact(step).map(element))
    }

    /// A range of offsets in two columns.
    pub(super) fn bounds(&mut self) -> Result<std::ops::Range<u64>> {
        Ok(self.offset()?..self.offset()?)
    }

    /// Position and acked ranges.
    pub(super) fn progress(&mut self) -> Result<Progress> {
        let mut progress = Progress::at(self.offset()?);
        progress.merge(&decode_ranges(self.text()?).ok_or_else(not_understood)?);
        Ok(progress)
    }

    /// What `state` of the schema gives.
    pub(super) fn state(&mut self) -> Result<GroupState> {
        let owner = self.id()?;
        let epoch = self.offset()?;
        let generation = self.offset()?;
        let progress = self.progress()?;
        let offsets = self.array()?.map(|at| i64::from_be_bytes(at) as u64);
        let counts = self.array()?.map(|count| i32::from_be_bytes(count) as u32);
        let mut attempts: Vec<(u64, u32)> = offsets.zip(counts).collect();
        attempts.sort_unstable();
        Ok(GroupState {
            owner,
            owner_dead: false,
            epoch,
            generation,
            progress,
            attempts,
            bounds: self.bounds()?,
        })
    }

    /// A batch; `None` where there is none. One copy: messages are slices of it.
    pub(super) fn batch(&mut self) -> Result<Option<StoredBatch>> {
        let Some(base) = self.bigint()? else {
            return Ok(None);
        };
        let count = self.int()?.ok_or_else(not_understood)? as u32;
        let appended_at = self.time()?;
        let ends = self.array::<4>()?;
        let bodies = self.raw()?.unwrap_or_default();
        let attribute_ends = self.array::<4>()?;
        let attributes = self.raw()?;
        if ends.len() != count as usize {
            return Err(damaged(base));
        }
        let mut encoded = Vec::with_capacity(
            HEAD + 2 * size_of::<u32>() * (1 + ends.len())
                + bodies.len()
                + attributes.map_or(0, <[u8]>::len),
        );
        encoded.put_u8(if attributes.is_some() {
            HAS_ATTRIBUTES
        } else {
            0
        });
        encoded.put_u32_le(count);
        put_column(&mut encoded, ends, bodies);
        if let Some(attributes) = attributes {
            put_column(&mut encoded, attribute_ends, attributes);
        }
        let records = Records::decode(&encoded.into()).map_err(|_| damaged(base))?;
        Ok(Some(StoredBatch {
            base_offset: base as u64,
            appended_at,
            records,
        }))
    }
}

fn put_column(encoded: &mut Vec<u8>, ends: impl Iterator<Item = [u8; 4]>, bytes: &[u8]) {
    encoded.put_u32_le(bytes.len() as u32);
    for mut end in ends {
        end.reverse();
        encoded.put_slice(&end);
    }
    encoded.put_slice(bytes);
}

/// As the server reads and writes an `int8multirange`.
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

fn damaged(base: i64) -> Error {
    Error::new(
        ErrorKind::Data,
        format!("the batch at offset {base} is damaged: restore the database from a backup"),
    )
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]
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
