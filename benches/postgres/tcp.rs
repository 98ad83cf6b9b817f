//! What the missing TCP_NODELAY costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::harness::{Bench, Limit};
use crate::raw::Raw;
use crate::server::{Database, Link, Server};
use crate::support::{Flavour, SIZE, noise, run, thousands};
use crate::table::{Figure, Unit};
use crate::wire::Wire;

pub(crate) fn measure(bench: &mut Bench, server: &Server) {
    for batch in [1, 100, 1_000, 5_000] {
        let name = format!("tcp: sqlx, a blob of {}", thousands(batch));
        if !bench.wants(&name) {
            continue;
        }
        let database = Database::new(server);
        let runtime = Flavour::Multi.runtime();
        let raw = Raw::connect(&runtime, database.url(Link::Tcp));
        let [quick, slow] = [true, false].map(|is_nodelay| {
            let (port, name) = (server.port(), database.name.clone());
            let wire = run(&runtime, async move {
                Wire::connect(port, &name, is_nodelay).await
            });
            Arc::new(Mutex::new(wire))
        });
        let window = bench.window / 2;
        bench.measure(
            [Figure::new(name, Link::Tcp.name(), Unit::Rate(SIZE))],
            || [raw.blobs(&runtime, [batch, SIZE], window)],
            vec![
                Limit::new("by hand, TCP_NODELAY", || {
                    [blobs(&runtime, &quick, batch, window)]
                }),
                Limit::new("by hand, without", || {
                    [blobs(&runtime, &slow, batch, window)]
                }),
            ],
        );
    }
}

fn blobs(runtime: &Runtime, wire: &Arc<Mutex<Wire>>, batch: usize, window: Duration) -> f64 {
    let wire = wire.clone();
    run(runtime, async move {
        let mut wire = wire.lock().await;
        let blob = noise(batch * SIZE);
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < window {
            wire.insert_blob(&blob).await;
            sent += batch;
        }
        sent as f64 / began.elapsed().as_secs_f64()
    })
}
