//! The server reports an error at each statement, before it runs or after.

use std::collections::{BTreeMap, BTreeSet};

use flowstream::ErrorKind;

use crate::plan::{Case, Outcome, all_is_well, clean, is_exhaustive, play_all, workers};
use crate::postgres_support::proxy::{Fault, Seen, Sent, When};
use crate::script::{Book, STEPS, Temper};

/// A statement that was cancelled, serialization, a deadlock, a full disk, a standby, a server that
/// ends, a connection that fails, a lock that was not to be had: these pass.
const PASSING: [&str; 8] = [
    "57014", "40001", "40P01", "53100", "25006", "57P01", "08006", "55P03",
];
/// No rights, a schema that somebody changed, damage, and a defect: these do not.
const LASTING: [&str; 4] = ["42501", "42P01", "XX001", "22012"];
const WHENS: [When; 2] = [When::Before, When::After];

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

/// What a statement is, whatever storage it is of.
fn name(sql: &str) -> String {
    let sql = sql.split_once("*/ ").map_or(sql, |(_, rest)| rest);
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The end of a transaction that failed, or of a session, does not fail itself: what the server did
/// then is over.
fn may_fail(sent: &Sent) -> bool {
    !["rollback", ""].contains(&&*name(&sent.sql).to_lowercase())
}

fn exhaustive(clean: &Seen) -> Vec<Case> {
    let mut cases = Vec::new();
    for at in fallible(clean) {
        for code in codes() {
            for when in WHENS {
                for temper in [Temper::Hasty, Temper::Patient] {
                    let fault = Some(Fault::Sql(at, code, when));
                    cases.push(Case { fault, temper });
                }
            }
        }
    }
    cases
}

fn fallible(clean: &Seen) -> impl Iterator<Item = usize> {
    let numbered = clean.statements.iter().enumerate();
    numbered
        .filter(|(_, sent)| may_fail(sent))
        .map(|(at, _)| at)
}

/// Each statement twice, in its turn among the codes.
fn sample(clean: &Seen) -> Vec<Case> {
    let mut turns: BTreeMap<String, usize> = BTreeMap::new();
    let mut cases = Vec::new();
    let codes = codes();
    for at in fallible(clean) {
        let turn = turns.entry(name(&clean.statements[at].sql)).or_default();
        // Often there are several of a kind.
        if *turn >= 2 {
            continue;
        }
        for when in WHENS {
            let number = cases.len() * 5 + *turn;
            let temper = match cases.len() / 2 % 2 {
                0 => Temper::Hasty,
                _ => Temper::Patient,
            };
            let fault = Some(Fault::Sql(at, codes[number % codes.len()], when));
            cases.push(Case { fault, temper });
        }
        *turn += 1;
    }
    cases
}

/// What was told is of the kind that the code says, and a patient client is told of nothing that
/// passes.
fn is_as_told(outcome: &Outcome) -> Result<(), String> {
    let Some(Fault::Sql(_, code, _)) = outcome.case.fault else {
        return Ok(());
    };
    let expected = kind_of(code);
    for told in &outcome.book.errors {
        let passes = PASSING.contains(&code) && outcome.case.temper == Temper::Patient;
        if passes && !told.is_single {
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
    let benches = workers().await;
    let clean = clean(&benches).await;
    let cases = match is_exhaustive() {
        true => exhaustive(&clean),
        false => sample(&clean),
    };
    let mut outcomes = play_all(&benches, cases).await;
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
    let names = |outcome: &&Outcome| outcome.seen.fired.as_ref().map(|it| name(&it.sql));
    let failed: BTreeSet<String> = struck.iter().filter_map(names).collect();
    let sent: BTreeSet<String> = fallible(&clean)
        .map(|at| name(&clean.statements[at].sql))
        .collect();
    let missed: Vec<&String> = sent.difference(&failed).collect();
    // Of what is sent in the background there may be one less.
    assert!(missed.len() <= 2, "never failed: {missed:#?}");
}

fn code_of(outcome: &Outcome) -> Option<(&'static str, When)> {
    match outcome.case.fault {
        Some(Fault::Sql(_, code, when)) => Some((code, when)),
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
    let of = |tell: fn(&Book) -> usize| outcomes.iter().map(|it| tell(&it.book)).sum::<usize>();
    println!(
        "SQL errors: {} statements in the script; {} of {} runs failed one, {fired:?}, in {steps:?}; \
         {} as they should; errors told {}, in {} runs; appends in doubt {}, resolved {}",
        clean.statements.len(),
        fired.values().sum::<usize>(),
        outcomes.len(),
        outcomes.iter().filter(|it| it.verdict.is_ok()).count(),
        outcomes.iter().map(told).sum::<usize>(),
        outcomes.iter().filter(|it| told(it) > 0).count(),
        of(|book| book.doubts),
        of(|book| book.resolved),
    );
}
