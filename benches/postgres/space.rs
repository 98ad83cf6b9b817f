//! What a message takes on the disk and in the WAL.

use futures::SinkExt;

use crate::harness::Bench;
use crate::raw::{connect, insert_blob, insert_rows};
use crate::server::{Link, Opened, Server};
use crate::support::{SIZE, message, noise, run, thousands};
use crate::table::{Beside, Figure, Samples, Unit};

#[derive(Debug, Clone, Copy)]
enum Kind {
    Ours,
    Blobs,
    Rows,
}

pub(crate) fn measure(bench: &mut Bench, server: &Server) {
    for batch in [1, 100, 1_000, 5_000] {
        let names = ["on disk", "of WAL"]
            .map(|part| format!("space: bytes {part}, flush each {}", thousands(batch)));
        if !names.iter().any(|name| bench.wants(name)) {
            continue;
        }
        let count = bench.count(if batch == 1 { 20_000 } else { 400_000 });
        let batches = count.div_ceil(batch);
        let opened = Opened::new(server, Link::Socket);
        let [ours, blobs, rows] =
            [Kind::Ours, Kind::Blobs, Kind::Rows].map(|kind| space(&opened, kind, batch, batches));
        for (index, name) in names.into_iter().enumerate() {
            let beside = |name, space: [f64; 2]| Beside {
                name,
                bar: None,
                samples: Samples(vec![space[index]]),
            };
            bench.report(
                Figure::new(name, Link::Socket.name(), Unit::Bytes),
                Samples(vec![ours[index]]),
                vec![beside("blob", blobs), beside("rows", rows)],
            );
        }
    }
}

/// Bytes a message on the disk and in the WAL, with so many in a batch.
fn space(opened: &Opened<'_>, kind: Kind, batch: usize, batches: usize) -> [f64; 2] {
    let database = &opened.database;
    let wal = || database.number("SELECT pg_current_wal_insert_lsn() - '0/0'");
    let (table, runtime) = (kind.table(), &opened.runtime);
    let (flow, url) = (opened.flow.clone(), opened.url());
    // The stream is there, and what is written once.
    run(runtime, async move {
        flow.producer("s").await.expect("a producer")
    });
    let before = wal();
    match kind {
        Kind::Ours => {
            let flow = opened.flow.clone();
            run(runtime, async move {
                let mut producer = flow.producer("s").await.expect("a producer");
                for _ in 0..batches {
                    for _ in 0..batch {
                        producer.feed(message()).await.expect("room");
                    }
                    producer.flush().await.expect("all written");
                }
            });
        }
        Kind::Blobs => run(runtime, async move {
            let mut connection = connect(&url).await;
            let blob = noise(batch * SIZE);
            for _ in 0..batches {
                insert_blob(&mut connection, &blob).await;
            }
        }),
        Kind::Rows => run(runtime, async move {
            let mut connection = connect(&url).await;
            let body = [b'x'; SIZE];
            let bodies = vec![&body[..]; batch];
            for _ in 0..batches {
                insert_rows(&mut connection, &bodies).await;
            }
        }),
    }
    let after = wal();
    let size = database.number(&format!("SELECT pg_total_relation_size('{table}')"));
    let messages = (batch * batches) as f64;
    [size / messages, (after - before) / messages]
}

impl Kind {
    fn table(self) -> &'static str {
        match self {
            Self::Ours => "flowstream.batches",
            Self::Blobs => "blobs",
            Self::Rows => "rows",
        }
    }
}
