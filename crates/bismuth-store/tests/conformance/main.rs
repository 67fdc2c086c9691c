//! One suite for every engine: on the embedded ones each case is a test, on servers they share one.
//!
//! ```text
//!   cases ─► TestEngines ─┬─ embedded + files
//!                         ├─ embedded + S3
//!                         └─ PostgreSQL + S3
//! ```
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod blobs;
mod embedded;
mod objects;
mod postgres;
mod records;
mod s3;
mod secrets;
mod test_engines;

/// Calls `$with!` with all cases of the suite.
macro_rules! for_every_case {
    ($with:ident) => {
        $with! {
            records::basics::a_record_is_read_back_with_its_metadata,
            records::basics::a_large_value_is_read_back_and_may_become_small_and_large_again,
            records::basics::what_is_missing_is_none_and_cannot_be_deleted,
            records::basics::groups_and_keyspaces_do_not_see_each_other,
            records::basics::many_records_are_read_in_the_order_asked_for,
            records::basics::keys_of_any_text_are_kept_apart,
            records::basics::revisions_grow_also_over_deletions,
            records::basics::conditions_are_obeyed_and_refusals_name_the_state_that_is_there,
            records::basics::adding_is_arithmetic_on_what_is_stored,
            records::basics::a_check_of_a_healthy_engine_succeeds,
            records::basics::what_was_answered_is_there_after_reopening,
            records::listing::keys_come_in_the_order_of_their_bytes,
            records::listing::pages_lead_to_the_end_without_a_gap,
            records::listing::a_prefix_selects_what_begins_with_it,
            records::listing::groups_that_have_something_are_named,
            records::batches::a_batch_is_made_in_its_order,
            records::batches::a_batch_with_a_refused_write_changes_nothing_and_names_it,
            records::batches::a_refused_batch_does_not_spoil_its_neighbours,
            records::batches::batches_over_many_owners_in_any_order_do_not_lock_each_other_out,
            records::batches::a_read_of_more_bytes_than_its_limit_is_refused,
            records::batches::a_large_value_is_no_number_and_is_replaced_in_a_batch,
            records::expiry::a_record_is_absent_when_its_time_has_come_and_used_until_it_is_swept,
            records::expiry::a_sweep_keeps_to_its_limit_and_to_what_is_due,
            records::expiry::a_record_past_its_time_can_be_made_anew,
            records::expiry::expired_records_make_room_for_new_ones,
            records::quota::a_limit_is_reached_exactly_and_not_passed,
            records::quota::usage_is_exact_after_reopening,
            records::quota::usage_is_exact_under_concurrent_writers,
            records::quota::a_limit_holds_under_concurrent_writers,
            records::contention::a_lock_is_held_by_one_at_a_time,
            records::contention::a_counter_counts_every_addition,
            records::contention::compare_and_swap_loses_no_update,
            objects::an_object_is_read_back_whole_and_in_ranges,
            objects::a_large_object_in_small_pieces_is_read_back,
            objects::an_empty_object_is_there,
            objects::an_object_is_not_there_before_it_is_finished,
            objects::what_is_deleted_is_gone_also_half_written_and_twice,
            objects::an_object_is_read_to_its_end_though_it_is_deleted_meanwhile,
            blobs::basics::a_blob_is_read_back_whole_in_ranges_and_as_head,
            blobs::basics::creating_and_replacing_ask_for_what_is_there,
            blobs::basics::a_blob_is_deleted_once_and_under_its_condition,
            blobs::basics::blobs_are_listed_with_their_sizes,
            blobs::basics::a_blob_of_many_mebibytes_is_streamed_through,
            blobs::faults::a_broken_upload_leaves_the_old_blob_and_nothing_else,
            blobs::faults::bytes_that_are_not_those_announced_are_refused,
            blobs::faults::what_is_too_large_is_refused_before_and_while_it_comes,
            blobs::faults::an_upload_that_was_given_up_is_collected_and_cannot_be_finished,
            blobs::faults::an_upload_whose_sender_went_away_leaves_nothing,
            blobs::faults::an_upload_goes_on_when_the_answer_to_its_renewal_was_lost,
            blobs::faults::an_upload_that_goes_on_is_left_alone,
            blobs::quota::uploads_at_once_take_no_more_than_the_group_may_have,
            blobs::quota::a_quota_of_blobs_is_exact_and_a_smaller_replacement_is_allowed,
            blobs::quota::replaced_and_deleted_objects_are_collected,
            blobs::quota::writers_of_one_key_leave_one_whole_blob,
            blobs::quota::readers_see_the_old_blob_or_the_new_one_whole,
            secrets::basics::a_secret_is_read_back_with_its_version_and_the_one_before,
            secrets::basics::a_revision_names_one_value_for_ever,
            secrets::basics::only_what_is_there_is_rotated_or_deleted,
            secrets::basics::values_of_every_length_that_is_allowed_are_kept_and_no_other,
            secrets::basics::secrets_are_listed_by_name_without_their_values,
            secrets::basics::groups_do_not_see_each_other_s_secrets,
            secrets::basics::names_of_any_text_are_kept_apart,
            secrets::basics::secrets_are_there_after_reopening,
            secrets::basics::the_last_secret_takes_everything_of_its_group_with_it,
            secrets::basics::a_purge_removes_one_group_and_leaves_the_others,
            secrets::basics::a_group_has_as_many_secrets_as_it_may,
            secrets::contention::every_change_of_many_writers_is_made_once,
            secrets::contention::readers_see_whole_values_in_their_order,
            secrets::tampering::swapped_records_are_refused,
            secrets::tampering::an_older_record_that_was_put_back_is_refused,
            secrets::tampering::an_older_manifest_that_was_put_back_is_refused,
            secrets::tampering::a_flipped_bit_is_refused_wherever_it_is,
            secrets::tampering::a_removed_record_is_refused_and_not_said_to_be_missing,
            secrets::tampering::an_added_record_is_refused,
            secrets::tampering::the_records_of_another_group_are_refused,
            secrets::tampering::deleting_repairs_a_record_and_purging_a_group,
            secrets::rewrap::secrets_are_read_and_written_while_their_keys_are_sealed_anew,
            secrets::rewrap::a_key_that_another_node_uses_first_is_looked_for_in_the_file,
            secrets::rewrap::a_missing_master_key_is_named_and_breaks_its_groups_only,
            secrets::rewrap::another_key_under_the_same_id_opens_nothing,
            secrets::rewrap::a_file_that_cannot_be_used_changes_nothing,
            secrets::start::a_master_key_is_made_only_where_nothing_is_sealed_yet,
            secrets::start::master_keys_that_open_nothing_of_what_is_stored_are_refused,
        }
    };
}
use for_every_case;
