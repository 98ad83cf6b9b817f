//! Memory is bounded as configured: whatever is written and read, by whom and at what pace, the bytes
//! that this process has allocated stay below a sum of what was set (`bound.rs`, and "Memory" in
//! `docs/design/memory.md`). The log of each scenario is several times larger.
//!
//! `cargo test --all-features --test memory -- --nocapture` prints each peak beside its bound.
#![cfg(feature = "redb")]

#[cfg(feature = "postgres")]
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
#[path = "../support/mod.rs"]
mod support;

mod bound;
mod consuming;
mod place;
mod producing;
mod relaying;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flowstream::Message;
use peak_alloc::PeakAlloc;
use place::{Kind, Place};

/// Counts what all threads have. A buffer that grows counts twice while it is copied.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What a scenario is about.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Of each message.
    message: usize,
    /// Of each batch that is in the log from the start.
    batch: usize,
    /// Of the log, about.
    log: usize,
}

const SMALL: Sizes = Sizes {
    message: 64 * KIB,
    batch: 8 * 64 * KIB,
    log: 32 * MIB,
};

const LARGE: Sizes = Sizes {
    message: 4 * MIB,
    batch: 4 * MIB,
    log: 96 * MIB,
};

impl Sizes {
    fn name(self) -> String {
        match self.message {
            bytes if bytes < MIB => format!("{} KiB", bytes / KIB),
            bytes => format!("{} MiB", bytes / MIB),
        }
    }

    fn messages(self) -> usize {
        self.log / self.message
    }

    fn message(self, number: usize) -> Message {
        Message::new(Bytes::from(vec![number as u8; self.message]))
    }

    /// As many as there are in a batch.
    fn batch(self, number: usize) -> Vec<Message> {
        let count = self.batch / self.message;
        (0..count).map(|_| self.message(number)).collect()
    }
}

/// Waits until nothing is allocated or freed any more: several looks in a row show the same, since on a
/// machine that is busy a thread that has work may stand still for longer than one.
async fn rest() {
    const LOOKS: u32 = 5;
    let (mut before, mut same) = (0, 0);
    while same < LOOKS {
        let now = MEMORY.current_usage();
        same = if now == before { same + 1 } else { 0 };
        before = now;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What is measured from here on.
struct Measured {
    before: usize,
}

impl Measured {
    fn begin() -> Self {
        MEMORY.reset_peak_usage();
        Self {
            before: MEMORY.current_usage(),
        }
    }

    /// What was allocated at most.
    #[track_caller]
    fn assert_below(self, bound: usize, place: &Place, sizes: Sizes, scenario: &str) {
        let peak = MEMORY.peak_usage().saturating_sub(self.before);
        let mib = |bytes: usize| bytes as f64 / MIB as f64;
        let (kind, size) = (place.kind(), sizes.name());
        println!(
            "| {scenario} | {kind:?} | {size} | {:.1} | {:.1} |",
            mib(peak),
            mib(bound)
        );
        assert!(
            peak <= bound,
            "{scenario}, {kind:?}, messages of {size}: {:.1} MiB, which is over {:.1}",
            mib(peak),
            mib(bound)
        );
    }
}

/// Runs a scenario with small and large messages, while no other runs.
fn run<F: Future<Output = ()>>(kind: Kind, scenario: impl Fn(Place, Sizes) -> F) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for sizes in [SMALL, LARGE] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async { scenario(Place::new(kind), sizes).await });
    }
}

macro_rules! scenarios {
    ($($of:ident::$scenario:ident),* $(,)?) => {
        mod redb {
            $(#[test]
            fn $scenario() {
                super::run(super::Kind::Redb, super::$of::$scenario);
            })*
        }

        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[test]
            fn $scenario() {
                super::run(super::Kind::Postgres, super::$of::$scenario);
            })*
        }
    };
}

scenarios![
    producing::where_the_storage_is_silent,
    producing::where_a_thousand_tasks_append,
    producing::after_large_statements,
    consuming::by_slow_groups,
    consuming::by_one_that_polls_no_more,
    consuming::of_several_partitions,
    consuming::with_deliveries_held,
    consuming::at_the_end_of_the_log,
    relaying::into_another_stream,
];
