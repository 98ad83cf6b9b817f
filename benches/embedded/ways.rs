//! Ways to append to a file, with redb and without: what the layout costs, and what another would.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowstream::SystemClock;
use flowstream::storage::{RedbOptions, RedbStorage};
use redb::{Database, Durability, TableDefinition};
use tokio::runtime::Runtime;

use crate::common::built::Built;
use crate::harness::{Bench, Contender, Limit};
use crate::raw::{CACHE, RawFile, RawRedb, rate};
use crate::support::{Flavour, Place, SIZE, message, noise, run, thousands};
use crate::table::{Figure, Unit};

const VALUES: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("values");
const IDS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("ids");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A message is a value.
    Rows,
    /// One value, under partition and offset.
    PairKey,
    /// Room for the value first, then the value.
    Reserved,
    /// The value in pieces that share no page with another.
    Pieces,
    /// The id of the append in a table of its own.
    Ids,
    TwoPhase,
    /// Two phases, and the state of the allocator with each commit.
    QuickRepair,
    SmallCache,
    LargeCache,
}

impl Way {
    const ALL: [Self; 9] = [
        Self::Rows,
        Self::PairKey,
        Self::Reserved,
        Self::Pieces,
        Self::Ids,
        Self::TwoPhase,
        Self::QuickRepair,
        Self::SmallCache,
        Self::LargeCache,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Rows => "a value a message",
            Self::PairKey => "key (partition, offset)",
            Self::Reserved => "insert_reserve",
            Self::Pieces => "pieces of a page",
            Self::Ids => "ids in a table",
            Self::TwoPhase => "two-phase commit",
            Self::QuickRepair => "quick repair",
            Self::SmallCache => "cache of 1 MiB",
            Self::LargeCache => "cache of 1 GiB",
        }
    }

    fn cache(self) -> usize {
        match self {
            Self::SmallCache => 1 << 20,
            Self::LargeCache => 1 << 30,
            _ => CACHE,
        }
    }
}

pub(crate) fn measure(bench: &mut Bench) {
    for batch in [100, 1_000, 5_000] {
        let name = |way: &str| format!("ways, {}: {way}", thousands(batch));
        let figure = |way: &str| Figure::new(name(way), Flavour::Multi.name(), Unit::Rate(SIZE));
        let others = ["file, append", "file, prepared", "as built"];
        let names = Way::ALL.iter().map(|way| way.name()).chain(others);
        if !names.clone().any(|way| bench.wants(&name(way))) {
            continue;
        }
        let place = Place::new();
        let runtime = Flavour::Multi.runtime();
        let built = built(&runtime, &place);
        let messages: Vec<_> = (0..batch).map(|_| message()).collect();
        let window = bench.window / 2;
        let mut contenders: Vec<Contender<'_>> = Vec::new();
        for way in Way::ALL {
            if bench.wants(&name(way.name())) {
                let mut writer = Writer::create(&place.file(way.name()), way);
                let run = move || writer.produce(batch, window);
                contenders.push((figure(way.name()), Box::new(run)));
            }
        }
        let mut file = RawFile::create(&place.file("appended"));
        let run = move || file.produce(batch, window);
        contenders.push((figure("file, append"), Box::new(run)));
        let mut file = Prepared::create(&place.file("prepared"));
        let run = move || file.produce(batch, window);
        contenders.push((figure("file, prepared"), Box::new(run)));
        let run = || built.append(&runtime, &messages, window);
        contenders.push((figure("as built"), Box::new(run)));
        let mut raw = RawRedb::create(&place.file("raw.redb"));
        let limit = Limit::new("redb, one value", || [raw.produce(batch, window)]);
        bench.compare(contenders, limit);
    }
}

/// redb, used in one way.
struct Writer {
    db: Database,
    way: Way,
    next: u64,
}

impl Writer {
    fn create(path: &Path, way: Way) -> Self {
        let mut builder = Database::builder();
        let db = builder.set_cache_size(way.cache()).create(path);
        Self {
            db: db.expect("a new database"),
            way,
            next: 0,
        }
    }

    fn produce(&mut self, batch: usize, window: Duration) -> f64 {
        let blob = noise(batch * SIZE);
        rate(batch, window, || self.commit(&blob))
    }

    fn commit(&mut self, blob: &[u8]) {
        let mut txn = self.db.begin_write().expect("a transaction");
        txn.set_durability(Durability::Immediate)
            .expect("no savepoint");
        txn.set_two_phase_commit(self.way == Way::TwoPhase);
        txn.set_quick_repair(self.way == Way::QuickRepair);
        let mut table = txn.open_table(VALUES).expect("a table");
        let mut insert = |at: u64, part: &[u8]| {
            table.insert((1, at), part).expect("a value");
        };
        match self.way {
            Way::Rows => {
                let parts = blob.chunks(SIZE);
                parts
                    .zip(self.next..)
                    .for_each(|(part, at)| insert(at, part));
            }
            Way::Pieces => {
                // The most that redb puts into a page of 4 KiB with one key of 16 bytes.
                let parts = blob.chunks(4096 - 32);
                parts
                    .zip(self.next..)
                    .for_each(|(part, at)| insert(at, part));
            }
            Way::Reserved => {
                let place = table.insert_reserve((1, self.next), blob.len());
                place.expect("room").as_mut().copy_from_slice(blob);
            }
            _ => insert(self.next, blob),
        }
        drop(table);
        if self.way == Way::Ids {
            let mut ids = txn.open_table(IDS).expect("a table");
            ids.insert(self.next, &blob[..36]).expect("an id");
        }
        txn.commit().expect("a commit");
        self.next += (blob.len() / SIZE) as u64;
    }
}

/// A file whose blocks are there before they are written.
struct Prepared(File);

impl Prepared {
    const BYTES: usize = 64 << 20;

    fn create(path: &Path) -> Self {
        let mut file = File::create_new(path).expect("a new file");
        file.write_all(&vec![0; Self::BYTES])
            .expect("room on the disk");
        file.sync_all().expect("a sync");
        Self(file)
    }

    /// From the start again when it has come to the end.
    fn produce(&mut self, batch: usize, window: Duration) -> f64 {
        let blob = noise(batch * SIZE);
        rate(batch, window, || {
            let at = self.0.stream_position().expect("a position") as usize;
            if at + blob.len() > Self::BYTES {
                self.0.seek(SeekFrom::Start(0)).expect("a start");
            }
            self.0.write_all(&blob).expect("room in the file");
            self.0.sync_data().expect("a sync");
        })
    }
}

/// The storage, without what makes batches of messages.
fn built(runtime: &Runtime, place: &Place) -> Built {
    let path = place.file("flowstream.redb");
    let storage = run(runtime, async move {
        let options = RedbOptions::new(Arc::new(SystemClock::new()));
        let opened = RedbStorage::open(path, options).await;
        opened.expect("a storage")
    });
    Built::new(runtime, storage)
}
