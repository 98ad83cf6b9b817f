//! The checker finds what is wrong with a history: each of these has one fault.

use std::time::Duration;

use crate::process_support::check::Story;
use crate::process_support::history::{Event, What};
use crate::process_support::ledger::Write;

fn event(process: u32, what: What, offset: u64, epoch: u64) -> Event {
    Event {
        group: "workers".to_owned(),
        offset,
        epoch,
        ..Event::of(process, what)
    }
}

fn write(generation: u64, epoch: u64, owner: &str, position: u64, acked: &[(u64, u64)]) -> Write {
    Write {
        generation,
        epoch,
        owner: owner.to_owned(),
        position,
        acked: acked.to_vec(),
        at: Duration::ZERO,
    }
}

/// The first owner commits 0 and 2, and is killed with 1 and 3 in flight; the second repeats them and
/// does the rest. The first comes back, and is refused.
fn story() -> Story {
    use What::{Active, Committed, Delivered, Fenced};
    Story {
        events: vec![
            event(1, Active, 0, 1),
            event(1, Delivered, 0, 1),
            event(1, Delivered, 1, 1),
            event(1, Delivered, 2, 1),
            event(1, Committed, 2, 1),
            event(1, Committed, 0, 1),
            event(1, Delivered, 3, 1),
            event(2, Active, 0, 2),
            event(2, Delivered, 1, 2),
            event(2, Delivered, 3, 2),
            event(2, Committed, 1, 2),
            event(2, Committed, 3, 2),
            event(1, Fenced, 3, 1),
            event(1, Fenced, 1, 1),
            event(2, Delivered, 4, 2),
            event(2, Committed, 4, 2),
        ],
        writes: vec![
            write(0, 0, "", 0, &[]),
            write(1, 1, "a", 0, &[]),
            write(2, 1, "a", 0, &[(2, 3)]),
            write(3, 1, "a", 1, &[(2, 3)]),
            write(4, 2, "b", 1, &[(2, 3)]),
            write(5, 2, "b", 3, &[]),
            write(6, 2, "b", 4, &[]),
            write(7, 2, "b", 5, &[]),
            write(8, 2, "", 5, &[]),
        ],
        end: 5,
        in_flight: 2,
        sends: Vec::new(),
    }
}

#[test]
fn the_checker_takes_a_history_that_is_as_promised() {
    let sum = story().check().unwrap();
    assert_eq!((sum.messages, sum.owners, sum.fenced), (5, 2, 2));
    assert_eq!((sum.again, sum.most_again), (2, 2));
}

type Fault = fn(&mut Story);

const FAULTS: &[(&str, Fault)] = &[
    ("a gap in the ledger", |story| drop(story.writes.remove(5))),
    ("a position went back", |story| story.writes[5].position = 0),
    ("a position went back", |story| {
        story.writes[4].acked.clear()
    }),
    ("an epoch went back", |story| story.writes[6].epoch = 1),
    ("two owners of epoch 2", |story| {
        story.writes[6].owner = "c".to_owned();
    }),
    ("not all is done", |story| story.end = 6),
    ("epoch 1 is of (1, 0) and of (2, 0)", |story| {
        story.events[8].epoch = 1;
    }),
    ("was active with 2 before", |story| {
        story.events.push(event(2, What::Active, 0, 2));
    }),
    // A zombie's commit was accepted: the owner's own, later, did not do it.
    ("a commit of 3 with epoch 1 was accepted", |story| {
        story.events[12].what = What::Committed;
    }),
    ("a commit of 9 is lost", |story| {
        story.events.push(event(2, What::Committed, 9, 2));
    }),
    ("1 was committed twice", |story| {
        story.events.push(event(2, What::Committed, 1, 2));
    }),
    ("not delivered in order", |story| story.events.swap(8, 9)),
    ("2 was delivered with epoch 2, and was done", |story| {
        let again = event(2, What::Delivered, 2, 2);
        story.events.insert(9, again);
    }),
    ("epoch 2 repeats 2 messages", |story| story.in_flight = 1),
    ("4 never came", |story| drop(story.events.remove(14))),
];

#[test]
fn the_checker_finds_each_fault() {
    for (wanted, fault) in FAULTS {
        let mut story = story();
        fault(&mut story);
        let wrong = story.check().expect_err(wanted);
        assert!(wrong.contains(wanted), "{wanted}: {wrong}");
    }
}
