//! The contract of the store, held by both engines: every case runs on SQLite and on PostgreSQL.
//!
//! PostgreSQL is started from the system's own programs, one server per test process, with its disk writes synced.

mod bed;
mod postgres;
mod sample;

mod backup;
mod coordination;
mod corrections;
mod disk;
mod events;
mod files;
mod kill;
mod ledger;
mod migration;
mod planted;
mod properties;
mod reports;
mod resources;
mod shares;

use bed::Bed;

/// Runs every case on SQLite as a test of its own, and all of them on PostgreSQL, one database each, in one test.
macro_rules! contract {
    ($($module:ident :: $case:ident;)*) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $case() {
                let bed = super::Bed::sqlite().await;
                super::$module::$case(&bed).await;
            })*
        }

        #[tokio::test]
        async fn every_case_holds_on_postgres() {
            let server = postgres::Server::start().await;
            $({
                println!("case: {}", stringify!($case));
                let bed = Bed::postgres(&server, stringify!($case)).await;
                $module::$case(&bed).await;
                bed.store.close().await;
            })*
        }
    };
}

contract! {
    corrections::what_was_measured_replaces_what_was_estimated;
    corrections::a_reading_sent_again_corrects_nothing_again;
    corrections::time_that_no_meter_saw_keeps_its_estimate;
    corrections::a_reversal_and_a_correction_pass_each_other_without_loss;
    corrections::a_correction_waits_for_a_reversal_that_is_under_way;
    corrections::what_an_earlier_process_gave_and_did_not_book_is_idle;
    resources::every_kind_reads_back_as_it_was_written;
    resources::a_name_is_taken_only_among_the_living_of_its_owner;
    resources::a_spec_changes_only_from_the_generation_its_writer_saw;
    resources::a_status_changes_without_the_generation;
    resources::a_deleted_resource_is_gone_but_still_readable_for_records;
    resources::a_list_shows_each_resource_once_and_only_what_its_filter_admits;
    resources::of_eight_writers_one_wins_each_round;
    resources::a_dropped_transaction_changes_nothing;
    resources::a_reader_sees_one_moment;
    files::a_project_keeps_files_up_to_its_limit_and_no_byte_more;
    files::eight_writers_do_not_pass_a_limit_together;
    files::files_are_listed_in_either_order_from_any_of_them;
    files::files_that_are_over_are_paged_through_by_the_end_of_their_time;
    files::the_mark_of_objects_is_drawn_once;
    files::a_batch_is_cancelled_beside_its_engine_and_forgotten_after_its_end;
    files::segments_keep_their_records_until_the_gateway_has_them;
    events::numbers_have_no_gaps_whoever_writes_and_whoever_gives_up;
    events::a_filter_finds_its_events_and_a_cursor_all_of_them;
    events::a_commit_is_announced;
    events::denials_are_found_by_their_request_and_by_when_they_were_told;
    events::events_are_handed_out_to_be_forwarded_in_order_and_without_gaps;
    events::only_what_was_handed_out_is_given_back;
    coordination::a_lease_has_one_holder_and_a_growing_epoch;
    coordination::an_old_epoch_cannot_write;
    coordination::a_lease_waits_for_nobody_who_reads;
    coordination::a_lock_from_elsewhere_ends_all_leases;
    coordination::an_outbox_item_is_done_once_however_often_it_is_given_out;
    coordination::eight_claimers_share_the_outbox_without_overlap;
    coordination::the_same_key_does_its_work_once_and_answers_the_same;
    coordination::a_key_for_another_request_is_refused_until_it_expires;
    shares::what_is_settled_leaves_the_share_and_the_sum_stays;
    shares::other_spools_take_nothing_from_a_share;
    shares::a_key_that_followed_another_takes_from_the_share_of_its_line;
    shares::a_month_that_is_over_and_a_budget_that_is_gone_leave_no_share;
    shares::a_forsaken_spool_frees_its_shares_and_settles_nothing_more;
    shares::lending_and_settling_at_once_lose_nothing;
    ledger::a_batch_sent_again_adds_nothing;
    ledger::a_missing_record_is_refused;
    ledger::a_record_that_cannot_be_is_refused;
    ledger::a_charge_above_its_hold_is_the_providers;
    ledger::a_ledger_with_absurd_prices_closes;
    ledger::an_interrupted_request_costs_nothing_and_frees_its_hold;
    ledger::spending_is_counted_by_month_of_admission_and_in_all;
    ledger::a_budget_on_a_key_counts_its_whole_line;
    ledger::a_reading_is_shared_out_to_the_last_millijoule;
    ledger::a_reading_below_its_requests_is_apportioned;
    ledger::a_reversal_gives_money_back_and_leaves_energy_idle;
    ledger::costs_add_up_however_they_are_grouped;
    ledger::a_record_reads_back_by_request_and_in_the_export;
    ledger::pages_of_the_ledger_show_each_row_once;
    ledger::two_shippers_of_one_spool_count_each_record_once;
    reports::groups_add_up_to_what_was_charged_however_wide_they_are;
    reports::a_group_is_only_of_the_time_and_the_place_that_is_asked_for;
    planted::a_copied_usage_record_is_found_by_name;
    planted::a_copied_transfer_is_found_by_name;
    planted::a_transfer_of_no_correction_is_found_by_name;
    planted::a_request_settled_under_two_numbers_is_found;
    planted::a_lost_hold_is_found_by_name;
    planted::a_lost_record_is_found_by_number;
    planted::a_changed_balance_is_found;
    planted::energy_from_nowhere_is_found;
    planted::spending_that_budgets_do_not_see_is_found;
    planted::what_was_moved_between_two_spenders_is_found;
    planted::what_was_moved_between_two_days_keys_or_endpoints_is_found;
    migration::migrating_twice_changes_nothing;
    migration::a_newer_schema_is_refused;
    migration::an_older_schema_is_migrated_at_start_or_on_command;
    migration::keys_rotated_before_lines_get_their_line_and_lose_their_copied_budgets;
    migration::energy_spent_before_budgets_could_limit_it_is_added_up;
    migration::the_schema_is_the_committed_one;
    backup::a_backup_restores_into_either_engine;
    backup::a_backup_that_was_touched_is_refused;
    backup::a_ledger_that_does_not_close_is_not_restored;
    backup::a_backup_of_an_older_schema_is_brought_up_to_date;
}
