//! What is in the file: the tables, and how their values are written. Numbers are little endian.

use ::redb::TableDefinition;
use bytes::{Buf, BufMut, Bytes};

use super::checksum::{checksum, mix, verify, with_checksum};
use crate::storage::shared::groups::StoredGroup;
use crate::storage::{Id, Liveness, Progress, Ranges, Records};

/// Says whose file it is: `MAGIC`, the format, the open count, and the id of the next stream.
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("flowstream");
/// The id of a stream, and the number of its partitions.
pub(super) const STREAMS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("streams");
/// Batches by partition and base offset. The newest of a partition is never deleted, so that it
/// tells the next offset.
pub(super) const BATCHES: TableDefinition<'static, BatchKey, &[u8]> =
    TableDefinition::new("batches");
/// Where the log of a partition starts, once it was trimmed.
pub(super) const STARTS: TableDefinition<'static, u64, u64> = TableDefinition::new("starts");
/// The partitions that were trimmed, as long as there are batches before their start.
pub(super) const SWEEPS: TableDefinition<'static, u64, ()> = TableDefinition::new("sweeps");
/// Groups by partition and name.
pub(super) const GROUPS: TableDefinition<'static, (u64, &str), &[u8]> =
    TableDefinition::new("groups");
/// The last appends, in the order in which they were made: the id, and where each row went.
pub(super) const APPENDS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("appends");
/// The last ids that were refused, in order.
pub(super) const REFUSED: TableDefinition<'static, u64, u128> = TableDefinition::new("refused");

/// In [`META`]: the file is one of this crate.
pub(super) const MAGIC: (&str, u64) = ("magic", u64::from_be_bytes(*b"flowstrm"));
/// In [`META`]: the format that this version reads and writes.
pub(super) const FORMAT: (&str, u64) = ("format", 1);
/// In [`META`]: how often the file was opened.
pub(super) const OPEN_COUNT: &str = "boot";
/// In [`META`]: the id of the next stream.
pub(super) const NEXT_STREAM: &str = "next_stream";

/// The key of a partition, and the base offset.
pub(super) type BatchKey = (u64, u64);

/// The row of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamRow {
    pub(super) id: u32,
    pub(super) partitions: u32,
}

impl StreamRow {
    /// The key of one of its partitions, if it has so many. Those of a stream follow on each other.
    pub(super) fn partition(self, index: u32) -> Option<u64> {
        let key = u64::from(self.id) << 32 | u64::from(index);
        (index < self.partitions).then_some(key)
    }

    /// The value under this name.
    pub(super) fn encode(self, name: &str) -> Vec<u8> {
        with_checksum(checksum(0, name.as_bytes()), |out| {
            out.put_u32_le(self.id);
            out.put_u32_le(self.partitions);
        })
    }

    /// The row under this name; `None` if it is damaged.
    pub(super) fn decode(name: &str, value: &[u8]) -> Option<Self> {
        let mut value = verify(checksum(0, name.as_bytes()), value)?;
        let id = value.try_get_u32_le().ok()?;
        let partitions = value.try_get_u32_le().ok()?;
        value.is_empty().then_some(Self { id, partitions })
    }
}

/// What stands in front of the messages of a batch. It has a checksum of its own, so that it can
/// be read without the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) base: u64,
    pub(super) count: u32,
    /// In microseconds since the epoch.
    pub(super) appended_at: i64,
    /// Its messages were trimmed away.
    pub(super) is_emptied: bool,
    messages_checksum: u64,
}

impl Head {
    /// How many bytes it takes: the checksum, and the fields.
    pub(super) const LEN: usize = size_of::<u64>() + Self::FIELDS;
    const FIELDS: usize = 1 + size_of::<u32>() + 2 * size_of::<u64>();

    /// The offset behind its last message.
    pub(super) fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// The head of the batch with this key and value; `None` if it is damaged.
    pub(super) fn decode(key: BatchKey, value: &[u8]) -> Option<Self> {
        let mut fields = verify(seed_of(key), value.get(..Self::LEN)?)?;
        let flags = fields.get_u8();
        let count = fields.get_u32_le();
        let appended_at = fields.get_i64_le();
        let messages_checksum = fields.get_u64_le();
        key.1.checked_add(u64::from(count))?;
        (flags & !EMPTIED == 0).then_some(Self {
            base: key.1,
            count,
            appended_at,
            is_emptied: flags == EMPTIED,
            messages_checksum,
        })
    }

    /// The messages that stand behind this head, in one copy; `None` if they are damaged.
    pub(super) fn messages(&self, key: BatchKey, value: &[u8]) -> Option<Records> {
        debug_assert_eq!(self.base, key.1, "the head is the one of this batch");
        let encoded = value.get(Self::LEN..)?;
        if checksum(seed_of(key), encoded) != self.messages_checksum {
            return None;
        }
        let records = Records::decode(&Bytes::copy_from_slice(encoded)).ok()?;
        (records.len() == self.count).then_some(records)
    }
}

/// The flag of a head whose messages were trimmed away.
const EMPTIED: u8 = 1;

/// Writes a batch, head and messages, to where it is to stand.
pub(super) fn encode_batch(key: BatchKey, appended_at: i64, records: &Records, out: &mut [u8]) {
    debug_assert_eq!(out.len(), Head::LEN + records.encoded_len());
    debug_assert!(records.len() > 0, "a batch has a message");
    let (head, messages) = out.split_at_mut(Head::LEN);
    records.encode(messages);
    let checksum = checksum(seed_of(key), messages);
    head.copy_from_slice(&encode_head(key, 0, records.len(), appended_at, checksum));
}

/// The batch without its messages.
pub(super) fn emptied(key: BatchKey, head: &Head) -> Vec<u8> {
    encode_head(key, EMPTIED, head.count, head.appended_at, 0)
}

fn encode_head(
    key: BatchKey,
    flags: u8,
    count: u32,
    appended_at: i64,
    messages_checksum: u64,
) -> Vec<u8> {
    let head = with_checksum(seed_of(key), |out| {
        out.put_u8(flags);
        out.put_u32_le(count);
        out.put_i64_le(appended_at);
        out.put_u64_le(messages_checksum);
    });
    debug_assert_eq!(head.len(), Head::LEN, "it can be read without the messages");
    head
}

/// The row of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupRow {
    pub(super) group: StoredGroup,
    /// The open count at the last write of its owner.
    pub(super) open_count: u64,
}

impl GroupRow {
    /// What is known of the owner at this open count. The file is locked for one process, so an
    /// owner from an earlier open is certainly gone.
    pub(super) fn liveness(&self, open_count: u64) -> Liveness {
        match self.group.owner {
            Some(_) if self.open_count != open_count => Liveness::Dead,
            _ => Liveness::Unknown,
        }
    }

    /// The value under this key.
    pub(super) fn encode(&self, key: (u64, &str)) -> Vec<u8> {
        let group = &self.group;
        with_checksum(checksum(key.0, key.1.as_bytes()), |out| {
            out.put_u8(u8::from(group.owner.is_some()));
            out.put_u128_le(group.owner.map_or(0, |owner| owner.0));
            out.put_u64_le(self.open_count);
            out.put_u64_le(group.epoch);
            out.put_u64_le(group.generation);
            out.put_u64_le(group.progress.position());
            out.put_u32_le(group.progress.acked().len() as u32);
            for range in group.progress.acked().iter() {
                out.put_u64_le(range.start);
                out.put_u64_le(range.end);
            }
            for (offset, attempts) in &group.attempts {
                out.put_u64_le(*offset);
                out.put_u32_le(*attempts);
            }
        })
    }

    /// The row under this key; `None` if it is damaged.
    pub(super) fn decode(key: (u64, &str), value: &[u8]) -> Option<Self> {
        let mut value = verify(checksum(key.0, key.1.as_bytes()), value)?;
        let has_owner = value.try_get_u8().ok()? != 0;
        let owner = Id(value.try_get_u128_le().ok()?);
        let open_count = value.try_get_u64_le().ok()?;
        let epoch = value.try_get_u64_le().ok()?;
        let generation = value.try_get_u64_le().ok()?;
        let mut progress = Progress::at(value.try_get_u64_le().ok()?);
        let mut acked = Ranges::new();
        for _ in 0..value.try_get_u32_le().ok()? {
            let start = value.try_get_u64_le().ok()?;
            acked.insert(start..value.try_get_u64_le().ok()?);
        }
        progress.merge(&acked);
        let mut attempts = Vec::new();
        while !value.is_empty() {
            let offset = value.try_get_u64_le().ok()?;
            attempts.push((offset, value.try_get_u32_le().ok()?));
        }
        let group = StoredGroup {
            owner: has_owner.then_some(owner),
            epoch,
            generation,
            progress,
            attempts,
        };
        Some(Self { group, open_count })
    }
}

/// Where a row of an append went: its partition, and the offsets that it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowOffsets {
    pub(super) partition: u64,
    pub(super) base: u64,
    pub(super) count: u32,
}

impl RowOffsets {
    /// The offset behind its last message.
    pub(super) fn end(&self) -> u64 {
        self.base.saturating_add(u64::from(self.count))
    }
}

/// The value in [`APPENDS`] of an append with this id.
pub(super) fn encode_append(id: Id, rows: &[RowOffsets]) -> Vec<u8> {
    let mut out = Vec::with_capacity(size_of::<Id>() + size_of_val(rows));
    out.put_u128_le(id.0);
    for row in rows {
        out.put_u64_le(row.partition);
        out.put_u64_le(row.base);
        out.put_u32_le(row.count);
    }
    out
}

/// The id of an append, and where its rows went; `None` if the value is damaged.
pub(super) fn decode_append(mut value: &[u8]) -> Option<(Id, Vec<RowOffsets>)> {
    let id = Id(value.try_get_u128_le().ok()?);
    let mut rows = Vec::new();
    while !value.is_empty() {
        rows.push(RowOffsets {
            partition: value.try_get_u64_le().ok()?,
            base: value.try_get_u64_le().ok()?,
            count: value.try_get_u32_le().ok()?,
        });
    }
    Some((id, rows))
}

/// Begins the checksums of a batch, so that it is damaged under any other key.
fn seed_of((partition, base): BatchKey) -> u64 {
    mix(partition, base)
}

#[cfg(test)]
mod tests {
    use ::redb::TableHandle;
    use proptest::prelude::*;

    use super::*;
    use crate::Message;

    fn row() -> GroupRow {
        let mut progress = Progress::at(7);
        progress.merge(&Ranges::from(9..12));
        GroupRow {
            group: StoredGroup {
                owner: Some(Id(5)),
                epoch: 3,
                generation: 40,
                progress,
                attempts: vec![(8, 2)],
            },
            open_count: 6,
        }
    }

    fn batch(key: BatchKey) -> Vec<u8> {
        let messages = ["one", "two", "three"].map(Message::new);
        let builder = messages.iter().collect::<crate::storage::RecordsBuilder>();
        let records = builder.build().unwrap();
        let mut out = vec![0; Head::LEN + records.encoded_len()];
        encode_batch(key, -5, &records, &mut out);
        out
    }

    fn read(key: BatchKey, value: &[u8]) -> Option<Records> {
        Head::decode(key, value)?.messages(key, value)
    }

    #[test]
    fn what_goes_in_comes_out() {
        let stream = StreamRow {
            id: 3,
            partitions: 9,
        };
        assert_eq!(
            StreamRow::decode("orders", &stream.encode("orders")),
            Some(stream)
        );
        assert_eq!(
            GroupRow::decode((1, "g"), &row().encode((1, "g"))),
            Some(row())
        );
        let head = Head::decode((1, 10), &batch((1, 10))).unwrap();
        assert_eq!(
            (head.end(), head.appended_at, head.is_emptied),
            (13, -5, false)
        );
        assert_eq!(read((1, 10), &batch((1, 10))).unwrap().len(), 3);
        let head = Head::decode((1, 10), &emptied((1, 10), &head)).unwrap();
        assert_eq!(
            (head.end(), head.appended_at, head.is_emptied),
            (13, -5, true)
        );
        let row = RowOffsets {
            partition: 1,
            base: 2,
            count: 3,
        };
        let append = encode_append(Id(8), &[row, row]);
        assert_eq!(decode_append(&append), Some((Id(8), vec![row, row])));
    }

    /// A file has to be read by every version that knows its format.
    #[test]
    fn the_bytes_of_the_format_stay() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let bytes: Vec<u8> = (0..100).collect();
        assert_eq!(checksum(7, &bytes), 0x1191_8f06_7f15_223b);
        let stream = StreamRow {
            id: 3,
            partitions: 9,
        };
        let expected = "d9342bc45855ca420300000009000000";
        assert_eq!(hex(&stream.encode("orders")), expected);
        let expected = "a6455d970c18bc7301050000000000000000000000000000000600000000000000\
                        030000000000000028000000000000000700000000000000010000000900000000\
                        0000000c00000000000000080000000000000002000000";
        assert_eq!(hex(&row().encode((1, "g"))), expected);
        let head = Head::decode((1, 10), &batch((1, 10))).unwrap();
        let expected = "c6dd8ccf03d479d90103000000fbffffffffffffff0000000000000000";
        assert_eq!(hex(&emptied((1, 10), &head)), expected);
        let names = [META.name(), BATCHES.name(), MAGIC.0, FORMAT.0, OPEN_COUNT];
        assert_eq!(names, ["flowstream", "batches", "magic", "format", "boot"]);
    }

    #[test]
    fn a_value_under_another_key_is_damaged() {
        assert!(read((1, 11), &batch((1, 10))).is_none());
        assert!(GroupRow::decode((1, "h"), &row().encode((1, "g"))).is_none());
        let stream = StreamRow {
            id: 3,
            partitions: 9,
        };
        assert!(StreamRow::decode("order", &stream.encode("orders")).is_none());
    }

    proptest! {
        #[test]
        fn damage_is_seen(at in any::<prop::sample::Index>(), flip in 1u8.., cut: bool) {
            let hurt = |mut value: Vec<u8>| {
                let at = at.index(value.len());
                if cut {
                    value.truncate(at);
                } else {
                    value[at] ^= flip;
                }
                value
            };
            prop_assert!(read((1, 10), &hurt(batch((1, 10)))).is_none());
            prop_assert!(GroupRow::decode((1, "g"), &hurt(row().encode((1, "g")))).is_none());
        }
    }
}
