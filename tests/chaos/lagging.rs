//! A failover to a standby that is behind: the tail that it did not have is lost, also where it was
//! acknowledged. Who had read it is told, once; what comes in its place is not skipped; copies are what
//! they copy.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::check::{Seen, is_of_message};
use crate::crew::{COPIERS, IN, Terms, WORKERS};
use crate::nemesis::{Kind, TO_PROCESSES, rage};
use crate::place::{Place, SETTINGS};
use crate::postgres_support::Cluster;
use crate::process_support::history::What;
use crate::report::Report;
use crate::scene::{Scene, read};
use crate::tag::Tag;

/// What came of it.
struct Loss {
    /// Acknowledged messages that are not in the log.
    acked: usize,
    /// Those that are.
    kept: usize,
}

#[test]
fn the_tail_that_a_standby_did_not_have_is_told_of_and_nothing_new_is_skipped() {
    let mut place = Place::new(Cluster::start_with(SETTINGS));
    place.follow();
    // All have the same lease: a zombie that trusts its own would be told of what others had read.
    let terms = Terms {
        zombies: false,
        ..Terms::default()
    };
    let mut scene = Scene::new("lagging standby", place, terms);
    scene.until_done_with(1).unwrap();
    let time = Duration::from_secs(2);
    let Scene {
        place, crew, dice, ..
    } = &mut scene;
    let mut faults = rage(place, crew, dice, &TO_PROCESSES, 100..300, time);
    crew.resume(true);

    place.standby().catch_up(place.cluster());
    place.standby().stop_following();
    // Owners read, and writers are told of, what the standby does not have.
    scene.until_done_with(scene.end() + 500).unwrap();
    let before = scene.place.fail_over();
    faults.add(Kind::LoseTail);
    scene.until_done_with(scene.end() + 500).unwrap();
    let (seen, drained) = scene.heal().unwrap();

    before.start();
    let lost = read(&scene.place.runtime, &scene.place.open(&before), IN, 0);
    let loss = check(&seen, &lost).unwrap();
    let mut report = Report::of("failover to a lagging standby")
        .count("seeds", 1)
        .count("acked", loss.acked + loss.kept)
        .count("acked, lost with the server, and told of", loss.acked)
        .count("new messages skipped", 0)
        .count("exactly-once duplicates", 0)
        .most("drain ms", drained.as_millis());
    for (kind, count) in faults.counts() {
        report = report.fault(kind.name(), count);
    }
    report.write();
    println!("{report:#?}");
    assert!(loss.acked > 0, "the standby was behind");
}

/// What is wrong, if anything is, given what was in the log of the server before.
fn check(seen: &Seen, before: &[(u64, Tag)]) -> Result<Loss, String> {
    seen.check_logs()?;
    let shared = seen.log.iter().zip(before);
    let cut = shared.take_while(|(one, other)| one == other).count() as u64;

    let mut last = HashMap::new();
    for (offset, tag) in &seen.log {
        if last.insert(tag.writer, tag.number) >= Some(tag.number) {
            return Err(format!("twice, or out of order, at {offset}: {tag:?}"));
        }
    }
    let ids = |log: &[(u64, Tag)]| -> HashSet<(u64, u64)> {
        log.iter()
            .map(|(offset, tag)| (*offset, tag.id()))
            .collect()
    };
    let (now, then) = (ids(&seen.log), ids(before));
    let is_lost = |id: u64| then.iter().any(|(offset, it)| *it == id && *offset >= cut);
    let there: HashSet<u64> = seen.log.iter().map(|(_, tag)| tag.id()).collect();
    let mut loss = Loss { acked: 0, kept: 0 };
    for event in seen.events.iter().filter(|event| event.what == What::Sent) {
        match there.contains(&event.message) {
            true => loss.kept += 1,
            false if is_lost(event.message) => loss.acked += 1,
            false => return Err(format!("lost, and not with the server: {event:?}")),
        }
    }

    let mut delivered = HashSet::new();
    for event in seen.events.iter().filter(|event| is_of_message(event)) {
        let place = (event.offset, event.message);
        let is_lost = event.offset >= cut && then.contains(&place);
        if !now.contains(&place) && !is_lost {
            return Err(format!("never in a log: {event:?}"));
        }
        if event.what == What::Delivered {
            delivered.insert(place);
        }
    }
    if let Some((offset, _)) = now.iter().find(|place| !delivered.contains(place)) {
        return Err(format!("{offset}, after the cut at {cut}, was skipped"));
    }
    seen.story(WORKERS, &seen.workers).check_ledger()?;
    seen.story(COPIERS, &seen.copiers).check_ledger()?;

    for group in [WORKERS, COPIERS] {
        let told = |what| {
            let fits = |it: &&_| is(it, group, what);
            seen.events.iter().filter(fits).count()
        };
        if told(What::Lost) != 1 || told(What::Failed) != 0 {
            let wrong = "the loss was told so often, and so many commits failed";
            return Err(format!(
                "{group}: {wrong}: {}, {}",
                told(What::Lost),
                told(What::Failed)
            ));
        }
    }
    Ok(loss)
}

fn is(event: &crate::process_support::history::Event, group: &str, what: What) -> bool {
    event.group == group && event.what == what
}
