//! What an operation costs on the server as there is more in the schema.

use std::sync::Arc;

use flowstream::storage::{PostgresOptions, PostgresStorage, Storage};
use tokio::runtime::Runtime;

use crate::common::growth::{Subject, What, add_groups, claimed, measure as all};
use crate::common::wide::{Wide, measure as wide};
use crate::harness::Bench;
use crate::server::{Database, Link, Server};
use crate::support::{Flavour, run};

pub(crate) fn measure(bench: &mut Bench, server: &Server) {
    let runtime = Flavour::Multi.runtime();
    let link = Link::Socket;
    let mut databases = Vec::new();
    all(bench, "", link.name(), &runtime, |what, size| {
        // Those of the pair before are done with.
        if databases.len() == 2 {
            databases.clear();
        }
        let database = Database::new(server);
        let subject = make(&runtime, &database, link, what, size);
        databases.push(database);
        subject
    });
    wide(bench, "", link.name(), &runtime, |partitions| {
        if databases.len() == 2 {
            databases.clear();
        }
        let database = Database::new(server);
        let url = database.url(link);
        databases.push(database);
        let storage = run(&runtime, async move {
            let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
            Arc::new(storage.expect("a storage"))
        });
        Wide::new(&runtime, storage, partitions, ())
    });
}

/// A database with so much of it.
fn make(
    runtime: &Runtime,
    database: &Database<'_>,
    link: Link,
    what: What,
    size: usize,
) -> Subject {
    let url = database.url(link);
    let (storage, lease) = run(runtime, async move {
        let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
        let storage: Arc<dyn Storage> = Arc::new(storage.expect("a storage"));
        let lease = claimed(&*storage, "s", "g").await;
        if let What::Groups = what {
            add_groups(&*storage, "s", size - 1).await;
        }
        (storage, lease)
    });
    let messages = if let What::Log = what { size } else { 10_000 };
    // In bulk, and ten messages a row: as many rows as an application would have that is in no hurry.
    let ends = (1..=10_u32).map(|n| format!("{:08x}", (100 * n).swap_bytes()));
    let ends: String = ends.collect();
    database.psql(&format!(
        "INSERT INTO flowstream.batches
             (stream_id, partition, base_offset, count, appended_at, batch_id, ends, bodies)
         SELECT stream_id, 0, row * 10, 10, clock_timestamp(), gen_random_uuid(),
             '\\x{ends}', convert_to(repeat('x', 1000), 'UTF8')
         FROM flowstream.streams, generate_series(0, {messages} / 10 - 1) row WHERE name = 's'"
    ));
    if let What::Streams = what {
        database.psql(&format!(
            "INSERT INTO flowstream.streams (name, partitions)
             SELECT 'more' || number, 1 FROM generate_series(2, {size}) number;
             INSERT INTO flowstream.partitions (stream_id, partition)
             SELECT stream_id, 0 FROM flowstream.streams WHERE name <> 's';
             INSERT INTO flowstream.batches
                 (stream_id, partition, base_offset, count, appended_at, batch_id, ends, bodies)
             SELECT stream_id, 0, 0, 1, clock_timestamp(), gen_random_uuid(),
                 '\\x64000000', convert_to(repeat('x', 100), 'UTF8')
             FROM flowstream.streams WHERE name <> 's'"
        ));
    }
    // As the server does by itself after a while.
    database.psql("VACUUM ANALYZE");
    database.psql("CHECKPOINT");
    Subject::new(storage, lease, ())
}
