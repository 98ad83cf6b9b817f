//! The most that may be allocated, in bytes: "Memory" in `docs/design/memory.md` has the same in words.

#[cfg(feature = "postgres")]
use crate::place::CONNECTIONS;
use crate::place::{CACHE, Kind};
use crate::{KIB, MIB, Sizes};

/// The defaults of the builders.
const BUFFER: usize = MIB;
pub(crate) const PREFETCH: usize = 2 * MIB;
/// So many reads of a consumer are under way at once.
const READS: usize = 4;
/// A statement takes another batch while it has less.
const STATEMENT: usize = 4 * MIB;
/// Runtime, tasks, maps, prepared statements.
const REST: usize = 2 * MIB;

/// What is there in any case.
pub(crate) fn storage(kind: Kind) -> usize {
    match kind {
        Kind::Redb => CACHE + REST,
        // Each connection keeps up to twice of a mebibyte.
        #[cfg(feature = "postgres")]
        Kind::Postgres => CONNECTIONS as usize * 2 * MIB + REST,
    }
}

/// A buffer leaves once it has so much: at most a message over what was set.
pub(crate) fn buffer(sizes: Sizes) -> usize {
    BUFFER.next_multiple_of(sizes.message)
}

/// Producers, each with a buffer that is filled, two under way, and a message that waits.
pub(crate) fn producers(kind: Kind, count: usize, sizes: Sizes) -> usize {
    let buffer = buffer(sizes);
    count * (3 * buffer + sizes.message) + statements(kind, count * 2 * buffer, buffer)
}

/// What `submitted` bytes are once more in statements, in which a batch is `largest` at most.
pub(crate) fn statements(kind: Kind, submitted: usize, largest: usize) -> usize {
    let (depth, copies) = match kind {
        // Its page is a power of two, and the next to it is written as well.
        Kind::Redb => (1, 4),
        // The arguments and what is sent, either of which grows by doubling.
        #[cfg(feature = "postgres")]
        Kind::Postgres => (2, 4),
    };
    let statement = STATEMENT + largest;
    let under_way = submitted.min(depth * statement);
    // The next one grows by doubling.
    let next = submitted.min(statement);
    (1 + copies) * under_way + 2 * next
}

/// A consumer of so many partitions: one budget, which each read that is under way may exceed, and the
/// delivery that its pipeline has in hand.
pub(crate) fn consumer(kind: Kind, partitions: usize, sizes: Sizes) -> usize {
    let reading = match kind {
        // Where another log follows, redb has the first page of that in its hand as well while it looks
        // for the end of this one.
        Kind::Redb => partitions.min(2) * (sizes.batch + 4 * KIB).next_power_of_two(),
        // What came from the server, and the row that is read.
        #[cfg(feature = "postgres")]
        Kind::Postgres => PREFETCH / (partitions + 1) + 2 * sizes.batch,
    };
    PREFETCH + partitions.min(READS) * (sizes.batch + reading) + sizes.batch
}

/// The newest batches of all partitions that are watched.
pub(crate) fn tails(sizes: Sizes) -> usize {
    PREFETCH.max(sizes.batch)
}
