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
//! - **drain** reads everything. Its limit copies the same values out of redb, with as many commits.
//! - **1,000 tasks** each send one message and wait until it is durable; they share transactions.
//!   Beside it stands one producer that flushes each 500.
//! - **Sink → Stream** is one task that feeds and one that consumes. `commit().await` waits for each
//!   commit, so its limit is a question to another task.
//! - **latency** is the median from the call of `send` until it resolves, and until the delivery, one
//!   message at a time.

#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures the machine"
)]

mod delivery;
mod harness;
mod latency;
mod memory;
mod raw;
mod redb;
mod support;
mod table;

use harness::Bench;

fn main() {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(problem) => {
            eprintln!("{problem}");
            std::process::exit(2);
        }
    };
    if args.is_test {
        return;
    }
    if let Some(dir) = args.dir {
        support::put_files_into(dir.into());
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let file_system = support::file_system();
    println!(
        "{processors} processors; files on {}",
        file_system.as_deref().unwrap_or("an unknown file system")
    );
    if file_system.as_deref() == Some("tmpfs") {
        println!("WARNING: a tmpfs syncs nothing; give a directory on a disk with --dir");
    }
    if let Some(load) = support::load().filter(|load| *load > 0.5) {
        println!("WARNING: the machine is busy (load {load}): a sync may wait for a processor");
    }
    let mut bench = Bench::new(args.is_quick, args.filter);
    table::print_head();
    redb::measure(&mut bench);
    memory::measure(&mut bench);
    delivery::measure(&mut bench);
    latency::measure(&mut bench);
    if let Some(path) = args.json {
        std::fs::write(path, bench.json()).expect("a writable file for --json");
    }
}

#[derive(Default)]
struct Args {
    is_quick: bool,
    /// Run by `cargo test`: nothing is measured.
    is_test: bool,
    json: Option<String>,
    dir: Option<String>,
    filter: Option<String>,
}

impl Args {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut is_bench = false;
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => parsed.is_quick = true,
                "--json" => parsed.json = Some(args.next().ok_or("--json needs a file")?),
                "--dir" => parsed.dir = Some(args.next().ok_or("--dir needs a directory")?),
                "--bench" => is_bench = true,
                "--test" | "--list" => parsed.is_test = true,
                // What libtest knows.
                "--test-threads" | "--skip" | "--format" | "--color" | "-Z" => drop(args.next()),
                _ if arg.starts_with('-') => {}
                _ => parsed.filter = Some(arg),
            }
        }
        // cargo says `--bench` for `cargo bench`, and nothing for `cargo test --benches`.
        parsed.is_test |= !is_bench && !parsed.is_quick;
        Ok(parsed)
    }
}
