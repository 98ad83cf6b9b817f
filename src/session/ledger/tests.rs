use super::*;

const PATIENCE: Patience = Patience {
    hole: Duration::ZERO,
    longest: Duration::MAX,
};

/// What comes again at once, of what was handed out up to an offset.
fn holes(ledger: &mut Ledger, handed_out_to: u64) -> Ranges {
    let look = ledger.look_at_dropped(Duration::ZERO, handed_out_to, PATIENCE);
    look.due
}

#[test]
fn a_hole_is_a_dropped_message_with_done_ones_beyond() {
    let mut ledger = Ledger::new(Progress::at(10), &[]);
    ledger.let_go(11);
    ledger.done(10..11);
    assert_eq!(holes(&mut ledger, 14), Ranges::new(), "12 and 13 are held");
    ledger.let_go(14);
    ledger.done(12..13);
    assert_eq!(holes(&mut ledger, 16), Ranges::from(11..12), "15 is held");
    let due = Ranges::from(11..12);
    assert_eq!(ledger.take_dropped(&due), due);
    assert_eq!(ledger.take_dropped(&due), Ranges::new());
    ledger.let_go(11);
    ledger.done(0..20);
    assert!(!ledger.has_dropped(), "committed through");
    assert_eq!(ledger.progress(), &Progress::at(20));
    ledger.let_go(3);
    assert!(!ledger.has_dropped(), "done before it was dropped");
}

#[test]
fn what_nobody_has_in_hand_is_a_hole() {
    let mut ledger = Ledger::new(Progress::at(0), &[]);
    ledger.let_go(1);
    assert_eq!(holes(&mut ledger, 4), Ranges::new(), "2 and 3 are held");
    ledger.let_go(3);
    assert_eq!(holes(&mut ledger, 4), Ranges::from(3..4), "2 is held");
    ledger.retry(2, Duration::ZERO);
    let mut all = Ranges::from(1..2);
    all.insert(3..4);
    assert_eq!(holes(&mut ledger, 4), all);
    ledger.transactions().join(4, Some(1));
    assert_eq!(holes(&mut ledger, 5), Ranges::new(), "4 is held");
    ledger.transactions().let_go(4);
    assert_eq!(
        holes(&mut ledger, 5),
        all,
        "its transaction decides about it"
    );
}

#[test]
fn only_what_was_not_done_is_written() {
    let mut ledger = Ledger::new(Progress::at(3), &[]);
    ledger.done(0..2);
    assert!(!ledger.is_ahead());
    ledger.done(0..5);
    assert_eq!(ledger.take().0, Verdicts::from(3..5));
    assert!(ledger.is_ahead());
    ledger.wrote(5);
    assert!(!ledger.is_ahead());
    ledger.done(8..9);
    ledger.done(8..9);
    ledger.done(6..10);
    assert_eq!(ledger.take().0, Verdicts::from(6..10));
    ledger.done(8..9);
    assert_eq!(ledger.take().0, Verdicts::default());
}

#[test]
fn the_short_way_is_for_the_next_message_of_a_book_with_nothing_else_in_it() {
    let mut ledger = Ledger::new(Progress::at(0), &[]);
    assert!(ledger.done_next(0) && ledger.done_next(1));
    assert_eq!(
        (ledger.progress(), ledger.finished()),
        (&Progress::at(2), 2)
    );
    assert!(!ledger.done_next(0) && !ledger.done_next(3), "not the next");
    ledger.done(3..4);
    assert!(!ledger.done_next(2), "one beyond is done");
    ledger.done(2..3);
    ledger.let_go(5);
    assert!(!ledger.done_next(4), "one was dropped");
    ledger.done(4..6);
    assert!(ledger.retry(7, Duration::ZERO) && !ledger.done_next(6));
    assert_eq!(ledger.take().0.done, Ranges::from(0..6));
    assert_eq!(
        (ledger.progress(), ledger.finished()),
        (&Progress::at(6), 2)
    );
}

#[test]
fn what_failed_goes_with_the_next_write() {
    let mut ledger = Ledger::new(Progress::at(0), &[]);
    ledger.done(0..1);
    let (first, nobody) = ledger.take();
    assert!(nobody.is_none());
    ledger.done(1..2);
    ledger.put_back(&first);
    assert_eq!(ledger.take().0, Verdicts::from(0..2));
    assert!(!ledger.has_pending());
}

#[test]
fn what_is_scheduled_is_spared_until_it_is_handed_out() {
    let mut ledger = Ledger::new(Progress::at(0), &[(2, 4)]);
    assert!(ledger.retry(2, Duration::ZERO));
    ledger.done_through(5);
    let mut verdicts: Ranges = Ranges::from(0..2);
    verdicts.insert(3..5);
    let attempts = vec![(2, 5)];
    let done = verdicts;
    assert_eq!(ledger.take().0, Verdicts { done, attempts });
    assert_eq!(ledger.progress().position(), 2);
    assert!(!ledger.has_dropped(), "nobody forgot it");
    assert!(ledger.hand_out_again(2));
    ledger.done_through(5);
    assert_eq!(ledger.progress(), &Progress::at(5));
    assert!(!ledger.hand_out_again(2) && !ledger.retry(2, Duration::ZERO));
    assert_eq!(ledger.take().0, Verdicts::from(2..3));
}

#[test]
fn a_hole_that_comes_again_is_counted() {
    let mut ledger = Ledger::new(Progress::at(0), &[]);
    ledger.let_go(0);
    ledger.done(1..2);
    let (offset, dropped) = (0, 1);
    assert_eq!(
        ledger.warning(),
        Some(Warning::Forgotten { offset, dropped })
    );
    let due = Ranges::from(0..1);
    assert_eq!(ledger.take_dropped(&due), due);
    assert_eq!(ledger.retries().begun(0..9), [(0, 1)]);
    assert_eq!(ledger.take().0.attempts, [(0, 1)]);
}

#[test]
fn what_stands_in_a_transaction_does_not_come_when_it_is_due() {
    let mut ledger = Ledger::new(Progress::at(0), &[]);
    ledger.retry(5, Duration::ZERO);
    ledger.transactions().join(5, Some(1));
    assert!(ledger.take_due(Duration::ZERO).is_empty());
    assert!(ledger.take_due(PUT_OFF).is_empty(), "it is still open");
    ledger.transactions().leave(5);
    assert!(ledger.take_due(PUT_OFF).is_empty(), "a while later");
    assert_eq!(ledger.take_due(PUT_OFF * 2), Ranges::from(5..6));
}
