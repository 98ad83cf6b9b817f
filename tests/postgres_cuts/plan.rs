//! Which faults are tried, and running them.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::time::Instant;

use futures::FutureExt;
use futures::future::join_all;

use crate::check::check;
use crate::postgres_support::proxy::{Fault, Fired, Passed, Seen, Then};
use crate::report::soak;
use crate::rig::Bench;
use crate::script::{Book, STEPS, Script, Temper};

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) fault: Option<Fault>,
    /// A second one.
    pub(crate) then: Option<Then>,
    pub(crate) temper: Temper,
}

impl Case {
    pub(crate) fn of(fault: Option<Fault>, temper: Temper) -> Self {
        let then = None;
        Self {
            fault,
            then,
            temper,
        }
    }
}

pub(crate) struct Outcome {
    pub(crate) case: Case,
    pub(crate) seen: Seen,
    pub(crate) book: Book,
    pub(crate) verdict: Result<(), String>,
}

/// All of them, in an order in which what is tried first is spread over all.
fn spread(cases: Vec<Case>) -> Vec<Case> {
    let mut numbered: Vec<(u64, Case)> = (0_u64..).map(scatter).zip(cases).collect();
    numbered.sort_by_key(|(number, _)| *number);
    numbered.into_iter().map(|(_, case)| case).collect()
}

/// A number that looks random (SplitMix64).
pub(crate) fn scatter(number: u64) -> u64 {
    let z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a run without a fault does.
pub(crate) async fn clean(benches: &[Bench]) -> Seen {
    let case = Case::of(None, Temper::Hasty);
    let mut seen = Seen::default();
    // The server's caches are cold the first time.
    for _ in 0..2 {
        let outcome = play(&benches[0], case.clone()).await;
        assert_eq!(outcome.verdict, Ok(()), "without a fault");
        seen = outcome.seen;
    }
    seen
}

/// Plays these cases, and then as many of all as there is time for in a soak; gives what became of
/// them.
pub(crate) async fn play_all(
    benches: &[Bench],
    sample: Vec<Case>,
    all: impl FnOnce() -> Vec<Case>,
) -> Vec<Outcome> {
    let mut cases = sample;
    let (always, until) = (cases.len(), soak().map(|time| Instant::now() + time));
    if until.is_some() {
        cases.extend(spread(all()));
    }
    let count = cases.len();
    let queue = Mutex::new(VecDeque::from(cases));
    let next = || {
        let mut queue = queue.lock().unwrap();
        let is_over = until.is_some_and(|until| Instant::now() >= until);
        let is_enough = count - queue.len() >= always;
        (!is_over || !is_enough)
            .then(|| queue.pop_front())
            .flatten()
    };
    // The work is in tasks of the storages and the proxies.
    let players = benches.iter().map(async |bench| {
        let mut outcomes = Vec::new();
        while let Some(case) = next() {
            outcomes.push(play(bench, case).await);
        }
        outcomes
    });
    let outcomes: Vec<Outcome> = join_all(players).await.into_iter().flatten().collect();
    println!("{} of {count} cases were played", outcomes.len());
    outcomes
}

async fn play(bench: &Bench, case: Case) -> Outcome {
    let run = bench.next_run();
    let mut script = Script::new(bench, run, case.temper);
    bench.proxy.arm(case.fault.clone());
    bench.proxy.then(case.then);
    let running = AssertUnwindSafe(script.run()).catch_unwind().await;
    bench.proxy.heal();
    let seen = bench.proxy.seen();
    let Script { book, names, .. } = script;
    let verdict = match running {
        Ok(()) => check(bench, run, &names, &book).await,
        Err(_) => Err("it panicked: see above".to_owned()),
    };
    Outcome {
        case,
        seen,
        book,
        verdict,
    }
}

/// Panics if something went wrong, and says where.
pub(crate) fn all_is_well(outcomes: &[Outcome]) {
    let wrong = outcomes.iter().filter_map(|outcome| {
        let wrong = outcome.verdict.as_ref().err()?;
        let place = |fired: &Option<Fired>| {
            let fired = fired.as_ref()?;
            Some((STEPS[fired.step], fired.tag, fired.essence.clone()))
        };
        let (first, second) = (place(&outcome.seen.fired), place(&outcome.seen.fired_again));
        Some(format!(
            "{:?}, which struck at {first:?}, and then {second:?}: {wrong}; told: {:#?}",
            outcome.case, outcome.book.errors
        ))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        outcomes.len(),
        wrong.join("\n")
    );
}

/// How many messages there are of each step.
pub(crate) fn of_steps(passed: &[Passed]) -> Vec<usize> {
    let count = |step| passed.iter().filter(|passed| passed.step == step).count();
    (0..STEPS.len()).map(count).collect()
}

/// How many appends were in doubt in these runs, and of how many of those the outcome was found.
pub(crate) fn doubts<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> (usize, usize) {
    let books = outcomes.into_iter().map(|outcome| &outcome.book);
    books.fold((0, 0), |(doubts, resolved), book| {
        (doubts + book.doubts, resolved + book.resolved)
    })
}

pub(crate) fn survived(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|it| it.verdict.is_ok()).count()
}
