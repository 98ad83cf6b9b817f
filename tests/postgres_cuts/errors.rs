//! The server reports an error at each statement, before it runs or after.

use std::collections::{BTreeMap, BTreeSet};

use flowstream::ErrorKind;

use crate::plan::{Case, Outcome, all_is_well, clean, doubts, play_all, survived};
use crate::postgres_support::proxy::{Fault, Seen, When, may_fail};
use crate::rig::benches;
use crate::script::{STEPS, Temper};

/// A statement that was cancelled, serialization, a deadlock, a full disk, a standby, a server that
/// ends, a connection that fails, a lock that was not to be had: these pass.
pub(crate) const PASSING: [&str; 8] = [
    "57014", "40001", "40P01", "53100", "25006", "57P01", "08006", "55P03",
];
/// No rights, a schema that somebody changed, damage, and a defect: these do not.
const LASTING: [&str; 4] = ["42501", "42P01", "XX001", "22012"];
pub(crate) const WHENS: [When; 2] = [When::Before, When::After];

fn kind_of(code: &str) -> ErrorKind {
    match code {
        "42501" | "42P01" => ErrorKind::Unsupported,
        "XX001" => ErrorKind::Data,
        "22012" => ErrorKind::Internal,
        _ => ErrorKind::Unavailable,
    }
}

fn codes() -> Vec<&'static str> {
    PASSING.into_iter().chain(LASTING).collect()
}

/// How often each statement is sent.
pub(crate) fn statements(clean: &Seen) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    let sent = clean.statements.iter().map(|sent| &*sent.essence);
    for essence in sent.filter(|essence| may_fail(essence)) {
        *counts.entry(essence).or_default() += 1;
    }
    counts
}

/// Each statement, each time, in every way.
fn exhaustive(clean: &Seen) -> Vec<Case> {
    let mut cases = Vec::new();
    for (essence, count) in statements(clean) {
        for (at, code) in (0..count).flat_map(|at| codes().into_iter().map(move |code| (at, code)))
        {
            for when in WHENS {
                for temper in [Temper::Hasty, Temper::Patient] {
                    let fault = Some(Fault::Sql(essence.to_owned(), at, code, when));
                    cases.push(Case::of(fault, temper));
                }
            }
        }
    }
    cases
}

/// Each statement the first two times, when it is prepared and when it runs mostly, with the next
/// codes; and what appends, with those that leave a doubt.
fn sample(clean: &Seen) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut codes = codes().into_iter().cycle();
    for (essence, count) in statements(clean) {
        for (at, when) in (0..count.min(2)).flat_map(|at| WHENS.map(|when| (at, when))) {
            let temper = match cases.len() % 4 {
                0 | 3 => Temper::Hasty,
                _ => Temper::Patient,
            };
            let code = codes.next().expect("they come again");
            let fault = Some(Fault::Sql(essence.to_owned(), at, code, when));
            cases.push(Case::of(fault, temper));
        }
        if essence.contains(".batches (") && count > 1 {
            for (code, when) in ["57P01", "08006"].into_iter().zip(WHENS) {
                let fault = Some(Fault::Sql(essence.to_owned(), 1, code, when));
                cases.push(Case::of(fault, Temper::Hasty));
            }
        }
        // Or each code would come at the same time of all statements.
        codes.next();
    }
    cases
}

/// What was told is of the kind that the code says, and a patient client is told of nothing that
/// passes.
fn is_as_told(outcome: &Outcome) -> Result<(), String> {
    let Some(Fault::Sql(_, _, code, _)) = outcome.case.fault else {
        return Ok(());
    };
    let expected = kind_of(code);
    for told in &outcome.book.errors {
        let passes = PASSING.contains(&code) && outcome.case.temper == Temper::Patient;
        if passes && !told.is_single && told.kind == expected {
            return Err(format!("a patient client was told: {told:?}"));
        }
        // Of a transaction of the application it is only known that it failed.
        let in_transaction = told.is_single && told.kind == ErrorKind::Invalid;
        if told.kind != expected && !in_transaction && !follows(told.kind) {
            return Err(format!("{code} is {expected:?}: {told:?}"));
        }
    }
    Ok(())
}

/// What a fault brings with it: a machine that is slow meanwhile, a lease that is claimed anew.
fn follows(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Fenced)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_may_fail_at_every_statement() {
    let benches = benches(8).await;
    let clean = clean(&benches).await;
    let mut outcomes = play_all(&benches, sample(&clean), || exhaustive(&clean)).await;
    for outcome in &mut outcomes {
        if outcome.verdict.is_ok() {
            outcome.verdict = is_as_told(outcome);
        }
    }
    report(&clean, &outcomes);
    all_is_well(&outcomes);

    let struck: Vec<&Outcome> = outcomes
        .iter()
        .filter(|it| it.seen.fired.is_some())
        .collect();
    assert!(struck.len() * 10 >= outcomes.len() * 9, "hardly any failed");
    let fired: BTreeSet<(&str, When)> = struck.iter().filter_map(|it| code_of(it)).collect();
    for code in codes() {
        for when in WHENS {
            assert!(fired.contains(&(code, when)), "{code} {when:?}");
        }
    }
    assert!(struck.iter().any(|it| it.book.doubts > 0), "none in doubt");
    let failed = struck.iter().filter_map(|it| it.seen.fired.as_ref());
    let failed: BTreeSet<&str> = failed.map(|fired| &*fired.essence).collect();
    let missed: Vec<&str> = statements(&clean).into_keys().collect();
    let missed: Vec<&str> = missed
        .into_iter()
        .filter(|it| !failed.contains(it))
        .collect();
    assert!(missed.is_empty(), "never failed: {missed:#?}");
}

fn code_of(outcome: &Outcome) -> Option<(&'static str, When)> {
    match outcome.case.fault {
        Some(Fault::Sql(_, _, code, when)) => Some((code, when)),
        _ => None,
    }
}

fn report(clean: &Seen, outcomes: &[Outcome]) {
    let mut fired: BTreeMap<(&str, When), usize> = BTreeMap::new();
    let mut steps: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in outcomes {
        if let (Some(at), Some(code)) = (&outcome.seen.fired, code_of(outcome)) {
            *fired.entry(code).or_default() += 1;
            *steps.entry(STEPS[at.step]).or_default() += 1;
        }
    }
    let told = |outcome: &Outcome| outcome.book.errors.len();
    let (doubts, resolved) = doubts(outcomes);
    let right = survived(outcomes);
    println!(
        "SQL errors: {} statements in the script; {} of {} runs failed one, {fired:?}, in {steps:?}; \
         {right} as they should; errors told {}, in {} runs; appends in doubt {doubts}, resolved \
         {resolved}",
        clean.statements.len(),
        fired.values().sum::<usize>(),
        outcomes.len(),
        outcomes.iter().map(told).sum::<usize>(),
        outcomes.iter().filter(|it| told(it) > 0).count(),
    );
    let mut report = crate::report::Report::of("SQL errors").count("lost", outcomes.len() - right);
    for (code, count) in &fired {
        report = report.fault(&format!("SQL error {}, {:?}", code.0, code.1), *count);
    }
    report.write();
}
