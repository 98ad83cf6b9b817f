//! A failover to a standby that is behind: the tail that it did not have is lost, also where it was
//! acknowledged. Who had read it is told, once; what comes in its place is not skipped; copies are what
//! they copy.

use std::collections::{HashMap, HashSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::check::{Seen, is_of_message};
use crate::crew::{COPIERS, IN, Terms, WORKERS};
use crate::nemesis::{Faults, Kind, TO_PROCESSES, rage};
use crate::place::{Place, SETTINGS};
use crate::postgres_support::Cluster;
use crate::process_support::history::{Event, PATIENCE, What};
use crate::report::Report;
use crate::scene::{Scene, read};
use crate::tag::Tag;

/// What came of it.
#[derive(Debug)]
struct Loss {
    /// Acknowledged messages that are not in the log.
    acked: usize,
    /// Those that are.
    kept: usize,
    /// Messages that could be seen at the server before, acknowledged or not, and are not in the log.
    gone: usize,
    /// How often the workers and the copiers were told that something is gone.
    told: [usize; 2],
}

#[test]
fn the_tail_that_a_standby_did_not_have_is_told_of_and_nothing_new_is_skipped() {
    let mut place = Place::new(Cluster::start_with(SETTINGS));
    place.follow();
    let (mut scene, mut faults) = begin("lagging standby", place);
    scene.place.standby().stop_following();
    // Owners read, and writers are told of, what the standby does not have.
    scene.until_done_with(scene.end() + 500).unwrap();
    let before = scene.place.fail_over();
    faults.add(Kind::LoseTail);
    let (seen, loss) = end(scene, &before);
    report("failover to a lagging standby", &faults, &loss);
    assert!(loss.acked > 0, "the standby was behind");
    assert_eq!(loss.told, [1, 1], "who had read it is told, once");
    assert!(!seen.log.is_empty());
}

/// The server does not acknowledge what its standby does not have. Where a session ends that waits for
/// that, others see what it wrote all the same; whoever tries it again must wait as well.
#[test]
fn what_a_synchronous_standby_did_not_have_was_not_acknowledged() {
    let mut place = Place::new(Cluster::start_with(SETTINGS));
    place.follow_synchronously();
    let (mut scene, mut faults) = begin("hanging standby", place);
    scene.place.standby().stop_following();
    // What hangs is seen once its session ends. It may come again at the same places after the failover.
    let (began, mut rounds) = (Instant::now(), 0);
    while rounds < 8 || !scene.place.standby_lacks_some() {
        let is_late = began.elapsed() > PATIENCE;
        assert!(!is_late, "something is seen that the standby does not have");
        sleep(Duration::from_millis(250));
        scene.place.end_all_sessions();
        faults.add(Kind::EndSession);
        rounds += 1;
    }
    let before = scene.place.fail_over();
    faults.add(Kind::LoseTail);
    let (seen, loss) = end(scene, &before);
    report(
        "failover to a synchronous standby that hung",
        &faults,
        &loss,
    );
    assert_eq!(loss.acked, 0, "nothing acknowledged is lost");
    let at_most_once = loss.told.iter().all(|times| *times <= 1);
    assert!(at_most_once, "{loss:?}");
    seen.check_done().unwrap();
}

/// With a standby that has everything, and after some trouble.
fn begin(name: &'static str, place: Place) -> (Scene, Faults) {
    // All have the same lease: a zombie that trusts its own would be told of what others had read.
    let terms = Terms {
        zombies: false,
        ..Terms::default()
    };
    let mut scene = Scene::new(name, place, terms);
    scene.until_done_with(1).unwrap();
    let time = Duration::from_secs(2);
    let Scene {
        place, crew, dice, ..
    } = &mut scene;
    let faults = rage(place, crew, dice, &TO_PROCESSES, 100..300, time);
    crew.resume(true);
    place.standby().catch_up(place.cluster());
    (scene, faults)
}

/// Goes on for a while, heals, and checks.
fn end(mut scene: Scene, before: &Cluster) -> (Seen, Loss) {
    scene.until_done_with(scene.end() + 500).unwrap();
    let (seen, _) = scene.heal().unwrap();
    before.start();
    let lost = read(&scene.place.runtime, &scene.place.open(before), IN, 0);
    let loss = check(&seen, &lost).unwrap();
    (seen, loss)
}

fn report(suite: &str, faults: &Faults, loss: &Loss) {
    let mut report = Report::of(suite)
        .count("seeds", 1)
        .count("acked", loss.kept)
        .count("acked, lost with the server, and told of", loss.acked)
        .count("seen, never acknowledged, gone", loss.gone - loss.acked)
        .count("new messages skipped", 0)
        .count("exactly-once duplicates", 0);
    for (kind, count) in faults.counts() {
        report = report.fault(kind.name(), count);
    }
    report.write();
    println!("{report:#?}");
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
    let told = |group, what| {
        let fits = |it: &&Event| it.group == group && it.what == what;
        seen.events.iter().filter(fits).count()
    };
    if told(WORKERS, What::Failed) > 0 {
        return Err("a commit failed".to_owned());
    }
    let mut loss = Loss {
        acked: 0,
        kept: 0,
        gone: before.len() - cut as usize,
        told: [WORKERS, COPIERS].map(|group| told(group, What::Lost)),
    };
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
    Ok(loss)
}
