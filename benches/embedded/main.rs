//! What the embedded storages can do, beside what the machine can.
//!
//! ```text
//! cargo bench --bench embedded                     everything, a few minutes
//! cargo bench --bench embedded -- memory           figures with "memory" in their name
//! cargo bench --bench embedded -- --quick          one short window each: whether it runs
//! cargo bench --bench embedded -- --json FILE      all samples as well
//! cargo bench --bench embedded -- --dir DIR        files in this directory, on another disk
//! ```
//!
//! Each figure stands beside its limit, measured in the same run in windows that take turns (ours,
//! limit, ours, limit …); the figures are medians of the windows, the ratio is the median of the
//! ratios of neighbours. A bar is a hint: it says what is hoped for on a usual machine.
//!
//! Messages have 100 bytes. `current` is a runtime with one thread, `multi` one with a thread a
//! processor; all work is done in tasks of it.
//!
//! - **produce, flush each n** is the main figure of a storage on disk: n messages, then a flush,
//!   which is one durable transaction. Its limits do just that: redb writes the same bytes as one
//!   value and commits, and a file gets them appended and synced. **produce, feed** never waits:
//!   the next n are taken in while the disk is busy.
//! - **ways** are other ways to append to a file, in turns with redb writing one value.
//! - **drain** reads everything. Its limit copies the same values out of redb, with as many commits.
//! - **1,000 tasks** each send one message and wait until it is durable; they share transactions.
//!   Beside it stands one producer that flushes each 500.
//! - **Sink → Stream** is one task that feeds and one that consumes. `commit().await` waits for each
//!   commit, so its limit is a question to another task.
//! - **latency** is the median from the call of `send` until it resolves, and until the delivery, one
//!   message at a time.
//! - **growth** is what an operation of the storage costs, one message each, as there is more: of a log
//!   of 10 million messages beside one of 100,000, with 100,000 streams in the file beside one, with
//!   1,000 groups of the stream beside one. And what a partition costs, where a stream has 1,000 or 10,000,
//!   beside what it costs where it has 100: of one append to all, the build of a consumer, and the list of
//!   groups, with 5 messages of 20 bytes for each.

#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures the machine"
)]

#[path = "../common/mod.rs"]
mod common;
mod delivery;
mod growth;
mod latency;
mod memory;
mod raw;
mod redb;
mod ways;

use common::args::{Args, describe_machine};
use common::harness::Bench;
use common::{harness, support, table};

fn main() {
    let args = Args::of_process();
    if args.is_test {
        return;
    }
    if let Some(dir) = args.dir {
        support::put_files_into(dir.into());
    }
    describe_machine();
    let mut bench = Bench::new(args.is_quick, args.filter, args.json);
    table::print_head("runtime");
    redb::measure(&mut bench);
    ways::measure(&mut bench);
    memory::measure(&mut bench);
    delivery::measure(&mut bench);
    latency::measure(&mut bench);
    growth::measure(&mut bench);
}
