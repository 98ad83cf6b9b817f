//! The network breaks at each message, in each way.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::{Case, Outcome, all_is_well, clean, doubts, of_steps, play_all, survived};
use crate::postgres_support::proxy::{Cut, Direction, Fault, Passed, Place, Seen};
use crate::rig::benches;
use crate::script::{STEPS, Temper};

pub(crate) const DIRECTIONS: [Direction; 2] = [Direction::ToServer, Direction::ToClient];

pub(crate) fn passed(seen: &Seen, direction: Direction) -> &[Passed] {
    match direction {
        Direction::ToServer => &seen.to_server,
        Direction::ToClient => &seen.to_client,
    }
}

/// What comes late comes late to the server; the client waits no longer.
pub(crate) fn cuts(direction: Direction) -> impl Iterator<Item = Cut> {
    Cut::ALL
        .into_iter()
        .filter(move |cut| direction == Direction::ToServer || *cut != Cut::Late)
}

/// Every message, in every way.
fn exhaustive(clean: &Seen) -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in DIRECTIONS {
        let counts = of_steps(passed(clean, direction)).into_iter().enumerate();
        for place in counts.flat_map(|(step, count)| (0..count).map(move |at| Place { step, at })) {
            for (number, cut) in cuts(direction).enumerate() {
                let temper = Temper::of_turn(place.at + number);
                let fault = Some(Fault::Cut(direction, place, cut));
                cases.push(Case::of(fault, temper));
            }
        }
    }
    cases
}

/// Each step in every way, in one direction or the other, at another message of it each time.
fn sample(clean: &Seen) -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in DIRECTIONS {
        let cuts: Vec<Cut> = cuts(direction).collect();
        let counts = of_steps(passed(clean, direction)).into_iter().enumerate();
        for (step, count) in counts.filter(|(_, count)| *count > 0) {
            for (number, cut) in cuts.iter().enumerate() {
                if (number + step + direction as usize) % 2 == 1 && *cut != Cut::LoseAnswer {
                    continue;
                }
                let at = (number * count / cuts.len() + step) % count;
                let temper = Temper::of_turn(number / 2 + step);
                let fault = Some(Fault::Cut(direction, Place { step, at }, *cut));
                cases.push(Case::of(fault, temper));
            }
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_may_break_at_every_message() {
    let benches = benches(16).await;
    let clean = clean(&benches).await;
    let outcomes = play_all(&benches, sample(&clean), || exhaustive(&clean)).await;
    report(&clean, &outcomes);
    all_is_well(&outcomes);

    let fired = |outcome: &&Outcome| outcome.seen.fired.is_some();
    let struck = outcomes.iter().filter(fired).count();
    assert!(struck * 10 >= outcomes.len() * 9, "hardly anything broke");
    for cut in Cut::ALL {
        let is_of = |outcome: &&Outcome| matches!(outcome.case.fault, Some(Fault::Cut(_, _, of)) if of == cut);
        assert!(
            outcomes.iter().filter(fired).any(|it| is_of(&it)),
            "{cut:?}"
        );
    }
    let met = clean.to_client.iter().map(|passed| passed.step);
    for step in BTreeSet::from_iter(met) {
        let is_of = |outcome: &Outcome| {
            outcome
                .seen
                .fired
                .as_ref()
                .is_some_and(|it| it.step == step)
        };
        assert!(outcomes.iter().any(is_of), "{}", STEPS[step]);
    }
    let doubts: usize = outcomes.iter().map(|outcome| outcome.book.doubts).sum();
    let late = outcomes.iter().any(|outcome| outcome.seen.landed_late);
    assert!(doubts > 0 && late, "no append was ever in doubt");
}

fn report(clean: &Seen, outcomes: &[Outcome]) {
    let mut by_cut: BTreeMap<Cut, usize> = BTreeMap::new();
    let (mut late, mut errors) = (0, 0);
    let struck = || outcomes.iter().filter(|it| it.seen.fired.is_some());
    for outcome in struck() {
        if let Some(Fault::Cut(_, _, cut)) = outcome.case.fault {
            *by_cut.entry(cut).or_default() += 1;
        }
        late += usize::from(outcome.seen.landed_late);
        errors += outcome.book.errors.len();
    }
    let (doubts, resolved) = doubts(struck());
    let struck: usize = by_cut.values().sum();
    let survived = survived(outcomes);
    println!(
        "network cut points: {} messages to the server, {} to the client; {struck} of {} runs cut \
         {by_cut:?}, {survived} survived; ambiguous appends met {doubts}, resolved {resolved}; \
         statements that landed late {late}; errors told {errors}",
        clean.to_server.len(),
        clean.to_client.len(),
        outcomes.len(),
    );
    let mut report = crate::report::Report::of("network cuts")
        .count("cut points", struck)
        .count("appends in doubt", doubts)
        .count("of those, settled", resolved)
        .count("lost", outcomes.len() - survived);
    for (cut, count) in by_cut {
        report = report.fault(&format!("cut: {cut:?}"), count);
    }
    report.write();
}

/// The control: a client that appends anew what is in doubt doubles it, and the check says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_forgets_the_id_writes_twice_and_is_found_out() {
    let benches = benches(4).await;
    let clean = clean(&benches).await;
    let step = STEPS.iter().position(|step| *step == "append one");
    let step = step.expect("such a step");
    let count = of_steps(&clean.to_client)[step];
    let places = (0..count).map(|at| Place { step, at });
    let fault = |place| Fault::Cut(Direction::ToClient, place, Cut::LoseAnswer);
    let cases = places.map(|place| Case::of(Some(fault(place)), Temper::Forgetful));
    let outcomes = play_all(&benches, cases.collect(), Vec::new).await;
    let in_doubt = outcomes.iter().filter(|it| it.book.doubts > 0);
    let (mut met, mut found) = (0, 0);
    for outcome in in_doubt {
        met += 1;
        found += usize::from(outcome.verdict.is_err());
    }
    println!("ids forgotten: {met} appends in doubt, {found} found doubled");
    assert!(found > 0, "the check has no eyes");
}
