//! The assignment that a node watches.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bismuth_coord::Version;
use bismuth_model::{ContainerId, ContainerState, ContainerStatus, Revision};
use bismuth_registry::{Assignment, UnresolvedReason};
use tokio::sync::watch;

use crate::fixture::{Fixture, NODES, definition, shows, slot, spawned};

type Shown = watch::Receiver<Arc<Assignment>>;

async fn complete(f: &Fixture) -> Shown {
    let mut assignment = spawned(f.registry.watch_assignment(
        NODES[0],
        Assignment::default(),
        pending(),
    ));
    shows(&mut assignment, "everything", |shown| shown.complete).await;
    assignment
}

#[tokio::test]
async fn a_node_sees_its_own_slots_with_their_definitions() {
    let f = Fixture::new().await;
    let (mine, other) = (slot(NODES[0]), slot(NODES[1]));
    let made = definition(&["a.b"]);
    let id = f.function(&made, &[mine, other]).await;
    let shown = complete(&f).await.borrow().clone();
    assert_eq!(
        shown.containers.keys().collect::<Vec<_>>(),
        [&mine.container_id]
    );
    let container = &shown.containers[&mine.container_id];
    assert_eq!(
        (container.function_id, container.revision),
        (id, Revision::FIRST)
    );
    assert_eq!(*container.definition, made);
    assert_eq!(container.status_at_list.state, ContainerState::Assigned);
}

#[tokio::test]
async fn added_and_removed_slots_are_seen() {
    let f = Fixture::new().await;
    let writer = f.other();
    let mut assignment = complete(&f).await;
    let id = writer.function(&definition(&[]), &[]).await;
    let added = writer.registry.add_backend(id, NODES[0]).await.unwrap();
    shows(&mut assignment, "the slot", |s| {
        s.containers.contains_key(&added.container_id)
    })
    .await;
    writer.registry.delete_function(id).await.unwrap();
    shows(&mut assignment, "nothing", |s| {
        s.containers.is_empty() && s.unresolved.is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_older_revision_keeps_its_definition() {
    let f = Fixture::new().await;
    let (old, new) = (slot(NODES[0]), slot(NODES[0]));
    let mut first = definition(&[]);
    first.concurrency = 1;
    let id = f.function(&first, &[old]).await;
    let mut assignment = complete(&f).await;
    let mut second = definition(&[]);
    second.concurrency = 2;
    f.replace(id, &second, Version(0), &[new]).await;
    let shown = shows(&mut assignment, "the new slot", |s| {
        s.containers.contains_key(&new.container_id)
    })
    .await;
    assert_eq!(*shown.containers[&old.container_id].definition, first);
    assert_eq!(*shown.containers[&new.container_id].definition, second);
    let restarted = complete(&f.other()).await.borrow().clone();
    assert_eq!(restarted.containers, shown.containers);

    // Where an earlier version wrote it, a restart knows it only from what the node kept.
    f.remove(&f.registry.layout().revision(id, Revision::FIRST))
        .await;
    let forgotten = complete(&f.other()).await.borrow().clone();
    let unresolved = &forgotten.unresolved[&old.container_id];
    assert_eq!(
        unresolved.reason,
        UnresolvedReason::OtherRevision {
            current: Revision(2)
        }
    );
    let kept: Assignment = serde_json::from_slice(&serde_json::to_vec(&*shown).unwrap()).unwrap();
    let other = f.other();
    let mut seeded = spawned(other.registry.watch_assignment(NODES[0], kept, pending()));
    assert!(!seeded.borrow().complete && seeded.borrow().containers.len() == 2);
    let seeded = shows(&mut seeded, "everything", |s| s.complete).await;
    assert_eq!(seeded.containers, shown.containers);
}

#[tokio::test(start_paused = true)]
async fn a_nodes_own_status_updates_do_not_change_its_assignment() {
    let f = Fixture::new().await;
    let mine = slot(NODES[0]);
    f.function(&definition(&[]), &[mine]).await;
    let mut assignment = complete(&f).await;
    assignment.mark_unchanged();
    let mut status = ContainerStatus::assigned(1);
    status.state = ContainerState::Running;
    f.registry
        .update_container_status(mine.ip, mine.container_id, &status)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!assignment.has_changed().unwrap());
}

#[tokio::test]
async fn an_unresolved_slot_is_distinguished_from_an_unassigned_one() {
    let f = Fixture::new().await;
    let mine = slot(NODES[0]);
    let id = f.function(&definition(&[]), &[mine]).await;
    let good = f.tree_get(&f.registry.layout().function(id)).await;
    f.put(&f.registry.layout().function(id), b"\x09").await;
    f.remove(&f.registry.layout().revision(id, Revision::FIRST))
        .await;
    let bad = ContainerId::new_random();
    f.put(&f.registry.layout().container(NODES[0], bad), b"")
        .await;
    let mut assignment = complete(&f).await;
    let shown = assignment.borrow_and_update().clone();
    assert!(shown.containers.is_empty());
    assert!(matches!(
        shown.unresolved[&mine.container_id].reason,
        UnresolvedReason::FunctionUndecodable(_)
    ));
    assert!(matches!(
        shown.unresolved[&bad].reason,
        UnresolvedReason::AssignmentUndecodable(_)
    ));
    assert_eq!(shown.stale.undecodable, 1);

    f.put(&f.registry.layout().function(id), &good).await;
    // The node's next list finds it; what changes its record makes it look at once.
    f.registry
        .update_container_status(mine.ip, mine.container_id, &ContainerStatus::assigned(7))
        .await
        .unwrap();
    shows(&mut assignment, "the slot", |s| {
        s.containers.contains_key(&mine.container_id)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_keeps_its_assignment_without_a_connection_and_when_all_of_it_disappears_at_once() {
    let f = Fixture::new().await;
    let writer = f.other();
    let slots: Vec<_> = (0..20).map(|_| slot(NODES[0])).collect();
    let id = f.function(&definition(&[]), &slots).await;
    let mut assignment = complete(&f).await;
    f.tree.disconnect();
    f.tree.expire();
    writer.registry.delete_function(id).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(assignment.borrow().containers.len(), 20);
    f.tree.reconnect();
    let held = shows(&mut assignment, "the held-back count", |s| {
        s.stale.held_back == 20
    })
    .await;
    assert_eq!(held.containers.len(), 20);
    let begun = tokio::time::Instant::now();
    shows(&mut assignment, "nothing", |s| s.containers.is_empty()).await;
    assert!(
        begun.elapsed() >= Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn the_assignment_of_an_unprovisioned_node_is_incomplete() {
    let f = Fixture::bare().await;
    let mut assignment = spawned(f.registry.watch_assignment(
        NODES[0],
        Assignment::default(),
        pending(),
    ));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!assignment.borrow().complete);
    f.other().registry.provision_node(NODES[0]).await.unwrap();
    shows(&mut assignment, "everything", |s| s.complete).await;
}

impl Fixture {
    async fn tree_get(&self, path: &str) -> bytes::Bytes {
        bismuth_coord::Tree::get(&self.tree, path)
            .await
            .unwrap()
            .data
    }
}
