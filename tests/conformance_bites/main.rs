//! The conformance suite finds bugs: each of these storages has one, and a check that fails.

#![cfg(feature = "conformance")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use flowstream::conformance::{Check, Harness, checks};
use flowstream::storage::Storage;
use flowstream::{Clock, ManualClock};
use futures::future::BoxFuture;
use planted::{Bug, Planted};

mod planted;

/// A bug, and a check that has to find it. Others may find it too.
const FOUND: &[(Bug, &str)] = &[
    (
        Bug::AnswersTheSettingsAsked,
        "a_stream_keeps_its_first_settings",
    ),
    (
        Bug::WritesRowByRow,
        "nothing_is_written_where_one_row_has_no_stream",
    ),
    (Bug::WritesRowByRow, "rows_of_an_append_appear_together"),
    (
        Bug::LosesTheLastRow,
        "the_rows_of_an_append_are_written_together",
    ),
    (
        Bug::SwallowsAppends,
        "offsets_begin_at_zero_and_have_no_gaps",
    ),
    (
        Bug::TurnsTheOffsetsRound,
        "the_rows_of_an_append_are_written_together",
    ),
    (Bug::LetsTimeGoBack, "the_time_of_appends_never_goes_back"),
    (Bug::TellsAnotherTime, "an_append_tells_what_a_read_gives"),
    (Bug::SkipsAMessage, "a_read_gives_whole_batches"),
    (Bug::ReadsTooMuch, "a_read_stops_at_its_limit_of_bytes"),
    (Bug::CutsNoBatchButBeginsLate, "a_read_gives_whole_batches"),
    (Bug::ForgetsIds, "the_same_id_is_written_once"),
    (Bug::ForgetsIds, "random_calls_do_what_the_contract_says"),
    (
        Bug::IgnoresTheOrder,
        "an_append_waits_for_the_one_before_it",
    ),
    (
        Bug::IgnoresTheOrder,
        "random_calls_do_what_the_contract_says",
    ),
    (Bug::ForgetsIdsSoon, "an_id_is_known_for_a_thousand_appends"),
    (Bug::ForgetsIdsOnTrim, "a_trimmed_id_is_still_known"),
    (
        Bug::LooksAtLeasesFirst,
        "an_id_is_looked_for_before_the_leases",
    ),
    (
        Bug::LooksAtLeasesFirst,
        "random_calls_do_what_the_contract_says",
    ),
    (
        Bug::SettlesWithoutRefusing,
        "settling_refuses_what_is_not_there",
    ),
    (
        Bug::BeginsLateAtTheStart,
        "a_group_begins_where_it_was_told",
    ),
    (Bug::ResetsGroups, "a_group_is_created_once"),
    (Bug::IgnoresTheFence, "a_fenced_owner_commits_nothing"),
    (
        Bug::IgnoresTheFence,
        "random_calls_do_what_the_contract_says",
    ),
    (
        Bug::IgnoresTheFenceOfAppends,
        "a_fenced_owner_appends_nothing",
    ),
    (
        Bug::IgnoresTheFenceOfAppends,
        "a_takeover_and_commits_exclude_each_other",
    ),
    (
        Bug::NamesAllAsFenced,
        "the_fenced_commits_of_an_append_are_named",
    ),
    (
        Bug::WritesTheCommitsThatAreNotFenced,
        "the_fenced_commits_of_an_append_are_named",
    ),
    (Bug::ReplacesProgress, "commits_are_merged"),
    (Bug::ReplacesProgress, "concurrent_commits_lose_nothing"),
    (Bug::DropsCommits, "concurrent_commits_lose_nothing"),
    (Bug::KeepsTheGeneration, "each_write_is_a_new_generation"),
    (
        Bug::KeepsTheGeneration,
        "a_renewed_lease_is_not_claimed_over",
    ),
    (
        Bug::RenewsWithoutWriting,
        "a_renewed_lease_is_not_claimed_over",
    ),
    (Bug::TakesOverWhatIsHeld, "a_held_lease_is_not_claimed"),
    (Bug::TakesOverWhatIsHeld, "one_of_many_takeovers_wins"),
    (
        Bug::GivesANewEpochToTheOwner,
        "a_claim_whose_answer_got_lost_keeps_its_epoch",
    ),
    (Bug::ReleasesForAnybody, "a_former_owner_releases_nothing"),
    (Bug::SkipsAttempts, "an_unclean_takeover_counts_an_attempt"),
    (Bug::DropsRaisedAttempts, "a_commit_raises_attempts"),
    (
        Bug::DropsRaisedAttempts,
        "random_calls_do_what_the_contract_says",
    ),
    (Bug::AddsAttempts, "a_commit_raises_attempts"),
    (
        Bug::CountsAttemptsUnasked,
        "an_attempt_is_counted_only_where_the_claim_says_so",
    ),
    (
        Bug::CountsAttemptsUnasked,
        "random_calls_do_what_the_contract_says",
    ),
    (
        Bug::CountsAttemptsOfCleanClaims,
        "a_clean_handover_counts_no_attempt",
    ),
    (Bug::ListsTooFewGroups, "all_groups_are_listed"),
    (
        Bug::ForcesEveryReset,
        "a_reset_of_an_active_group_has_to_be_forced",
    ),
    (
        Bug::ResetsToWhereItStands,
        "a_reset_moves_the_position_in_a_new_epoch",
    ),
    (Bug::TrimsOneTooMany, "whole_batches_are_trimmed"),
    (Bug::ReusesOffsetsAfterTrim, "offsets_are_never_used_again"),
    (Bug::TellsNothing, "an_append_is_told"),
    (
        Bug::TellsNothing,
        "a_slow_subscriber_learns_that_it_missed_something",
    ),
    (Bug::TellsTheFirstSubscriberOnly, "every_subscriber_is_told"),
    (
        Bug::StopsWhenDropped,
        "a_dropped_append_is_written_all_the_same",
    ),
    (Bug::StopsWhenDropped, "dropped_calls_leave_no_gap"),
    (Bug::ChecksThenWrites, "concurrent_retries_write_once"),
    (Bug::StaysOpen, "a_closed_storage_says_so"),
    // What users meet: some bugs show only there.
    (Bug::TellsNothing, "a_waiting_consumer_is_woken"),
    (Bug::TellsNoRelease, "a_waiting_standby_is_woken"),
    (Bug::KeepsWhatIsReleased, "a_drop_hands_over_at_once"),
    (Bug::KeepsWhatIsReleased, "closing_hands_all_consumers_over"),
    (
        Bug::ReadsNoEpoch,
        "the_last_messages_come_again_when_they_are_dropped",
    ),
    (
        Bug::SkipsAMessage,
        "a_paused_partition_keeps_no_other_waiting",
    ),
    (Bug::CallsOwnersDead, "one_consumer_of_a_group_gets_all"),
    (Bug::TakesOverWhatIsHeld, "one_consumer_of_a_group_gets_all"),
    (Bug::ReadsNoEpoch, "each_group_gets_each_message"),
    (Bug::ReadsTheFirstEpoch, "a_shutdown_hands_over_at_once"),
    (Bug::SkipsAMessage, "a_small_prefetch_skips_nothing"),
    (Bug::ReplacesProgress, "commits_in_any_order_are_kept"),
    (Bug::IgnoresTheFence, "a_fenced_consumer_stands_by_again"),
    (
        Bug::IgnoresTheFenceOfAppends,
        "what_was_fenced_is_not_relayed",
    ),
    (Bug::NamesAllAsFenced, "what_was_fenced_is_not_relayed"),
    (
        Bug::LosesTheCommitsOfAppends,
        "a_relayed_message_is_written_once",
    ),
    (
        Bug::RenewsWithoutWriting,
        "a_lease_is_renewed_for_what_is_held",
    ),
    (Bug::SkipsAttempts, "an_owner_that_is_cut_off_is_replaced"),
    (Bug::ResetsGroups, "a_new_group_begins_as_its_consumer_says"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_bug_is_found() {
    for (bug, check) in FOUND {
        let check = checks().into_iter().find(|c| c.name() == *check).unwrap();
        assert!(is_found(check, *bug).await, "{bug:?} passes {check:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrapper_alone_is_no_bug() {
    let names: HashSet<_> = FOUND.iter().map(|(_, check)| *check).collect();
    for check in checks().into_iter().filter(|c| names.contains(c.name())) {
        assert!(!fails(check, Bug::None).await, "{check:?}");
    }
}

/// Some bugs are races: on a busy machine, a run may not happen to meet one.
async fn is_found(check: Check, bug: Bug) -> bool {
    for _ in 0..10 {
        if fails(check, bug).await {
            return true;
        }
    }
    false
}

async fn fails(check: Check, bug: Bug) -> bool {
    let clock = ManualClock::new();
    let storage = Arc::new(Planted::new(bug, clock.clone()));
    tokio::spawn(check.run(Arc::new(Bench { clock, storage })))
        .await
        .is_err()
}

struct Bench {
    clock: ManualClock,
    storage: Arc<Planted>,
}

impl Harness for Bench {
    fn storage(&self) -> Arc<dyn Storage> {
        self.storage.clone()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(time);
        Box::pin(async {})
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn Storage>>> {
        Box::pin(async { None })
    }

    // Long enough for what works: it all happens in memory.
    fn patience(&self) -> Duration {
        Duration::from_secs(match self.storage.bug() {
            Bug::None => 300,
            _ => 1,
        })
    }
}
