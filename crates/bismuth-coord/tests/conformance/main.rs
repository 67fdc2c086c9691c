//! Conformance suite for every `Tree`: in memory each case is a test; on a real ZooKeeper all cases share one server.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod faults;
mod frames;
mod harness;
mod memory;
mod proxy;
mod reads_and_changes;
mod transactions;
mod watches;
mod zookeeper;

/// Calls `$with!` with all cases of the suite.
macro_rules! for_every_case {
    ($with:ident) => {
        $with! {
            reads_and_changes::a_created_node_is_read_back,
            reads_and_changes::an_empty_node_is_read_back_as_empty,
            reads_and_changes::a_create_needs_a_parent_and_a_free_path,
            reads_and_changes::versions_count_the_changes_of_a_node,
            reads_and_changes::a_missing_node_is_not_found,
            reads_and_changes::only_a_leaf_of_the_right_version_is_deleted,
            reads_and_changes::children_are_sorted_names_of_one_level,
            reads_and_changes::many_nodes_are_read_in_the_order_asked_for,
            reads_and_changes::missing_parents_are_created_and_those_there_are_kept,
            reads_and_changes::data_above_the_limit_is_refused_by_name,
            reads_and_changes::malformed_paths_are_refused,
            reads_and_changes::the_root_is_always_there,
            reads_and_changes::an_ephemeral_node_has_no_children_and_knows_its_owner,
            reads_and_changes::of_two_writers_at_one_version_one_succeeds,
            transactions::a_transaction_makes_all_its_changes_in_order,
            transactions::a_transaction_with_a_failing_step_changes_nothing_and_names_it,
            transactions::a_failed_transaction_is_not_seen_by_watches,
            transactions::an_empty_transaction_does_nothing,
            transactions::a_transaction_above_the_size_limit_is_refused_and_one_at_it_is_committed,
            watches::a_watch_sees_what_happens_at_and_below_its_path,
            watches::a_watch_on_a_missing_node_sees_it_come_go_and_come_again,
            watches::overlapping_watches_each_see_every_event,
            watches::a_watch_can_be_set_again_after_it_was_dropped,
            watches::changes_before_the_watch_are_not_reported,
            faults::without_a_connection_every_call_fails_as_unavailable_within_a_second,
            faults::a_watch_reports_lost_after_a_lost_connection_and_continues,
            faults::ephemeral_nodes_outlive_the_connection,
            faults::after_an_expiry_a_new_session_is_opened_automatically,
            faults::an_expiry_is_seen_by_other_sessions_as_the_deletion_of_its_ephemeral_nodes,
            faults::a_change_whose_answer_is_lost_has_an_unknown_outcome,
            faults::a_transaction_whose_answer_is_lost_is_made_whole_or_not_at_all,
        }
    };
}
use for_every_case;

macro_rules! memory_cases {
    ($($module:ident::$case:ident,)*) => {
        mod in_memory {
            $(
                #[tokio::test]
                async fn $case() {
                    crate::$module::$case(&crate::memory::InMemory::new().await).await;
                }
            )*
        }
    };
}
for_every_case!(memory_cases);
