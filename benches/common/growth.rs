//! What an operation costs beside the same when there is less of everything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowstream::Ranges;
use flowstream::storage::{
    Claim, Group, Id, Lease, Name, Partition, Read, RecordsBuilder, Start, Storage,
};
use futures::{StreamExt, stream};
use tokio::runtime::Runtime;

use super::built::append_of;
use super::harness::Bench;
use super::support::{message, run};
use super::table::{Bar, Beside, Figure, Samples, Unit};

/// What grows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// Messages in the log.
    Log,
    /// Streams in the storage.
    Streams,
    /// Groups of the stream.
    Groups,
}

impl What {
    pub(crate) const ALL: [Self; 3] = [Self::Log, Self::Streams, Self::Groups];

    /// The most that there is of it, what lies between, and the least.
    pub(crate) fn sizes(self, is_quick: bool) -> ([usize; 2], usize) {
        match (self, is_quick) {
            (Self::Log, false) => ([1_000_000, 10_000_000], 100_000),
            (Self::Log, true) => ([200_000, 400_000], 100_000),
            (Self::Streams, false) => ([1_000, 100_000], 1),
            (Self::Streams, true) => ([100, 1_000], 1),
            (Self::Groups, false) => ([100, 1_000], 1),
            (Self::Groups, true) => ([10, 50], 1),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Log => "messages",
            Self::Streams => "streams",
            Self::Groups => "groups",
        }
    }

    fn beside(self) -> &'static str {
        match self {
            Self::Log => "100,000 messages",
            Self::Streams => "1 stream",
            Self::Groups => "1 group",
        }
    }
}

const OPERATIONS: [&str; 3] = ["append", "read the end", "commit"];

/// Measures what one costs with much of it beside what it costs with little.
pub(crate) fn measure(
    bench: &mut Bench,
    storage: &str,
    setting: &'static str,
    runtime: &Runtime,
    mut make: impl FnMut(What, usize) -> Subject,
) {
    for what in What::ALL {
        let (sizes, least) = what.sizes(bench.quick);
        for size in sizes {
            let figures = OPERATIONS.map(|operation| {
                let (size, what) = (separated(size), what.name());
                let name = format!("{storage}growth: {operation}, {size} {what}");
                Figure::new(name, setting, Unit::Operations)
            });
            if !figures.iter().any(|figure| bench.wants(&figure.name)) {
                continue;
            }
            let (mut large, mut small) = (make(what, size), make(what, least));
            let [own, beside] = in_turns(bench, runtime, [&mut large, &mut small]);
            for (index, figure) in figures.into_iter().enumerate() {
                let of = |all: &[[f64; 3]]| all.iter().map(|sample| sample[index]).collect();
                let beside = Beside {
                    name: what.beside(),
                    bar: Some(Bar::AtLeast(0.9)),
                    samples: Samples(of(&beside)),
                };
                bench.report(figure, Samples(of(&own)), vec![beside]);
            }
        }
    }
}

/// Many short windows: the difference that is looked for is smaller than the moods of a disk.
fn in_turns(bench: &Bench, runtime: &Runtime, pair: [&mut Subject; 2]) -> [Vec<[f64; 3]>; 2] {
    let (rounds, count) = if bench.quick { (2, 20) } else { (41, 100) };
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        // Neither is always the first.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for index in order {
            let sample = pair[index].work(runtime, count);
            // The first round warms up.
            if round > 0 {
                samples[index].push(sample);
            }
        }
    }
    samples
}

/// As people write it.
pub(crate) fn separated(count: usize) -> String {
    match count {
        1_000_000.. => format!("{},000,000", count / 1_000_000),
        1_000.. => format!("{},{:03}", count / 1_000, count % 1_000),
        _ => count.to_string(),
    }
}

/// A storage with a stream, and the lease of one of its groups.
pub(crate) struct Subject {
    storage: Arc<dyn Storage>,
    lease: Lease,
    done: u64,
    /// What has to stay as long as the storage is open.
    _home: Box<dyn std::any::Any>,
}

impl Subject {
    pub(crate) fn new(storage: Arc<dyn Storage>, lease: Lease, home: impl std::any::Any) -> Self {
        Self {
            storage,
            lease,
            done: 0,
            _home: Box::new(home),
        }
    }

    /// Appends, reads and commits, a second: one message each, one by one.
    fn work(&mut self, runtime: &Runtime, count: usize) -> [f64; 3] {
        let (storage, lease, done) = (self.storage.clone(), self.lease.clone(), self.done);
        self.done += count as u64;
        run(runtime, async move {
            let partition = &lease.group.partition;
            let began = Instant::now();
            for _ in 0..count {
                append(&*storage, partition, 1).await;
            }
            let appends = rate(count, began.elapsed());
            let bounds = storage.bounds(std::slice::from_ref(partition)).await;
            let end = bounds.expect("the bounds")[0].end;
            let began = Instant::now();
            for _ in 0..count {
                let read = Read {
                    partition: partition.clone(),
                    from: end - 1,
                    max_bytes: 1 << 16,
                    group: Some(lease.group.name.clone()),
                };
                let fetched = storage.read(read).await.expect("a batch");
                assert_eq!(fetched.batches.len(), 1);
            }
            let reads = rate(count, began.elapsed());
            let began = Instant::now();
            for number in done..done + count as u64 {
                let verdicts = Ranges::from(number..number + 1).into();
                let committed = storage.commit(&lease, &verdicts).await;
                committed.expect("a commit");
            }
            [appends, reads, rate(count, began.elapsed())]
        })
    }
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// One batch.
pub(crate) async fn append(storage: &dyn Storage, partition: &Partition, messages: usize) {
    let messages: Vec<_> = (0..messages).map(|_| message()).collect();
    let builder: RecordsBuilder = messages.iter().collect();
    let append = append_of(partition, builder.build().expect("a batch"));
    let written = storage.append(Arc::new(append)).await;
    written.expect("an append");
}

/// So many messages more, in batches of 1,000.
pub(crate) async fn fill(storage: &dyn Storage, partition: &Partition, messages: usize) {
    for _ in 0..messages / 1_000 {
        append(storage, partition, 1_000).await;
    }
}

/// A new stream and a group of it, with its lease.
pub(crate) async fn claimed(storage: &dyn Storage, stream: &str, group: &str) -> Lease {
    let stream = Name::new(stream).expect("a name");
    let created = storage.create_stream(&stream, Some(1)).await;
    created.expect("a stream");
    let group = Group {
        partition: Partition { stream, index: 0 },
        name: Name::new(group).expect("a name"),
    };
    let created = storage.create_group(&group, Start::Earliest).await;
    created.expect("a group");
    let claim = Claim {
        group: group.clone(),
        owner: Id::random(),
        over: None,
    };
    let state = storage.claim(claim.clone()).await.expect("a lease");
    Lease {
        group,
        owner: claim.owner,
        epoch: state.epoch,
    }
}

/// So many groups more of a stream, each of which has a lease and has done a message.
pub(crate) async fn add_groups(storage: &dyn Storage, stream: &str, count: usize) {
    for number in 0..count {
        let lease = claimed(storage, stream, &format!("more{number}")).await;
        let committed = storage.commit(&lease, &Ranges::from(0..1).into()).await;
        committed.expect("a commit");
    }
}

/// So many streams more, with a message each.
pub(crate) async fn add_streams(storage: &dyn Storage, count: usize) {
    let adding = (0..count).map(async |number| {
        let stream = Name::new(format!("more{number}")).expect("a name");
        let created = storage.create_stream(&stream, Some(1)).await;
        created.expect("a stream");
        append(storage, &Partition { stream, index: 0 }, 1).await;
    });
    // They share transactions where the storage can.
    stream::iter(adding)
        .buffer_unordered(512)
        .for_each(async |()| ())
        .await;
}
