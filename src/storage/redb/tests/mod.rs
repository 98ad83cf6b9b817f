mod crash;
mod damage;
mod disk;
mod gone;
mod life;
mod open;
mod repair;
mod sweep;

use std::future::{self, Future, Ready};
use std::path::PathBuf;
use std::sync::mpsc;
use std::task::Poll;

use futures::future::Either;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::faults::Faults;
use super::*;
use crate::error::{Error, ErrorKind};
use crate::storage::{Id, Liveness, Over, RecordsBuilder, Row, StoredBatch};
use crate::{ManualClock, Message};

/// A file in a directory of its own, and a clock.
struct Place {
    directory: TempDir,
    clock: ManualClock,
    faults: Option<Arc<Faults>>,
    /// Files are opened as if they were too large to be verified.
    is_trusting: bool,
    has_quick_repair: bool,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            clock: ManualClock::new(),
            faults: None,
            is_trusting: false,
            has_quick_repair: false,
        }
    }

    /// A place where nothing waits for a disk, if there is one.
    fn swift() -> Self {
        let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        Self {
            directory: directory.unwrap(),
            ..Self::new()
        }
    }

    /// A place on a disk that can fail.
    fn frail() -> (Self, Arc<Faults>) {
        let faults = Arc::<Faults>::default();
        let place = Self {
            faults: Some(faults.clone()),
            ..Self::swift()
        };
        (place, faults)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("orders.redb")
    }

    fn options(&self) -> RedbOptions {
        let mut options = RedbOptions::new(Arc::new(self.clock.clone()));
        options.faults = self.faults.clone();
        options.has_quick_repair = self.has_quick_repair;
        if self.is_trusting {
            options.verified_bytes = 0;
        }
        options
    }

    async fn open(&self) -> Result<RedbStorage> {
        RedbStorage::open(self.path(), self.options()).await
    }

    /// The open storage, with the stream in it.
    async fn storage(&self) -> RedbStorage {
        let storage = self.open().await.unwrap();
        storage
            .create_stream(&name("orders"), Some(2))
            .await
            .unwrap();
        storage
    }
}

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn partition(index: u32) -> Partition {
    let stream = name("orders");
    Partition { stream, index }
}

fn group(group: &str) -> Group {
    Group {
        partition: partition(0),
        name: name(group),
    }
}

fn append(bodies: &[&str]) -> Arc<Append> {
    let messages: Vec<Message> = bodies.iter().map(|b| Message::new(b.to_string())).collect();
    let builder: RecordsBuilder = messages.iter().collect();
    Arc::new(Append {
        id: Id::random(),
        after: None,
        rows: vec![Row {
            partition: partition(0),
            records: builder.build().unwrap(),
        }],
        commits: Vec::new(),
    })
}

async fn bounds(storage: &RedbStorage) -> Range<u64> {
    storage.bounds(&[partition(0)]).await.unwrap().remove(0)
}

async fn read(storage: &RedbStorage, from: u64) -> Result<Vec<StoredBatch>> {
    let read = Read {
        partition: partition(0),
        from,
        max_bytes: usize::MAX,
        group: None,
    };
    Ok(storage.read(read).await?.batches)
}

async fn bodies(storage: &RedbStorage) -> Result<Vec<String>> {
    let batches = read(storage, 0).await?;
    let messages = batches
        .iter()
        .flat_map(|batch| (0..batch.records.len()).map(|index| batch.records.message(index)));
    Ok(messages
        .map(|message| String::from_utf8(message.body().to_vec()).unwrap())
        .collect())
}

fn claim(group: Group, owner: u128, over: Option<(u64, u64)>) -> Claim {
    Claim {
        group,
        owner: Id(owner),
        over: over.map(|(epoch, generation)| Over::another(epoch, generation)),
    }
}

/// A runtime with one blocking thread, which is busy until the sender is dropped.
fn busy_runtime() -> (Runtime, mpsc::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let (busy, until) = mpsc::channel::<()>();
    runtime.spawn_blocking(move || until.recv());
    (runtime, busy)
}

/// Polls once, so that the call is under way; or over, where this thread had to wait for a processor.
async fn started<F: Future + Unpin>(mut call: F) -> Either<Ready<F::Output>, F> {
    match futures::poll!(&mut call) {
        Poll::Ready(output) => Either::Left(future::ready(output)),
        Poll::Pending => Either::Right(call),
    }
}
