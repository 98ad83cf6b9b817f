//! What an operation costs in a file as there is more in it.

use std::sync::Arc;

use flowstream::SystemClock;
use flowstream::storage::{MemoryStorage, RedbOptions, RedbStorage, Storage};
use tokio::runtime::Runtime;

use crate::common::growth::{
    Subject, What, add_groups, add_streams, claimed, fill, measure as all,
};
use crate::common::wide::{Wide, measure as wide};
use crate::harness::Bench;
use crate::support::{Flavour, Place, run};

pub(crate) fn measure(bench: &mut Bench) {
    let flavour = Flavour::Multi;
    let runtime = flavour.runtime();
    all(bench, "redb: ", flavour.name(), &runtime, |what, size| {
        make(&runtime, what, size)
    });
    wide(bench, "redb: ", flavour.name(), &runtime, |partitions| {
        let place = Place::new();
        let path = place.file("wide.redb");
        let storage = run(&runtime, async move {
            let options = RedbOptions::new(Arc::new(SystemClock::new()));
            let storage = RedbStorage::open(path, options).await;
            Arc::new(storage.expect("a storage"))
        });
        Wide::new(&runtime, storage, partitions, place)
    });
    wide(bench, "memory: ", flavour.name(), &runtime, |partitions| {
        let storage = MemoryStorage::new(Arc::new(SystemClock::new()));
        Wide::new(&runtime, Arc::new(storage), partitions, ())
    });
}

/// A file with so much of it.
fn make(runtime: &Runtime, what: What, size: usize) -> Subject {
    let place = Place::new();
    let path = place.file("growth.redb");
    let (storage, lease) = run(runtime, async move {
        let options = RedbOptions::new(Arc::new(SystemClock::new()));
        let storage = RedbStorage::open(path, options).await;
        let storage: Arc<dyn Storage> = Arc::new(storage.expect("a storage"));
        let lease = claimed(&*storage, "s", "g").await;
        let messages = if let What::Log = what { size } else { 10_000 };
        fill(&*storage, &lease.group.partition, messages).await;
        match what {
            What::Log => {}
            What::Streams => add_streams(&*storage, size - 1).await,
            What::Groups => add_groups(&*storage, "s", size - 1).await,
        }
        (storage, lease)
    });
    Subject::new(storage, lease, place)
}
