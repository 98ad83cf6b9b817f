//! Errors of the disk at any moment: the storage answers truly, and goes on once the disk is well.

use super::*;
use crate::storage::redb::faults::{Change, Faults};

/// When the disk begins to fail, in operations of the script, and for how many of them.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    of_reads: bool,
    after: u64,
    count: u64,
    /// A write that fails has written its first half.
    tears: bool,
}

/// A script on a disk that fails: each operation is done again until it succeeds. The disk is well
/// after the first error that is seen, or fails once more.
struct Run {
    place: Place,
    faults: Arc<Faults>,
    errors: u32,
    /// What fails after the first error that is seen.
    second: Option<Trouble>,
    /// How many operations of the disk had failed when the second trouble was set.
    failed_before: Option<u64>,
    /// Whether an append is tried again as if it were another one.
    is_careless: bool,
}

impl Run {
    async fn new() -> Self {
        let (place, faults) = Place::frail();
        drop(place.open().await.unwrap());
        Self {
            place,
            faults,
            errors: 0,
            second: None,
            failed_before: None,
            is_careless: false,
        }
    }

    /// Gives how the storage stands at the end.
    async fn run(&mut self, ops: &[Op]) -> Contents {
        let mut storage = self.open().await;
        let mut leases = Leases::default();
        for op in ops {
            if let Op::Reopen = op {
                if let Err(error) = storage.close().await {
                    self.see(&error);
                }
                storage = self.open().await;
                continue;
            }
            let mut op = op.clone();
            while let Err(error) = leases.apply(&storage, &op).await {
                self.see(&error);
                if let Op::Append(bodies) = &mut op
                    && self.is_careless
                {
                    Arc::make_mut(bodies).id += 1_000_000;
                }
            }
        }
        let state = self.look(&storage).await;
        if let Err(error) = storage.close().await {
            self.see(&error);
        }
        let storage = self.open().await;
        let again = self.look(&storage).await;
        assert_eq!(state, again, "after it was opened anew");
        state
    }

    async fn look(&mut self, storage: &RedbStorage) -> Contents {
        loop {
            match Contents::of(storage).await {
                Ok(state) => return state,
                Err(error) => self.see(&error),
            }
        }
    }

    async fn open(&mut self) -> RedbStorage {
        loop {
            match self.place.open().await {
                Ok(storage) => return storage,
                Err(error) => self.see(&error),
            }
        }
    }

    #[track_caller]
    fn see(&mut self, error: &Error) {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        self.errors += 1;
        assert!(self.errors <= 3, "it does not recover: {error:?}");
        self.faults.heal();
        if let Some(second) = self.second.take() {
            self.failed_before = Some(self.failed());
            self.arm(second);
        }
    }

    fn arm(&self, trouble: Trouble) {
        if trouble.tears {
            self.faults.tear();
        }
        match trouble.of_reads {
            true => self.faults.fail_reads(trouble.after, trouble.count),
            false => self.faults.fail(trouble.after, trouble.count),
        }
    }

    fn failed(&self) -> u64 {
        self.faults.fired().values().sum()
    }

    /// Whether the second trouble failed as well.
    fn is_pair(&self) -> bool {
        self.failed_before
            .is_some_and(|before| self.failed() > before)
    }
}

/// What does not depend on how often something was tried.
fn settled(mut state: Contents) -> Contents {
    for member in state.groups.values_mut() {
        (member.epoch, member.generation) = (0, 0);
    }
    for (_, bodies) in &mut state.logs {
        // Those that are appended at the same time have no order.
        bodies.sort();
    }
    state
}

/// Every trouble that a script can meet.
async fn troubles(ops: &[Op], stride: usize) -> (Vec<Trouble>, Contents) {
    let mut well = Run::new().await;
    let before = well.faults.counts();
    well.faults.record(&well.place.path());
    let expected = settled(well.run(ops).await);
    assert_eq!(well.errors, 0);
    let after = well.faults.counts();
    let changes = well.faults.take_journal().changes;
    let mut all = Vec::new();
    for of_reads in [false, true] {
        let until = match of_reads {
            true => after.1 - before.1,
            false => after.0 - before.0,
        };
        for (count, tears) in [(1, false), (1, true), (u64::MAX, false), (u64::MAX, true)] {
            all.extend((0..until).map(|after| Trouble {
                of_reads,
                after,
                count,
                tears,
            }));
        }
    }
    // The file grows now and then only.
    let is_rare = |trouble: &Trouble| {
        let change = changes.get(trouble.after as usize);
        !trouble.of_reads && matches!(change, Some(Change::SetLen(_)))
    };
    let mut number = 0;
    all.retain(|trouble| {
        number += 1;
        number % stride == 0 || is_rare(trouble)
    });
    (all, expected)
}

async fn meet(
    trouble: Trouble,
    second: Option<Trouble>,
    ops: &[Op],
    is_careless: bool,
) -> (Run, Contents) {
    let mut run = Run::new().await;
    (run.second, run.is_careless) = (second, is_careless);
    run.arm(trouble);
    let state = settled(run.run(ops).await);
    (run, state)
}

#[tokio::test]
async fn whenever_the_disk_fails_nothing_is_lost_or_doubled() {
    let until = Instant::now() + soak();
    // Some troubles of one script; then all of others, as far as there is time.
    let mut stride = 9;
    let mut fired = BTreeMap::<&str, u64>::new();
    let (mut runs, mut seen) = (0, 0);
    for seed in 1.. {
        let ops = script(seed, 30);
        let (troubles, expected) = troubles(&ops, stride).await;
        for trouble in troubles {
            if stride == 1 && Instant::now() >= until {
                break;
            }
            let (run, state) = meet(trouble, None, &ops, false).await;
            assert!(
                state == expected,
                "seed {seed}, {trouble:?}: {state:?} instead of {expected:?}"
            );
            runs += 1;
            seen += u32::from(run.errors > 0);
            for (what, count) in run.faults.fired() {
                *fired.entry(what).or_default() += count;
            }
        }
        println!("seed {seed}: {runs} runs so far, {seen} with an error; failed: {fired:?}");
        stride = 1;
        if Instant::now() >= until {
            break;
        }
    }
    assert!(seen > 50, "{seen}");
    for what in ["write", "sync", "set_len", "read"] {
        assert!(
            fired.get(what).is_some_and(|count| *count > 0),
            "{what}: {fired:?}"
        );
    }
}

/// The first error makes the file be opened anew: the second strikes meanwhile, or soon after.
#[tokio::test]
async fn a_second_error_while_the_first_is_recovered_from_loses_nothing_either() {
    let until = Instant::now() + soak();
    let mut random = Random::new(1);
    let (mut runs, mut pairs) = (0, 0);
    for seed in 1.. {
        let ops = script(seed, 20);
        let (troubles, expected) = troubles(&ops, 29).await;
        for trouble in troubles {
            if seed > 1 && Instant::now() >= until {
                break;
            }
            let second = Trouble {
                of_reads: random.one_in(3),
                after: random.below(12) as u64,
                count: 1,
                tears: trouble.tears,
            };
            let (run, state) = meet(trouble, Some(second), &ops, false).await;
            assert!(
                state == expected,
                "seed {seed}, {trouble:?}, {second:?}: {state:?} instead of {expected:?}"
            );
            runs += 1;
            pairs += usize::from(run.is_pair());
        }
        if Instant::now() >= until {
            break;
        }
    }
    println!("{pairs} pairs of errors in {runs} runs");
    report::Report::of("disk errors")
        .count("pairs of faults", pairs)
        .count("lost", 0)
        .write();
    assert!(pairs * 4 > runs, "hardly any: {pairs} of {runs}");
}

#[tokio::test]
async fn who_does_not_heed_a_doubt_doubles() {
    let ops = script(1, 12);
    let (troubles, expected) = troubles(&ops, 1).await;
    for trouble in troubles {
        let (_, state) = meet(trouble, None, &ops, true).await;
        if state != expected {
            return;
        }
    }
    panic!("no append was doubled");
}
