//! What every storage has to promise, as tests.
//!
//! Whoever writes a [`Storage`] runs these checks against it, the same that the storages of this
//! crate pass: switch the feature `conformance` on in the dev-dependencies, say with a [`Harness`]
//! how to get an empty storage, and let [`conformance_tests!`](crate::conformance_tests) make one
//! test of each check, so that a promise that does not hold is seen by name.
//!
//! ```
//! // tests/conformance.rs of the driver
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use flowstream::conformance::Harness;
//! use flowstream::storage::{MemoryStorage, Storage};
//! use flowstream::{Clock, ManualClock};
//! use futures::future::BoxFuture;
//!
//! struct Memory {
//!     clock: ManualClock,
//!     storage: Arc<dyn Storage>,
//! }
//!
//! impl Harness for Memory {
//!     fn storage(&self) -> Arc<dyn Storage> {
//!         self.storage.clone()
//!     }
//!
//!     fn clock(&self) -> Arc<dyn Clock> {
//!         Arc::new(self.clock.clone())
//!     }
//!
//!     fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
//!         self.clock.advance(time);
//!         Box::pin(async {})
//!     }
//!
//!     fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn Storage>>> {
//!         Box::pin(async { None })
//!     }
//! }
//!
//! async fn memory() -> Memory {
//!     let clock = ManualClock::new();
//!     let storage = Arc::new(MemoryStorage::new(Arc::new(clock.clone())));
//!     Memory { clock, storage }
//! }
//!
//! flowstream::conformance_tests!(memory);
//! # // The tests are not there in a doc test: run one check by hand.
//! # #[tokio::main]
//! # async fn main() {
//! #     let check = flowstream::conformance::checks().remove(0);
//! #     check.run(Arc::new(memory().await)).await;
//! # }
//! ```
//!
//! No check asserts a time. What arrives by itself is waited for, as long as the harness has
//! [`patience`](Harness::patience).
//!
//! # Stability
//!
//! Minor releases may add checks, and make one stricter where it did not look closely enough at a
//! promise that the contract makes already. The contract itself changes only with a major release.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::clock::Clock;
use crate::storage::Storage;

mod attempts;
mod build;
mod closing;
mod concurrency;
mod contention;
mod dropping;
mod fencing;
mod flow;
mod generator;
mod groups;
mod ids;
mod leases;
mod log;
mod model;
mod notifications;
mod operators;
mod order;
mod progress;
mod random;
mod reading;
mod streams;
mod support;
mod trim;

use flow::{
    abandoned, commits, consuming, cut_off, dead_letters, handover, holding, holes, lost,
    operating, producing, relay, restarts, retries, routing, storm, tails, torn, waking,
};

/// One storage under test. It is empty at the start, and no other check uses it.
pub trait Harness: Send + Sync + 'static {
    /// The storage; after [`reopen`](Self::reopen) the one that it gave.
    fn storage(&self) -> Arc<dyn Storage>;

    /// The clock that a `Flowstream` on this storage is given.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Lets time pass: on a manual clock, or for real where the storage has a clock of its own.
    fn pass(&self, time: Duration) -> BoxFuture<'_, ()>;

    /// Closes the storage, and opens again what is durable of it. `None`, with the storage left as
    /// it is, if it does not outlive its process.
    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn Storage>>>;

    /// How long a check waits, in real time, for something that has to arrive by itself, before it
    /// calls the promise broken.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// One promise, as a test.
#[derive(Clone, Copy)]
pub struct Check {
    name: &'static str,
    run: fn(Arc<dyn Harness>) -> BoxFuture<'static, ()>,
}

impl Check {
    /// Its name, which says what is promised.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs it on a storage that is empty. Needs a tokio runtime with timers, best one with more
    /// than one thread.
    ///
    /// # Panics
    ///
    /// If the promise does not hold; the text says what was expected.
    pub fn run(&self, harness: Arc<dyn Harness>) -> BoxFuture<'static, ()> {
        (self.run)(harness)
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

/// All checks, for those who want to run them otherwise than by
/// [`conformance_tests!`](crate::conformance_tests). Their number grows with minor releases.
///
/// ```
/// let checks = flowstream::conformance::checks();
/// assert!(checks.iter().any(|check| check.name() == "the_same_id_is_written_once"));
/// ```
pub fn checks() -> Vec<Check> {
    crate::__conformance!(each list[])
}

/// Runs the check of this name: what a test made by the macro does.
#[doc(hidden)]
pub async fn run(name: &str, harness: impl Harness) {
    let check = checks().into_iter().find(|check| check.name == name);
    let check = check.unwrap_or_else(|| panic!("there is no check {name}"));
    check.run(Arc::new(harness)).await;
}

/// Makes one test of each check of the conformance suite, named as the check.
///
/// Takes an async function (or closure) without arguments that gives a
/// [`Harness`](crate::conformance::Harness) with an empty storage; it is called once a test.
/// The tests run on tokio: the caller's dev-dependencies need it, with the features `macros` and
/// `rt-multi-thread`. To test several storages in one file, put each into a module. The example of
/// [`conformance`](crate::conformance) is complete.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr) => {
        $crate::__conformance! { each test [$harness] }
    };
}

/// The list of all checks, and what becomes of it. To add one: a function in its area, and its name
/// here.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    (each $what:ident [$($given:tt)*]) => {
        $crate::__conformance! { $what [$($given)*]
            streams::a_stream_keeps_its_first_settings,
            streams::a_stream_has_one_partition_unless_told,
            streams::names_are_compared_byte_for_byte,
            streams::what_is_not_there_is_not_found,

            log::offsets_begin_at_zero_and_have_no_gaps,
            log::each_partition_counts_for_itself,
            log::the_rows_of_an_append_are_written_together,
            log::many_rows_are_written_in_their_order,
            log::nothing_is_written_where_one_row_has_no_stream,
            log::messages_come_back_as_they_were,
            log::a_large_message_comes_back_as_it_was,
            log::the_time_of_appends_never_goes_back,
            log::an_append_tells_what_a_read_gives,
            log::the_log_outlives_a_restart,

            reading::a_read_gives_whole_batches,
            reading::a_read_stops_at_its_limit_of_bytes,
            reading::a_read_from_the_end_gives_nothing,
            reading::a_read_tells_the_epoch_of_its_group,
            reading::bounds_are_given_in_the_order_asked,

            ids::the_same_id_is_written_once,
            ids::the_same_id_is_written_once_after_a_restart,
            ids::a_replay_does_not_write_its_commits_again,
            ids::an_id_is_looked_for_before_the_leases,
            ids::an_id_is_known_for_a_thousand_appends,
            ids::an_append_that_failed_may_come_again,
            ids::settling_gives_the_offsets_of_what_is_there,
            ids::settling_refuses_what_is_not_there,
            ids::a_refusal_is_for_ever,
            ids::a_refused_append_writes_no_commits,

            order::an_append_waits_for_the_one_before_it,
            order::a_retry_is_known_before_it_is_early,
            order::an_early_append_writes_no_commits,
            order::of_two_at_once_the_second_is_never_first,

            groups::a_group_begins_where_it_was_told,
            groups::a_group_begins_at_a_time,
            groups::a_group_is_created_once,
            groups::groups_are_observed_in_the_order_asked,
            groups::groups_do_not_touch_each_other,
            groups::groups_outlive_a_restart,

            leases::a_free_lease_is_claimed,
            leases::a_held_lease_is_not_claimed,
            leases::a_claim_whose_answer_got_lost_keeps_its_epoch,
            leases::a_lease_that_stood_still_is_claimed_over,
            leases::a_renewed_lease_is_not_claimed_over,
            leases::epochs_grow_with_each_owner,
            leases::each_write_is_a_new_generation,
            leases::a_release_frees_the_lease,
            leases::a_former_owner_releases_nothing,
            leases::a_claim_needs_a_group,

            fencing::a_fenced_owner_commits_nothing,
            fencing::a_fenced_owner_appends_nothing,
            fencing::the_fenced_commits_of_an_append_are_named,
            fencing::owner_and_epoch_have_to_fit,
            fencing::a_released_lease_is_fenced,
            fencing::time_alone_fences_nobody,
            fencing::a_fence_outlives_a_restart,

            progress::commits_are_merged,
            progress::commits_have_no_order,
            progress::a_thousand_ranges_are_merged,
            progress::a_position_never_goes_back,
            progress::commits_of_appends_are_merged,
            progress::an_append_of_commits_alone_writes_them,
            progress::progress_outlives_its_owner,
            progress::progress_outlives_a_restart,

            attempts::an_unclean_takeover_counts_an_attempt,
            attempts::an_attempt_is_counted_only_where_the_claim_says_so,
            attempts::an_attempt_counts_for_the_first_message_not_done,
            attempts::a_clean_handover_counts_no_attempt,
            attempts::no_attempt_is_counted_where_nothing_is_pending,
            attempts::a_commit_raises_attempts,
            attempts::attempts_of_what_is_done_go,
            attempts::a_fenced_owner_raises_no_attempts,
            attempts::the_first_thousand_attempts_are_kept,
            attempts::attempts_outlive_a_restart,

            operators::all_groups_are_listed,
            operators::a_reset_moves_the_position_in_a_new_epoch,
            operators::a_reset_of_an_active_group_has_to_be_forced,
            operators::a_lease_that_was_taken_away_is_free,

            trim::whole_batches_are_trimmed,
            trim::offsets_are_never_used_again,
            trim::the_start_outlives_a_restart,
            trim::a_read_below_the_start_begins_there,
            trim::a_new_group_begins_after_what_was_trimmed,
            trim::a_trimmed_id_is_still_known,
            trim::trimming_leaves_other_partitions_alone,

            notifications::an_append_is_told,
            notifications::a_release_is_told,
            notifications::a_reset_is_told,
            notifications::every_subscriber_is_told,
            notifications::a_slow_subscriber_learns_that_it_missed_something,
            notifications::what_is_told_can_be_read,
            notifications::a_subscription_ends_with_the_storage,

            concurrency::concurrent_appends_leave_no_gap,
            concurrency::readers_see_no_gap,
            concurrency::rows_of_an_append_appear_together,
            concurrency::concurrent_retries_write_once,

            contention::one_of_many_claims_wins,
            contention::one_of_many_takeovers_wins,
            contention::concurrent_commits_lose_nothing,
            contention::a_takeover_and_commits_exclude_each_other,

            dropping::a_dropped_append_is_written_all_the_same,
            dropping::a_dropped_write_of_an_owner_is_written_all_the_same,
            dropping::other_dropped_calls_run_to_their_end,
            dropping::a_dropped_settle_leaves_one_truth,
            dropping::dropped_calls_leave_no_gap,

            closing::a_closed_storage_says_so,
            closing::closing_finishes_what_is_under_way,

            random::random_calls_do_what_the_contract_says,
            random::random_calls_with_restarts_do_what_the_contract_says,

            producing::what_was_flushed_is_in_the_log,
            producing::a_full_buffer_leaves_without_a_flush,
            producing::an_append_tells_its_offsets,
            producing::an_append_over_several_streams_is_one,
            producing::a_message_over_the_limit_comes_back,
            producing::a_closed_producer_says_so,
            producing::clones_write_each_message_once,
            producing::a_close_ends_while_others_append,

            routing::a_key_stays_in_its_partition,
            routing::messages_without_a_key_are_written_once,
            routing::a_message_goes_to_its_own_stream,
            routing::a_delivery_is_as_it_was_sent,

            consuming::each_group_gets_each_message,
            consuming::a_new_group_begins_as_its_consumer_says,
            consuming::messages_that_come_meanwhile_are_seen,
            consuming::a_small_prefetch_skips_nothing,
            consuming::a_consumer_gets_all_partitions,
            consuming::a_paused_partition_keeps_no_other_waiting,
            consuming::what_was_trimmed_is_told_once,
            consuming::a_stream_ends_with_its_shutdown,

            waking::a_waiting_consumer_is_woken,
            waking::a_waiting_standby_is_woken,
            waking::the_end_of_a_runtime_stops_nobody_else,

            tails::what_comes_from_memory_is_what_a_read_gives,
            tails::a_zombie_at_the_tail_commits_nothing,

            handover::one_consumer_of_a_group_gets_all,
            handover::a_shutdown_hands_over_at_once,
            handover::a_drop_hands_over_at_once,
            handover::a_standby_that_leaves_disturbs_nobody,
            handover::a_consumer_that_leaves_early_blocks_nobody,
            handover::a_shutdown_waits_for_what_is_held,
            handover::a_shutdown_waits_no_longer_than_it_may,
            handover::partitions_are_handed_over,
            handover::closing_hands_all_consumers_over,

            operating::groups_are_listed_with_what_they_have_to_do,
            operating::an_evicted_consumer_stands_by_and_goes_on,
            operating::a_reset_group_goes_on_from_there,

            restarts::what_was_sent_outlives_a_restart,
            restarts::a_group_goes_on_after_a_restart,
            restarts::a_group_goes_on_after_a_death,
            restarts::a_relay_goes_on_after_a_restart,

            commits::commits_in_any_order_are_kept,
            commits::a_commit_through_takes_all_before,
            commits::an_ack_is_written_soon,
            commits::concurrent_commits_are_all_kept,
            commits::a_commit_outlives_its_consumer,
            commits::a_commit_that_was_polled_once_is_written,

            holes::a_dropped_message_comes_again,
            holes::the_last_messages_come_again_when_they_are_dropped,
            holes::a_message_that_comes_again_says_so,
            holes::holes_stop_no_group,
            holes::a_pause_ends_with_its_lease,

            retries::a_retried_message_comes_again_and_says_so,
            retries::what_is_retried_stops_no_other,
            retries::a_commit_through_spares_what_is_retried,
            retries::what_is_retried_comes_to_the_next_owner,
            retries::attempts_survive_a_takeover,
            retries::one_that_waits_for_a_retry_keeps_its_lease,
            retries::many_retries_pause_the_consumer,

            dead_letters::a_dead_letter_tells_where_it_comes_from,
            dead_letters::a_message_without_a_time_keeps_that_of_its_append,
            dead_letters::a_message_is_moved_after_its_last_attempt,
            dead_letters::one_that_kills_its_owners_is_moved,
            dead_letters::a_fenced_owner_moves_nothing,

            holding::an_idle_group_writes_nothing,
            holding::a_lease_is_renewed_for_what_is_held,
            holding::steady_commits_need_no_renewals,
            holding::a_stuck_pipeline_gives_its_lease_up,
            holding::one_that_waits_is_not_stuck,
            holding::a_fenced_consumer_stands_by_again,

            cut_off::an_owner_that_is_cut_off_is_replaced,
            cut_off::a_cut_that_ends_in_time_changes_nothing,
            cut_off::a_cut_off_relay_writes_nothing_late,

            lost::what_is_sent_again_is_written_once,
            lost::what_is_in_doubt_is_written_once,
            lost::what_is_taken_back_is_all_and_in_order,
            lost::a_group_goes_on_where_answers_get_lost,
            lost::a_relay_where_answers_get_lost_writes_once,

            relay::a_relayed_message_is_written_once,
            relay::a_relayed_message_is_as_it_was,
            relay::many_inputs_may_become_one_output,
            relay::one_input_may_become_many_outputs,
            relay::what_was_fenced_is_not_relayed,
            relay::between_storages_nothing_is_lost,

            torn::a_torn_relay_writes_each_message_once,
            torn::a_torn_relay_to_another_storage_loses_nothing,
            torn::a_torn_consumer_leaves_what_is_not_done,

            abandoned::a_dropped_send_is_taken_or_not,
            abandoned::a_dropped_append_of_many_is_one,
            abandoned::a_dropped_next_loses_nothing,
            abandoned::a_dropped_builder_blocks_nobody,
            abandoned::a_dropped_shutdown_goes_on,
            abandoned::dropped_questions_leave_nothing_behind,

            storm::a_storm_of_consumers_does_each_message,
            storm::a_storm_with_leases_that_run_out_ends,
        }
    };
    (list [] $($area:ident :: $check:ident),* $(,)?) => {
        vec![$(Check {
            name: stringify!($check),
            run: |harness| Box::pin($area::$check(harness)),
        }),*]
    };
    (test [$harness:expr] $($area:ident :: $check:ident),* $(,)?) => { $(
        #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            let harness = ($harness)().await;
            $crate::conformance::run(stringify!($check), harness).await;
        }
    )* };
}
