//! Where a scenario takes place.

use std::sync::Arc;

#[cfg(feature = "postgres")]
use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::storage::{RedbOptions, RedbStorage, Storage};
use flowstream::{Flowstream, Message, Options, SystemClock};
use tempfile::TempDir;

#[cfg(feature = "postgres")]
use crate::postgres_support::Cluster;
use crate::support::Faulty;
use crate::{MIB, Sizes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Redb,
    #[cfg(feature = "postgres")]
    Postgres,
}

/// An empty storage.
pub(crate) enum Place {
    Redb(TempDir),
    #[cfg(feature = "postgres")]
    Postgres(String),
}

/// Of redb: so small that it does not hide what is measured.
pub(crate) const CACHE: usize = 4 * MIB;

/// For appends and reads.
#[cfg(feature = "postgres")]
pub(crate) const CONNECTIONS: u32 = 3;

impl Place {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Redb => {
                // Where nothing waits for a disk, if there is such a directory.
                let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
                Self::Redb(directory.expect("a directory"))
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres => {
                use std::sync::OnceLock;
                static CLUSTER: OnceLock<Cluster> = OnceLock::new();
                let cluster = CLUSTER.get_or_init(|| Cluster::start_with(&[("fsync", "off")]));
                Self::Postgres(cluster.url(&cluster.database()))
            }
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Redb(_) => Kind::Redb,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => Kind::Postgres,
        }
    }

    async fn storage(&self) -> Arc<dyn Storage> {
        match self {
            Self::Redb(directory) => {
                let options = RedbOptions::new(Arc::new(SystemClock::new())).cache_bytes(CACHE);
                let storage = RedbStorage::open(directory.path().join("log.redb"), options);
                Arc::new(storage.await.expect("it opens"))
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => {
                let options = PostgresOptions::new().max_connections(CONNECTIONS);
                let storage = PostgresStorage::connect(url, options);
                Arc::new(storage.await.expect("it opens"))
            }
        }
    }

    /// As another process would.
    pub(crate) async fn open(&self) -> Flowstream {
        Options::new().open_storage(self.storage().await)
    }

    /// With calls that can be held, and are counted.
    pub(crate) async fn open_faulty(&self) -> (Flowstream, Faulty) {
        let storage = self.storage().await;
        let depth = storage.append_depth();
        let faulty = Faulty::new(storage);
        faulty.deepen(depth);
        let flow = Options::new().open_storage(Arc::new(faulty.clone()));
        (flow, faulty)
    }

    /// A log that is there, in so many partitions, before anything is measured.
    pub(crate) async fn fill(&self, sizes: Sizes, partitions: u32) {
        let flow = self.open().await;
        let made = flow.create_stream("orders", partitions).await;
        made.expect("a stream");
        let mut producer = flow.producer("orders").await.expect("a producer");
        for number in 0..sizes.log / sizes.batch {
            let batch = sizes.batch(number).into_iter();
            let batch: Vec<Message> = batch
                .map(|message| message.with_key(format!("key {number}")))
                .collect();
            producer.append(batch).await.expect("an append");
        }
        drop(producer);
        flow.close().await.expect("it closes");
    }
}
