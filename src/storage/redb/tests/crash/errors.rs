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
/// after the first error that is seen.
struct Run {
    place: Place,
    faults: Arc<Faults>,
    errors: u32,
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
            is_careless: false,
        }
    }

    /// Gives how the storage stands at the end.
    async fn run(&mut self, ops: &[Op]) -> State {
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

    async fn look(&mut self, storage: &RedbStorage) -> State {
        loop {
            match State::of(storage).await {
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
    }
}

/// What does not depend on how often something was tried.
fn settled(mut state: State) -> State {
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
async fn troubles(ops: &[Op], stride: usize) -> (Vec<Trouble>, State) {
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

async fn meet(trouble: Trouble, ops: &[Op], is_careless: bool) -> (Run, State) {
    let mut run = Run::new().await;
    run.is_careless = is_careless;
    if trouble.tears {
        run.faults.tear();
    }
    match trouble.of_reads {
        true => run.faults.fail_reads(trouble.after, trouble.count),
        false => run.faults.fail(trouble.after, trouble.count),
    }
    let state = settled(run.run(ops).await);
    (run, state)
}

#[tokio::test]
async fn whenever_the_disk_fails_nothing_is_lost_or_doubled() {
    let soak = soak();
    let until = Instant::now() + soak;
    let stride = if soak.is_zero() { 9 } else { 1 };
    let mut fired = BTreeMap::<&str, u64>::new();
    let (mut runs, mut seen) = (0, 0);
    for seed in 1.. {
        let ops = script(seed, 30);
        let (troubles, expected) = troubles(&ops, stride).await;
        for trouble in troubles {
            let (run, state) = meet(trouble, &ops, false).await;
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

#[tokio::test]
async fn who_does_not_heed_a_doubt_doubles() {
    let ops = script(1, 12);
    let (troubles, expected) = troubles(&ops, 1).await;
    for trouble in troubles {
        let (_, state) = meet(trouble, &ops, true).await;
        if state != expected {
            return;
        }
    }
    panic!("no append was doubled");
}
