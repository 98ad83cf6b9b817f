//! What the storage in PostgreSQL can do, beside what the same server can.
//!
//! ```text
//! cargo bench --bench postgres --features postgres                everything, about twenty minutes
//! cargo bench --bench postgres --features postgres -- produce     figures with "produce" in their name
//! cargo bench --bench postgres --features postgres -- --quick     one short window each: whether it runs
//! cargo bench --bench postgres --features postgres -- --json FILE all samples as well
//! cargo bench --bench postgres --features postgres -- --dir DIR   the cluster in this directory
//! ```
//!
//! A private cluster is made in the target directory, with fsync on, and reached through its Unix
//! socket and over TCP. Each figure stands beside its limit, measured in the same run in windows that
//! take turns; the figures are medians of the windows, the ratio is the median of the ratios of
//! neighbours. Messages have 100 bytes unless it says otherwise.
//!
//! The limit of most figures is a *blob*: the same bytes as one value in one prepared `INSERT`, which
//! is one durable transaction, through a connection of the same kind; with no offsets, no ids, no lock.
//! *Rows* is the same with a row a message, all in one `INSERT … SELECT unnest(…)`.
//!
//! - **ways** of appending, in SQL alone, as shares of the blob. `as built` is the storage without
//!   the Sink.
//! - **produce** is a stream of messages into the Sink with batches of n, or n messages and then a flush, again and again; **tasks** are 1,000 that each send one
//!   message and wait, beside a producer that flushes each 500.
//! - **processes** are producers that flush each 1,000, on one partition or on one each; the limit is
//!   as many processes that write blobs.
//! - **drain** reads everything; the limit reads the blobs with as many commits (an `UPDATE` of a row).
//! - **commit** is `commit().await` of each message, one by one, beside the statement of the storage on one
//!   connection, and n at a time, beside n times what one by one gives; and of messages that come after
//!   1,000 ranges of such as are done, with gaps between them, beside a group that has no gaps.
//! - **forward** is one stream into another, exactly once, each batch as it was read: an `append` in
//!   which the commits ride, or `.forward(producer)`. It stands beside the same `append` and then a
//!   commit (at least once), and beside the same by hand: blobs are read, and each is written with an
//!   `UPDATE` of a row in one transaction of sqlx.
//! - **latency** is from the call of `send` to the delivery: in the same process, beside an `INSERT` that
//!   commits; and in another process, beside an `INSERT`, then a NOTIFY, then a `SELECT` there.
//! - **space** is what a message takes on the disk (table, TOAST, indexes) and in the WAL.
//! - **idle** is the number of transactions a second that consumers cause that have nothing to do, each
//!   a statement, and the memory that each takes of its process.
//! - **pinned** is what a snapshot costs that stays open for the whole run: appends and commits one by
//!   one, in turns in two databases, one of them with the snapshot. Then two ways that were not taken.
//! - **growth** is what an operation of the storage costs, one message each, as there is more: of a log
//!   of 10 million messages (a million rows) beside one of 100,000, with 100,000 streams in the schema
//!   beside one, with 1,000 groups of the stream beside one. And what a partition costs, where a stream has
//!   1,000 or 10,000, beside what it costs where it has 100: of one append to all, the build of a consumer,
//!   and the list of groups, with 5 messages of 20 bytes for each.
//! - **tcp** is one blob a statement through sqlx, which does not set TCP_NODELAY, beside the same
//!   messages written by hand with and without it.

#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures the machine"
)]

mod child;
mod commits;
#[path = "../common/mod.rs"]
mod common;
mod drain;
mod forward;
mod growth;
mod idle;
mod latency;
mod pinned;
#[path = "../../tests/postgres_support/mod.rs"]
mod postgres_support;
mod processes;
mod produce;
mod raw;
mod server;
mod space;
mod tcp;
mod ways;
mod wire;

use common::args::{Args, describe_machine};
use common::harness::Bench;
use common::{harness, support, table};
use server::{Link, Server};

fn main() {
    if child::is_one() {
        return child::run();
    }
    let args = Args::of_process();
    if args.is_test {
        return;
    }
    if let Some(dir) = args.dir {
        support::put_files_into(dir.into());
    }
    describe_machine();
    let server = Server::start();
    println!("{}", server.version());
    let mut bench = Bench::new(args.is_quick, args.filter, args.json);
    table::print_head("through");
    for link in Link::ALL {
        produce::measure(&mut bench, &server, link);
        drain::measure(&mut bench, &server, link);
        commits::measure(&mut bench, &server, link);
        forward::measure(&mut bench, &server, link);
        latency::measure(&mut bench, &server, link);
        ways::measure(&mut bench, &server, link);
        processes::measure(&mut bench, &server, link);
    }
    tcp::measure(&mut bench, &server);
    space::measure(&mut bench, &server);
    idle::measure(&mut bench, &server);
    pinned::measure(&mut bench, &server);
    growth::measure(&mut bench, &server);
}
