//! What the fuzz targets reach of this storage.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::BufMut;

use super::checksum::{checksum, mix, with_checksum};
use super::file::StorageFile;
use super::options::RedbOptions;
use super::read::Snapshot;
use super::tables::{BatchKey, GroupRow, Head, StreamRow, decode_append, emptied};
use crate::clock::ManualClock;
use crate::error::{ErrorKind, Result};
use crate::message::Message;
use crate::storage::{Append, Group, Id, Name, Partition, RecordsBuilder, Row, Start, Storage};

/// Values of all tables whose checksums are right, whatever is in them.
pub(crate) fn values(data: &[u8]) {
    let key = (3, 7);
    let sound = |seed| with_checksum(seed, |out| out.put_slice(data));
    let _ = StreamRow::decode("orders", &sound(checksum(0, b"orders")));
    let group_key = (3, "billing");
    if let Some(row) = GroupRow::decode(group_key, &sound(checksum(3, b"billing"))) {
        let again = GroupRow::decode(group_key, &row.encode(group_key));
        assert_eq!(again.as_ref(), Some(&row));
        let bounds: Range<u64> = 5..90;
        let state = row.group.state(row.liveness(1), bounds);
        let _ = (state.lag(), state.next_pending(), state.is_held());
    }
    if let Some((_, rows)) = decode_append(data) {
        rows.iter().for_each(|row| _ = row.end());
    }
    batch(key, data);
}

/// A head as the data says, with the rest as its messages.
fn batch(key: BatchKey, data: &[u8]) {
    let Some((fields, messages)) = data.split_at_checked(Head::LEN - 2 * size_of::<u64>()) else {
        return;
    };
    let messages_checksum = checksum(mix(key.0, key.1), messages);
    let mut value = with_checksum(mix(key.0, key.1), |out| {
        out.put_slice(fields);
        out.put_u64_le(messages_checksum);
    });
    value.extend_from_slice(messages);
    if let Some(head) = Head::decode(key, &value) {
        assert!(head.end() >= head.base);
        let _ = Head::decode(key, &emptied(key, &head));
        let records = head.messages(key, &value);
        assert!(records.is_none_or(|records| records.len() == head.count));
    }
}

/// Opens a sound file in which bytes were changed, each time by three bytes of the data that say where
/// and five that say what: an error, or all that was in it.
pub(crate) fn file(data: &[u8]) {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let path = place();
    let mut file = SOUND.get_or_init(|| make(&path)).clone();
    let (changes, rest) = data.as_chunks::<8>();
    for [a, b, c, change @ ..] in changes {
        let at = u32::from_le_bytes([*a, *b, *c, 0]) as usize % file.len();
        for (byte, change) in file[at..].iter_mut().zip(change) {
            *byte ^= change;
        }
    }
    if let [a, b, c] = rest[..] {
        // Nothing at all would be a file that is still to be made.
        file.truncate(1 + u32::from_le_bytes([a, b, c, 0]) as usize);
    }
    std::fs::write(&path, file).unwrap();
    let found = look(&path);
    std::fs::remove_file(&path).unwrap();
    match found {
        Ok(bodies) => assert_eq!(bodies, BODIES),
        Err(error) => {
            let kinds = [ErrorKind::Data, ErrorKind::Unsupported];
            assert!(kinds.contains(&error.kind()), "{error:?}");
        }
    }
}

/// A path where nothing waits for a disk, if there is such a place.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let directory = match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    };
    directory.join(format!("flowstream-fuzz-{}.redb", std::process::id()))
}

const BODIES: u64 = 24;

fn options() -> RedbOptions {
    let mut options = RedbOptions::new(Arc::new(ManualClock::new()));
    // As if it were too large to be verified.
    options.verified_bytes = 0;
    options
}

fn partition() -> Partition {
    let stream = Name::new("orders").unwrap();
    Partition { stream, index: 0 }
}

fn make(path: &Path) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let storage = super::RedbStorage::open(path, options()).await.unwrap();
        let stream = partition().stream;
        storage.create_stream(&stream, Some(1)).await.unwrap();
        let group = Group {
            partition: partition(),
            name: Name::new("billing").unwrap(),
        };
        storage.create_group(&group, Start::Earliest).await.unwrap();
        for number in 0..BODIES {
            let message = Message::new(number.to_string().repeat(150));
            let records = [&message].into_iter().collect::<RecordsBuilder>();
            let append = Append {
                id: Id(u128::from(number)),
                after: None,
                rows: vec![Row {
                    partition: partition(),
                    records: records.build().unwrap(),
                }],
                commits: Vec::new(),
            };
            storage.append(Arc::new(append)).await.unwrap();
        }
        storage.close().await.unwrap();
    });
    std::fs::read(path).unwrap()
}

/// How many messages are in the file; all of them are as they were.
fn look(path: &Path) -> Result<u64> {
    let file = StorageFile::open(path.to_owned(), options())?;
    file.snapshot(|txn| {
        let snapshot = Snapshot::new(txn)?;
        let read = crate::storage::Read {
            partition: partition(),
            from: 0,
            max_bytes: usize::MAX,
            group: None,
        };
        let fetched = match snapshot.read(&read)? {
            Ok(fetched) => fetched,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for batch in &fetched.batches {
            let body = batch.records.message(0).body().clone();
            assert_eq!(body, batch.base_offset.to_string().repeat(150));
        }
        match snapshot.groups(None)? {
            Ok(groups) => _ = snapshot.observe(&groups, 1)?,
            Err(refusal) => return Ok(Err(refusal)),
        }
        Ok(Ok(fetched.bounds.end))
    })
}
