//! Crashes at any moment: a script runs on a disk that remembers every write, and the storage is
//! opened on whatever could be left of the file. `FLOWSTREAM_SOAK=minutes` makes it exhaustive, and
//! goes on with other scripts.

#![allow(
    clippy::disallowed_methods,
    reason = "a soak takes as long as the machine's clock says"
)]

mod errors;
mod images;
#[path = "../../../../../tests/report/mod.rs"]
mod report;
mod script;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use super::super::faults::Journal;
use super::*;
use crate::fuzzing::random::Random;
use images::{Image, Kept};
use script::{Contents, Leases, Op, script};

/// What an operation did to the disk, and how the storage stood after it.
struct Step {
    op: Op,
    /// The leases before it.
    leases: Leases,
    /// The changes of the file before it was called, and when it had answered.
    changes: Range<usize>,
    after: Contents,
}

struct Recording {
    journal: Journal,
    steps: Vec<Step>,
}

async fn record(seed: u64, len: usize, has_quick_repair: bool) -> Recording {
    let (mut place, faults) = Place::frail();
    place.has_quick_repair = has_quick_repair;
    drop(place.open().await.unwrap());
    faults.record(&place.path());
    let mut storage = place.open().await.unwrap();
    let mut leases = Leases::default();
    let mut steps = Vec::new();
    for op in script(seed, len) {
        let (begun, before) = (faults.recorded(), leases.clone());
        if let Op::Reopen = op {
            storage.close().await.unwrap();
            storage = place.open().await.unwrap();
        } else {
            leases.apply(&storage, &op).await.unwrap();
        }
        steps.push(Step {
            op,
            leases: before,
            changes: begun..faults.recorded(),
            after: Contents::of(&storage).await.unwrap(),
        });
    }
    storage.close().await.unwrap();
    let journal = faults.take_journal();
    Recording { journal, steps }
}

impl Recording {
    /// How the storage stood when that many changes were made, and what was under way then.
    fn at(&self, changes: usize) -> (Contents, Option<&Step>) {
        let over = self
            .steps
            .partition_point(|step| step.changes.end <= changes);
        let before = match over.checked_sub(1) {
            Some(last) => self.steps[last].after.clone(),
            None => Contents::default(),
        };
        let next = self.steps.get(over);
        (before, next.filter(|step| step.changes.start < changes))
    }
}

/// Opens an image: an error says what is wrong with it.
async fn check(
    recording: &Recording,
    place: &Place,
    image: &Image,
) -> std::result::Result<(), String> {
    fs::write(place.path(), &image.file).unwrap();
    let failed = |what: &str, error: Error| format!("{what}: {error}");
    let storage = place.open().await.map_err(|error| failed("open", error))?;
    let found = Contents::of(&storage).await;
    let found = found.map_err(|error| failed("read", error))?;
    let (before, under_way) = recording.at(image.at);
    let is_right = found == before
        || under_way.is_some_and(|step| {
            let is_many = matches!(step.op, Op::Together(_));
            found == step.after || is_many && found.is_between(&before, &step.after)
        });
    if !is_right {
        return Err(format!("holds {found:?} instead of {before:?}"));
    }
    go_on(&storage, found, under_way).await;
    Ok(())
}

/// Whoever has no answer asks again, and then others come.
async fn go_on(storage: &RedbStorage, found: Contents, under_way: Option<&Step>) {
    let mut now = found;
    if let Some(step) = under_way
        && !matches!(step.op, Op::Reopen)
    {
        let mut leases = step.leases.clone();
        leases.apply(storage, &step.op).await.unwrap();
        now = Contents::of(storage).await.unwrap();
        match step.op {
            Op::Append(_) => assert!(now == step.after, "{now:?} instead of {:?}", step.after),
            Op::Together(_) => assert_eq!(sorted(&now), sorted(&step.after)),
            _ => {}
        }
    }
    let Some((bounds, _)) = now.logs.first() else {
        return;
    };
    let appended = storage.append(append(&["goes", "on"])).await.unwrap();
    assert_eq!(appended.bases(), Some(vec![bounds.end]));
    let last = storage.append(append(&["and on"])).await.unwrap();
    assert_eq!(last.bases(), Some(vec![bounds.end + 2]));
    let end = Contents::of(storage).await.unwrap();
    let (bounds, bodies) = &now.logs[0];
    assert_eq!(end.logs[0].0, bounds.start..bounds.end + 3);
    assert!(end.logs[0].1.starts_with(bodies));
    assert_eq!((&end.logs[1], &end.groups), (&now.logs[1], &now.groups));
}

fn sorted(state: &Contents) -> Vec<(Range<u64>, Vec<String>)> {
    let mut logs = state.logs.clone();
    logs.iter_mut().for_each(|(_, bodies)| bodies.sort());
    logs
}

/// How long a soak shall go on.
fn soak() -> Duration {
    report::soak().unwrap_or_default()
}

#[tokio::test]
async fn whatever_a_crash_leaves_holds_all_that_was_acknowledged() {
    let until = Instant::now() + soak();
    // Some of the images of two scripts; then all of others, as far as there is time. Every second
    // one is written with quick repair.
    let (mut seed, mut one_in) = (1, 5);
    let places = [false, true].map(|is_trusting| Place {
        is_trusting,
        ..Place::swift()
    });
    let mut counts = BTreeMap::<Kept, usize>::new();
    loop {
        let recording = record(seed, 60, seed % 2 == 0).await;
        let mut images = Vec::new();
        let mut choice = Random::new(seed);
        let mut subsets = Random::new(seed);
        images::each(&recording.journal, &mut subsets, 2, |image| {
            // Those that are the same for a long time are few.
            if image.kept == Kept::Nothing || choice.one_in(one_in) {
                images.push(image);
            }
        });
        for image in images {
            if seed > 2 && Instant::now() >= until {
                break;
            }
            *counts.entry(image.kept).or_default() += 1;
            let checked = check(&recording, &places[image.at % 2], &image).await;
            checked.unwrap_or_else(|error| {
                panic!(
                    "seed {seed}, {:?} before change {}: {error}",
                    image.kept, image.at
                )
            });
        }
        let (writes, number) = (recording.journal.changes.len(), recording.steps.len());
        println!(
            "seed {seed}: {number} operations, {writes} changes of the file, images so far {counts:?}"
        );
        (seed, one_in) = (seed + 1, if seed == 1 { 15 } else { 1 });
        if seed > 2 && Instant::now() >= until {
            break;
        }
    }
    let mut report = report::Report::of("crash images")
        .count("crash images", counts.values().sum::<usize>())
        .count("lost", 0);
    for (kept, count) in &counts {
        report = report.fault(&format!("crash, of what was not synced: {kept:?}"), *count);
    }
    report.write();
    assert!(
        counts.len() == 4 && counts.values().all(|count| *count > 10),
        "{counts:?}"
    );
}

#[tokio::test]
async fn a_crash_while_a_crash_is_recovered_from_loses_nothing_either() {
    let recording = record(2, 40, false).await;
    let mut random = Random::new(2);
    let mut first = Vec::new();
    images::each(&recording.journal, &mut random, 2, |image| {
        first.push(image)
    });
    random.shuffle(&mut first);
    first.truncate(if soak().is_zero() { 3 } else { 200 });
    let until = Instant::now() + soak();
    let place = Place::swift();
    let mut count = 0;
    for (number, crash) in first.into_iter().enumerate() {
        if number >= 3 && Instant::now() >= until {
            break;
        }
        let (mut recovery, faults) = Place::frail();
        recovery.is_trusting = number % 2 == 0;
        fs::write(recovery.path(), &crash.file).unwrap();
        faults.record(&recovery.path());
        recovery.open().await.unwrap().close().await.unwrap();
        let mut second = Vec::new();
        let journal = faults.take_journal();
        images::each(&journal, &mut random, 1, |image| second.push(image));
        for image in second {
            let (kept, at) = (image.kept, crash.at);
            let image = Image { at, ..image };
            count += 1;
            let checked = check(&recording, &place, &image).await;
            checked.unwrap_or_else(|error| {
                panic!(
                    "{:?} before change {at}, then {kept:?}: {error}",
                    crash.kept
                )
            });
        }
    }
    println!("{count} images of recoveries");
    assert!(count > 50, "{count}");
}

#[tokio::test]
async fn a_disk_that_lies_about_its_sync_is_found_out() {
    let recording = record(1, 25, false).await;
    let mut images = Vec::new();
    images::lying(&recording.journal, |image| images.push(image));
    let place = Place::swift();
    let (mut found, all) = (0, images.len());
    for image in images {
        found += usize::from(check(&recording, &place, &image).await.is_err());
    }
    println!("{found} of {all} lies were found out");
    assert!(found > 10, "{found} of {all}");
}
