//! The checker of histories takes what is as promised, and finds each fault by its rule.

#[path = "../history/mod.rs"]
mod history;
mod planted;
#[path = "../report/mod.rs"]
mod report;
#[path = "../support/mod.rs"]
mod support;
mod valid;

use planted::BUGS;

#[test]
fn histories_that_are_as_promised_are_taken() {
    let mut events = 0;
    for seed in 0..1_000 {
        let history = valid::history(seed);
        let found = history.check();
        assert_eq!(found, [], "seed {seed}");
        events += history.events.len();
    }
    assert!(events > 50_000, "they say something: {events} events");
}

#[test]
fn each_planted_bug_is_found_by_its_rule() {
    for (name, rule, plant) in BUGS {
        let mut planted = 0;
        for seed in 0..200 {
            let mut history = valid::history(seed);
            if plant(&mut history).is_none() {
                continue;
            }
            planted += 1;
            let found = history.check();
            let is_found = found.iter().any(|found| found.rule == *rule);
            assert!(
                is_found,
                "{name} in seed {seed}: {rule:?} not in {found:#?}"
            );
        }
        assert!(planted >= 20, "{name}: there was room for it in {planted}");
    }
    let report = report::Report::of("checker of histories");
    report.count("planted bugs", BUGS.len()).write();
}

#[test]
fn no_rule_is_without_a_bug_that_it_finds() {
    let mut rules: Vec<String> = BUGS
        .iter()
        .map(|(_, rule, _)| format!("{rule:?}"))
        .collect();
    rules.sort();
    rules.dedup();
    assert_eq!(rules.len(), 26, "{rules:?}");
}

#[test]
fn a_long_history_is_checked_in_one_pass() {
    let history = valid::long(20_000);
    assert_eq!(history.events.len(), 120_000);
    // With a look at all others for each event it would take minutes.
    assert_eq!(history.check(), []);
}
