//! Functions, their routes, backends and slots.

use bismuth_coord::Version;
use bismuth_coord::memory::LostAnswer;
use bismuth_model::{ContainerId, ContainerState, ContainerStatus, FunctionId, Revision};
use bismuth_registry::{Error, MAX_SLOTS};

use crate::fixture::{Fixture, NODES, definition, hostname, refused, slot};

#[tokio::test]
async fn a_created_function_has_its_backends_routes_and_assignments() {
    let f = Fixture::new().await;
    let slots = [slot(NODES[0]), slot(NODES[1])];
    let id = f.function(&definition(&["a.example.com"]), &slots).await;

    let function = f.read(id).await;
    assert_eq!(function.record.revision, Revision::FIRST);
    assert_eq!(function.backends, slots);
    assert!(f.has_route("a.example.com").await);
    for status in f.registry.container_statuses(&slots).await.unwrap() {
        let record = status.unwrap();
        assert_eq!((record.function_id, record.revision), (id, Revision::FIRST));
        assert_eq!(record.status.state, ContainerState::Assigned);
    }
}

#[tokio::test]
async fn a_failed_create_leaves_no_records() {
    let f = Fixture::new().await;
    let id = FunctionId::new_random();
    let nowhere = slot("10.0.0.1".parse().unwrap());
    let slots = [slot(NODES[0]), nowhere];
    refused!(
        f.registry.create_function(id, &definition(&["a.b"]), &slots),
        Error::NodeUnknown { ip } if ip == nowhere.ip
    );
    assert_eq!(f.registry.function(id).await.unwrap(), None);
    assert!(f.registry.function_containers(id).await.unwrap().is_empty());
    assert!(!f.has_route("a.b").await);
}

#[tokio::test]
async fn a_route_of_another_function_is_refused_with_its_owner() {
    let f = Fixture::new().await;
    let owner = f.function(&definition(&["a.b"]), &[]).await;
    let new = FunctionId::new_random();
    refused!(
        f.registry.create_function(new, &definition(&["c.d", "a.b"]), &[]),
        Error::RouteTaken { hostname: h, owner: o } if h == hostname("a.b") && o == owner
    );
    let other = f.function(&definition(&[]), &[]).await;
    refused!(
        f.registry
            .replace_definition(other, &definition(&["a.b"]), Version(0), &[]),
        Error::RouteTaken { .. }
    );
}

#[tokio::test]
async fn creating_what_exists_already_is_refused() {
    let f = Fixture::new().await;
    let taken = slot(NODES[0]);
    let id = f.function(&definition(&[]), &[taken]).await;
    refused!(
        f.registry.create_function(id, &definition(&[]), &[]),
        Error::FunctionExists { .. }
    );
    refused!(
        f.registry
            .create_function(FunctionId::new_random(), &definition(&[]), &[taken]),
        Error::ContainerExists { .. }
    );
}

#[tokio::test]
async fn without_an_environment_every_call_is_refused_as_not_bootstrapped() {
    let tree = bismuth_coord::MemoryTree::new();
    let registry = crate::fixture::on(&tree);
    assert!(!registry.is_bootstrapped().await.unwrap());
    for error in [
        registry
            .create_function(FunctionId::new_random(), &definition(&[]), &[])
            .await
            .unwrap_err(),
        registry.list_functions(None, 10).await.unwrap_err(),
        registry.list_nodes().await.unwrap_err(),
        registry.provision_node(NODES[0]).await.unwrap_err(),
        registry.audit().await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NotBootstrapped { .. }), "{error}");
    }
    registry.bootstrap().await.unwrap();
    registry.bootstrap().await.unwrap();
    assert!(registry.is_bootstrapped().await.unwrap());
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_with_its_largest_field() {
    let f = Fixture::new().await;
    let mut large = definition(&[]);
    large.env.insert("SMALL".to_owned(), "x".to_owned());
    large.env.insert("LARGE".to_owned(), "x".repeat(70_000));
    let error = f
        .registry
        .create_function(FunctionId::new_random(), &large, &[])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("env.LARGE"), "{error}");
    assert!(matches!(error, Error::Record { .. }));

    let many: Vec<_> = (0..=MAX_SLOTS).map(|_| slot(NODES[0])).collect();
    refused!(
        f.registry
            .create_function(FunctionId::new_random(), &definition(&[]), &many),
        Error::TooManyBackends {
            limit: MAX_SLOTS,
            ..
        }
    );
}

#[tokio::test]
async fn functions_are_listed_in_pages_by_their_ids() {
    let f = Fixture::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(f.function(&definition(&[]), &[]).await);
    }
    ids.sort_unstable();
    f.put(&f.registry.layout().function(ids[1]), b"\xff").await;
    let first = f.registry.list_functions(None, 3).await.unwrap();
    assert_eq!(
        first.functions.iter().map(|x| x.id).collect::<Vec<_>>(),
        [ids[0], ids[2]]
    );
    assert_eq!((first.unreadable, first.next), (vec![ids[1]], Some(ids[2])));
    let second = f.registry.list_functions(first.next, 3).await.unwrap();
    assert_eq!(
        second.functions.iter().map(|x| x.id).collect::<Vec<_>>(),
        ids[3..]
    );
    assert_eq!(second.next, None);
}

#[tokio::test]
async fn a_new_revision_is_assigned_then_switched_to_then_the_old_slots_released() {
    let f = Fixture::new().await;
    let (old, new) = (slot(NODES[0]), slot(NODES[1]));
    let id = f.function(&definition(&["old.a", "both.a"]), &[old]).await;
    let version = f.read(id).await.version;

    let record = f
        .replace(id, &definition(&["both.a", "new.a"]), version, &[new])
        .await;
    assert_eq!(record.revision, Revision(2));
    let function = f.read(id).await;
    assert_eq!((function.record, function.backends), (record, vec![old]));
    assert!(f.has_route("both.a").await && f.has_route("new.a").await);

    refused!(
        f.registry.release_container(old.ip, old.container_id),
        Error::StillRouted { .. }
    );
    f.registry.switch_backends(id, &[new]).await.unwrap();
    let slots = f.registry.function_containers(id).await.unwrap();
    let revisions = slots
        .iter()
        .map(|(slot, record)| (*slot, record.revision.0));
    assert_eq!(revisions.collect::<Vec<_>>(), [(new, 2), (old, 1)]);
    f.registry
        .release_container(old.ip, old.container_id)
        .await
        .unwrap();
    assert_eq!(f.container(old).await, None);
    assert!(
        f.registry
            .audit_with(std::time::Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_definition_is_replaced_only_at_the_version_that_was_read() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&[]), &[]).await;
    f.replace(id, &definition(&[]), Version(0), &[]).await;
    refused!(
        f.registry
            .replace_definition(id, &definition(&[]), Version(0), &[]),
        Error::FunctionChanged { .. }
    );
    let unknown = FunctionId::new_random();
    refused!(
        f.registry
            .replace_definition(unknown, &definition(&[]), Version(0), &[]),
        Error::FunctionUnknown { .. }
    );
}

#[tokio::test]
async fn only_slots_assigned_to_the_function_become_backends() {
    let f = Fixture::new().await;
    let (mine, theirs) = (slot(NODES[0]), slot(NODES[0]));
    let id = f.function(&definition(&[]), &[mine]).await;
    f.function(&definition(&[]), &[theirs]).await;
    refused!(
        f.registry.switch_backends(id, &[theirs]),
        Error::ContainerOfOther { .. }
    );
    refused!(
        f.registry.switch_backends(id, &[slot(NODES[0])]),
        Error::ContainerUnknown { .. }
    );
    refused!(
        f.registry.switch_backends(id, &[mine, mine]),
        Error::BackendTwice { .. }
    );
    assert_eq!(f.read(id).await.backends, [mine]);
}

#[tokio::test]
async fn a_backend_is_added_and_removed_with_its_assignment() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&[]), &[]).await;
    let backend = f.registry.add_backend(id, NODES[2]).await.unwrap();
    assert_eq!(f.read(id).await.backends, [backend]);
    assert!(f.container(backend).await.is_some());
    f.registry
        .remove_backend(id, backend.ip, backend.container_id)
        .await
        .unwrap();
    assert!(f.read(id).await.backends.is_empty());
    assert_eq!(f.container(backend).await, None);

    refused!(
        f.registry
            .remove_backend(id, backend.ip, backend.container_id),
        Error::BackendUnknown { .. }
    );
    refused!(
        f.registry.add_backend(id, "10.0.0.1".parse().unwrap()),
        Error::NodeUnknown { .. }
    );
    refused!(
        f.registry.add_backend(FunctionId::new_random(), NODES[0]),
        Error::FunctionUnknown { .. }
    );
}

#[tokio::test]
async fn a_deleted_function_leaves_no_records_nor_unlisted_slots() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&["a.b"]), &[slot(NODES[0])]).await;
    f.replace(
        id,
        &definition(&["a.b", "c.d"]),
        Version(0),
        &[slot(NODES[1])],
    )
    .await;
    f.registry.delete_function(id).await.unwrap();
    assert_eq!(f.registry.function(id).await.unwrap(), None);
    assert!(f.registry.function_containers(id).await.unwrap().is_empty());
    assert!(f.tree_is_clean().await);
    refused!(
        f.registry.delete_function(id),
        Error::FunctionUnknown { .. }
    );
}

#[tokio::test]
async fn a_function_that_cannot_be_decoded_can_be_deleted_with_its_routes() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&["a.b"]), &[slot(NODES[0])]).await;
    f.put(&f.registry.layout().function(id), b"").await;
    f.put(&f.registry.layout().backends(id), b"cut off").await;
    f.registry.delete_function(id).await.unwrap();
    assert!(f.tree_is_clean().await);
}

#[tokio::test]
async fn a_status_update_changes_an_assignment_and_never_creates_one() {
    let f = Fixture::new().await;
    let slot = slot(NODES[0]);
    f.function(&definition(&[]), &[slot]).await;
    let mut status = ContainerStatus::assigned(1);
    status.state = ContainerState::Running;
    status.pid = Some(42);
    f.registry
        .update_container_status(slot.ip, slot.container_id, &status)
        .await
        .unwrap();
    assert_eq!(f.container(slot).await.unwrap().status, status);
    refused!(
        f.registry
            .update_container_status(slot.ip, ContainerId::new_random(), &status),
        Error::ContainerUnknown { .. }
    );
}

#[tokio::test]
async fn the_outcome_of_a_change_whose_answer_was_lost_is_determined() {
    for how in [LostAnswer::BeforeChange, LostAnswer::AfterChange] {
        let f = Fixture::new().await;
        f.tree.lose_next_answer(how);
        let id = f.function(&definition(&["a.b"]), &[slot(NODES[0])]).await;
        f.tree.lose_next_answer(how);
        let added = f.registry.add_backend(id, NODES[1]).await.unwrap();
        assert_eq!(f.read(id).await.backends.len(), 2, "{how:?}");
        f.tree.lose_next_answer(how);
        let new = slot(NODES[2]);
        f.replace(id, &definition(&[]), Version(0), &[new]).await;
        f.tree.lose_next_answer(how);
        f.registry.switch_backends(id, &[new]).await.unwrap();
        f.tree.lose_next_answer(how);
        f.registry
            .release_container(added.ip, added.container_id)
            .await
            .unwrap();
        f.tree.lose_next_answer(how);
        f.registry
            .remove_backend(id, new.ip, new.container_id)
            .await
            .unwrap();
        f.tree.lose_next_answer(how);
        f.registry.set_schedulable(NODES[0], false).await.unwrap();
        f.tree.lose_next_answer(how);
        f.registry.delete_function(id).await.unwrap();
        f.tree.lose_next_answer(how);
        f.registry.deprovision_node(NODES[0]).await.unwrap();
        assert!(f.registry.audit().await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_changes_fail_fast_and_change_nothing() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&[]), &[]).await;
    f.tree.disconnect();
    let begun = tokio::time::Instant::now();
    let error = f.registry.add_backend(id, NODES[0]).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(1));
    f.tree.reconnect();
    assert!(f.read(id).await.backends.is_empty());
}

impl Fixture {
    /// Whether there is nothing but the environment and its nodes.
    async fn tree_is_clean(&self) -> bool {
        let routes = bismuth_coord::Tree::children(&self.tree, &self.registry.layout().routes())
            .await
            .unwrap();
        let nodes = self.registry.list_nodes().await.unwrap();
        routes.is_empty()
            && self.registry.function_ids().await.unwrap().is_empty()
            && nodes.iter().all(|node| node.containers.is_empty())
    }
}
