//! A second fault, while the first is being recovered from.

use std::collections::BTreeMap;

use crate::cuts::{DIRECTIONS, cuts, passed};
use crate::errors::{PASSING, WHENS, statements};
use crate::plan::{
    Case, Outcome, all_is_well, clean, doubts, of_steps, play_all, scatter, survived,
};
use crate::postgres_support::proxy::{Cut, Direction, Fault, Place, Seen, Then};
use crate::rig::benches;
use crate::script::Temper;

/// A session begins with some four messages to the server and a dozen to the client; then statements
/// are prepared and run.
const SOON: [usize; 2] = [12, 24];
/// How many seconds each first one meets in a soak.
const PARTNERS: u64 = 4;

/// Those that somebody has to recover from.
fn breaks(direction: Direction) -> impl Iterator<Item = Cut> {
    cuts(direction).filter(|cut| *cut != Cut::Delay)
}

fn one_of<T: Copy>(all: &[T], number: u64) -> T {
    all[number as usize % all.len()]
}

/// Soon after the first.
fn then_cut(number: u64) -> Then {
    let direction = one_of(&DIRECTIONS, number);
    let cuts: Vec<Cut> = breaks(direction).collect();
    let at = scatter(number) as usize % SOON[direction as usize];
    Then::Cut(direction, at, one_of(&cuts, number / 2))
}

fn then_error(number: u64) -> Then {
    Then::Sql(one_of(&PASSING, number), one_of(&WHENS, number / 8))
}

/// Each kind of cut and then each, each and then an error, and the errors and then a cut.
fn sample(clean: &Seen) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |fault, then| {
        let (then, temper) = (Some(then), Temper::of_turn(cases.len() / 3));
        let fault = Some(fault);
        cases.push(Case {
            fault,
            then,
            temper,
        });
    };
    let mut number = 0;
    for direction in DIRECTIONS {
        let counts = of_steps(passed(clean, direction)).into_iter().enumerate();
        let steps: Vec<(usize, usize)> = counts.filter(|(_, count)| *count > 0).collect();
        for cut in breaks(direction) {
            for follow in [then_cut, then_error] {
                let (step, count) = one_of(&steps, number);
                let at = scatter(number) as usize % count;
                let fault = Fault::Cut(direction, Place { step, at }, cut);
                add(fault, follow(number));
                number += 1;
            }
        }
    }
    let statements = statements(clean).into_iter().collect::<Vec<_>>();
    for (number, code) in (0..).zip(PASSING) {
        let (essence, count) = one_of(&statements, scatter(number));
        let at = number as usize % count;
        let fault = Fault::Sql(essence.to_owned(), at, code, one_of(&WHENS, number));
        add(fault, then_cut(number));
    }
    cases
}

/// Everything first, each time with other seconds.
fn exhaustive(clean: &Seen) -> Vec<Case> {
    let mut firsts = Vec::new();
    for direction in DIRECTIONS {
        for (step, count) in of_steps(passed(clean, direction)).into_iter().enumerate() {
            for place in (0..count).map(|at| Place { step, at }) {
                firsts.extend(breaks(direction).map(|cut| Fault::Cut(direction, place, cut)));
            }
        }
    }
    for (essence, count) in statements(clean) {
        for at in 0..count {
            for (code, when) in PASSING.into_iter().zip(WHENS.into_iter().cycle()) {
                firsts.push(Fault::Sql(essence.to_owned(), at, code, when));
            }
        }
    }
    let mut cases = Vec::new();
    for (number, first) in (0..).zip(firsts) {
        for partner in 0..PARTNERS {
            let number = scatter(number * PARTNERS + partner) >> 8;
            let then = match partner % 2 {
                0 => then_cut(number),
                _ => then_error(number),
            };
            cases.push(Case {
                fault: Some(first.clone()),
                then: Some(then),
                temper: Temper::of_turn(number as usize / 5),
            });
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_fault_may_strike_while_the_first_is_recovered_from() {
    let benches = benches(16).await;
    let clean = clean(&benches).await;
    let outcomes = play_all(&benches, sample(&clean), || exhaustive(&clean)).await;
    report(&outcomes);
    all_is_well(&outcomes);

    let pairs: Vec<&Outcome> = outcomes.iter().filter(|it| is_pair(it)).collect();
    assert!(
        pairs.len() * 4 >= outcomes.len() * 3,
        "only {} of {} were pairs",
        pairs.len(),
        outcomes.len()
    );
    for kind in ["cut, cut", "cut, SQL error", "SQL error, cut"] {
        let met = pairs.iter().filter(|it| kind_of(&it.case) == kind);
        assert!(met.count() > 1, "{kind}");
    }
}

/// Whether both have fired.
fn is_pair(outcome: &Outcome) -> bool {
    outcome.seen.fired_again.is_some()
}

fn kind_of(case: &Case) -> String {
    let first = match case.fault {
        Some(Fault::Cut(..)) => "cut",
        _ => "SQL error",
    };
    let second = match case.then {
        Some(Then::Cut(..)) => "cut",
        _ => "SQL error",
    };
    format!("{first}, {second}")
}

fn report(outcomes: &[Outcome]) {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|it| is_pair(it)) {
        *kinds.entry(kind_of(&outcome.case)).or_default() += 1;
    }
    let pairs: usize = kinds.values().sum();
    let (doubts, resolved) = doubts(outcomes.iter().filter(|it| is_pair(it)));
    let survived = survived(outcomes);
    println!(
        "pairs of faults: {pairs} in {} runs, {kinds:?}, {survived} survived; ambiguous appends \
         met {doubts}, resolved {resolved}",
        outcomes.len(),
    );
    let mut report = crate::report::Report::of("pairs of faults")
        .count("pairs of faults", pairs)
        .count("appends in doubt", doubts)
        .count("of those, settled", resolved)
        .count("lost", outcomes.len() - survived);
    for (kind, count) in kinds {
        report = report.fault(&format!("pair: {kind}"), count);
    }
    report.write();
}
