//! What is wanted, what serves and the slots of a function, and what versions without that knowledge wrote.

use std::future::pending;
use std::time::Duration;

use bismuth_coord::{Tree, Version};
use bismuth_model::{
    Backend, ContainerState, ContainerStatus, FunctionDefinition, FunctionId, Revision,
    RevisionFate, SlotRole,
};
use bismuth_registry::audit::{DEPLOYMENT_GRACE, Inconsistency};
use bismuth_registry::codec::Record;
use bismuth_registry::{Deployment, Error, RoutingSnapshot};

use crate::fixture::{Fixture, NODES, definition, hostname, shows, slot, spawned};

fn with_concurrency(routes: &[&str], concurrency: u32) -> FunctionDefinition {
    let mut definition = definition(routes);
    definition.concurrency = concurrency;
    definition
}

impl Fixture {
    async fn deployment(&self, id: FunctionId) -> Deployment {
        self.registry.deployment(id).await.unwrap().unwrap()
    }

    /// Writes the next revision.
    async fn redeploy(&self, id: FunctionId, definition: &FunctionDefinition, slots: &[Backend]) {
        let version = self.deployment(id).await.version();
        let replaced = self
            .registry
            .replace_definition(id, definition, version, slots);
        replaced.await.unwrap();
    }

    /// Takes away what a version without slots and revisions would not have written.
    async fn age(&self, id: FunctionId) {
        let layout = self.registry.layout();
        for name in self.tree.children(&layout.revisions(id)).await.unwrap() {
            self.remove(&format!("{}/{name}", layout.revisions(id)))
                .await;
        }
        self.remove(&layout.revisions(id)).await;
        self.remove(&layout.slots(id)).await;
        self.remove(&layout.serving(id)).await;
    }

    async fn nothing_is_inconsistent(&self) {
        assert_eq!(self.registry.audit().await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_wanted_revision_changes_no_route_and_no_limit_before_it_serves() {
    let f = Fixture::new().await;
    let (old, new) = (slot(NODES[0]), slot(NODES[1]));
    let id = f
        .function(&with_concurrency(&["old.a", "both.a"], 2), &[old])
        .await;
    f.redeploy(id, &with_concurrency(&["both.a", "new.a"], 9), &[new])
        .await;
    let mut routing = spawned(
        f.registry
            .watch_routing(RoutingSnapshot::default(), pending()),
    );
    let before = shows(&mut routing, "everything", |shown| shown.complete).await;
    let function = &before.functions[&id];
    assert_eq!(
        (function.concurrency, &function.backends[..]),
        (2, &[old][..])
    );
    let routes = [hostname("old.a"), hostname("both.a")];
    assert_eq!(function.hostnames.as_deref(), Some(&routes[..]));
    assert!(
        before.routes.contains_key(&hostname("new.a")),
        "it is claimed"
    );

    f.registry.switch_backends(id, &[new]).await.unwrap();
    let after = shows(&mut routing, "the new revision", |shown| {
        shown.functions[&id].backends[..] == [new] && !shown.routes.contains_key(&hostname("old.a"))
    })
    .await;
    let function = &after.functions[&id];
    assert_eq!(function.concurrency, 9);
    let routes = [hostname("both.a"), hostname("new.a")];
    assert_eq!(function.hostnames.as_deref(), Some(&routes[..]));
}

#[tokio::test]
async fn a_superseded_revision_gives_up_the_hostnames_that_only_it_wanted() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&["a.b"]), &[slot(NODES[0])]).await;
    f.redeploy(id, &definition(&["tried.b"]), &[slot(NODES[0])])
        .await;
    let route = |name: &str| f.registry.layout().route(&hostname(name));
    assert!(f.exists(&route("tried.b")).await);
    f.redeploy(id, &definition(&["a.b"]), &[slot(NODES[0])])
        .await;
    assert!(!f.exists(&route("tried.b")).await && f.exists(&route("a.b")).await);
    let roles: Vec<SlotRole> = f
        .deployment(id)
        .await
        .slots
        .iter()
        .map(|slot| slot.role)
        .collect();
    // What never took a request goes at once.
    assert_eq!(roles, [SlotRole::Active, SlotRole::Active]);
}

#[tokio::test]
async fn a_backend_added_by_hand_is_of_the_revision_that_serves() {
    let f = Fixture::new().await;
    let old = slot(NODES[0]);
    let id = f.function(&definition(&[]), &[old]).await;
    f.redeploy(id, &definition(&[]), &[slot(NODES[1])]).await;
    let added = f.registry.add_backend(id, NODES[2]).await.unwrap();
    let deployment = f.deployment(id).await;
    assert_eq!(deployment.backends(), [old, added]);
    let slot = deployment
        .slots
        .iter()
        .find(|slot| slot.backend == added)
        .unwrap();
    assert_eq!((slot.revision, slot.pinned), (Revision::FIRST, true));
    f.nothing_is_inconsistent().await;
}

#[tokio::test]
async fn the_revisions_in_use_and_the_last_ten_are_kept_with_their_fate() {
    let f = Fixture::new().await;
    let first = slot(NODES[0]);
    let id = f.function(&with_concurrency(&[], 1), &[first]).await;
    for concurrency in 2..=14 {
        f.redeploy(id, &with_concurrency(&[], concurrency), &[])
            .await;
    }
    let kept: Vec<u64> = f
        .deployment(id)
        .await
        .revisions
        .iter()
        .map(|r| r.0)
        .collect();
    assert_eq!(kept, [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    let revision = f.registry.revision(id, Revision(9)).await.unwrap().unwrap();
    assert_eq!(revision.definition.concurrency, 9);
    assert_eq!(revision.fate, RevisionFate::Pending);
    assert_eq!(f.registry.revision(id, Revision(2)).await.unwrap(), None);
}

#[tokio::test]
async fn going_back_is_to_what_serves_or_else_to_what_has_run_before_it() {
    let f = Fixture::new().await;
    let target = async |id| {
        let deployment = f.deployment(id).await;
        f.registry.rollback_target(&deployment).await.unwrap()
    };
    let id = f.function(&definition(&[]), &[slot(NODES[0])]).await;
    assert_eq!(target(id).await, None);
    f.registry
        .record_fate(id, Revision::FIRST, RevisionFate::Proven)
        .await
        .unwrap();
    let failed = RevisionFate::Failed {
        reason: "too late".to_owned(),
    };
    // What is written is not written again.
    f.registry
        .record_fate(id, Revision::FIRST, failed.clone())
        .await
        .unwrap();
    f.redeploy(id, &definition(&[]), &[slot(NODES[0])]).await;
    assert_eq!(target(id).await, Some(Revision(1)), "it serves still");
    f.registry
        .record_fate(id, Revision(2), failed)
        .await
        .unwrap();
    let third = slot(NODES[1]);
    f.redeploy(id, &definition(&[]), &[third]).await;
    f.registry.switch_backends(id, &[third]).await.unwrap();
    let proven = f
        .registry
        .record_fate(id, Revision(3), RevisionFate::Proven);
    proven.await.unwrap();
    let kept = f.registry.revision(id, Revision(3)).await.unwrap().unwrap();
    assert_eq!(kept.fate, RevisionFate::Proven);
    assert_eq!(target(id).await, Some(Revision(1)), "the second failed");
}

#[tokio::test]
async fn a_function_of_an_earlier_version_serves_as_it_did_and_is_migrated() {
    let f = Fixture::new().await;
    let (old, new) = (slot(NODES[0]), slot(NODES[1]));
    let id = f.function(&definition(&["a.b"]), &[old]).await;
    f.redeploy(id, &definition(&["a.b"]), &[new]).await;
    f.age(id).await;
    let routing = spawned(
        f.registry
            .watch_routing(RoutingSnapshot::default(), pending()),
    );
    let mut routing = routing;
    let before = shows(&mut routing, "everything", |shown| shown.complete).await;
    assert_eq!(before.functions[&id].backends[..], [old]);
    assert_eq!(before.functions[&id].hostnames, None);
    let slots = f.registry.function_containers(id).await.unwrap();
    assert_eq!(
        slots.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(),
        [new, old]
    );

    assert_eq!(f.registry.unmigrated_functions().await.unwrap(), [id]);
    assert!(f.registry.migrate_function(id, &slots).await.unwrap());
    assert!(!f.registry.migrate_function(id, &slots).await.unwrap());
    assert_eq!(f.registry.unmigrated_functions().await.unwrap(), []);
    let migrated = f.deployment(id).await;
    assert_eq!(migrated.backends(), [old], "requests go where they went");
    assert_eq!(migrated.serving.revision(), Some(Revision::FIRST));
    assert!(migrated.revisions.contains(&Revision(2)));
    f.nothing_is_inconsistent().await;
    f.registry.switch_backends(id, &[new]).await.unwrap();
    f.registry
        .release_container(old.ip, old.container_id)
        .await
        .unwrap();
    f.nothing_is_inconsistent().await;
}

#[tokio::test]
async fn a_change_before_the_migration_keeps_the_definition_that_serves() {
    let f = Fixture::new().await;
    let old = slot(NODES[0]);
    let id = f.function(&with_concurrency(&["a.b"], 2), &[old]).await;
    let mut ran = ContainerStatus::assigned(1);
    ran.state = ContainerState::Running;
    f.registry
        .update_container_status(old.ip, old.container_id, &ran)
        .await
        .unwrap();
    f.age(id).await;
    f.redeploy(id, &with_concurrency(&[], 9), &[slot(NODES[1])])
        .await;
    let first = f
        .registry
        .revision(id, Revision::FIRST)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (first.definition.concurrency, first.fate),
        (2, RevisionFate::Proven)
    );
    let deployment = f.deployment(id).await;
    assert_eq!(
        (deployment.backends(), deployment.serving.concurrency),
        (vec![old], 2)
    );
    let target = f.registry.rollback_target(&deployment).await.unwrap();
    assert_eq!(target, Some(Revision::FIRST));
    f.nothing_is_inconsistent().await;
}

#[tokio::test]
async fn a_backend_that_no_node_has_is_left_to_the_audit_by_the_migration() {
    let f = Fixture::new().await;
    let lost = slot(NODES[0]);
    let id = f.function(&definition(&[]), &[lost]).await;
    f.age(id).await;
    f.remove(&f.registry.layout().container(lost.ip, lost.container_id))
        .await;
    assert!(f.registry.migrate_function(id, &[]).await.unwrap());
    assert_eq!(f.deployment(id).await.backends(), [lost]);
    let (_, left) = f.registry.repair_all(Duration::ZERO).await.unwrap();
    assert_eq!(left, []);
    let assigned = f.registry.function_containers(id).await.unwrap();
    assert_eq!(assigned[0].0, lost);
}

#[tokio::test]
async fn one_failed_revision_after_another_does_not_fill_the_list_of_slots() {
    let f = Fixture::new().await;
    let slots = || -> Vec<Backend> { (0..900).map(|_| slot(NODES[0])).collect() };
    let id = f.function(&definition(&[]), &slots()).await;
    for _ in 0..3 {
        f.redeploy(id, &definition(&[]), &slots()).await;
    }
    assert_eq!(f.deployment(id).await.slots.len(), 1_800);
}

#[tokio::test]
async fn the_audit_restores_what_served_and_not_what_is_wanted() {
    let f = Fixture::new().await;
    let (old, new) = (slot(NODES[0]), slot(NODES[1]));
    let id = f.function(&with_concurrency(&["a.b"], 2), &[old]).await;
    f.redeploy(id, &with_concurrency(&[], 9), &[new]).await;
    let layout = f.registry.layout();
    let assigned = layout.container(old.ip, old.container_id);
    for path in [layout.backends(id), layout.serving(id), assigned] {
        for damaged in [true, false] {
            if damaged {
                f.put(&path, b"\xff").await;
            } else {
                f.remove(&path).await;
            }
            let (repaired, left) = f.registry.repair_all(DEPLOYMENT_GRACE).await.unwrap();
            assert!(!repaired.is_empty() && left.is_empty(), "{path}: {left:?}");
            let routes = repaired
                .iter()
                .filter(|finding| matches!(finding.what, Inconsistency::RouteUnclaimed { .. }));
            assert_eq!(routes.count(), 0, "{path}");
            let deployment = f.deployment(id).await;
            assert_eq!(deployment.backends(), [old], "{path}");
            assert_eq!(deployment.serving.concurrency, 2, "{path}");
            assert!(f.exists(&layout.route(&hostname("a.b"))).await, "{path}");
            let slots = f.registry.function_containers(id).await.unwrap();
            assert_eq!(slots[1].1.revision, Revision::FIRST, "{path}");
        }
    }
}

#[tokio::test]
async fn the_group_of_a_revision_that_still_has_slots_is_in_use() {
    let f = Fixture::new().await;
    let mut shop = definition(&[]);
    shop.svc_group_id = Some("shop".to_owned());
    let id = f.function(&shop, &[slot(NODES[0])]).await;
    f.redeploy(id, &definition(&[]), &[slot(NODES[1])]).await;
    let users = f.registry.group_users(&"shop".parse().unwrap()).await;
    assert_eq!(users.unwrap().functions, [id]);
}

#[tokio::test]
async fn a_list_that_an_earlier_version_changed_is_believed_and_the_audit_mends_the_slots() {
    let f = Fixture::new().await;
    let (old, new) = (slot(NODES[0]), slot(NODES[1]));
    let id = f.function(&definition(&[]), &[old]).await;
    f.redeploy(id, &with_concurrency(&[], 9), &[new]).await;
    let list = f.registry.layout().backends(id);
    f.put(&list, &Backend::encode_list(&[new])).await;
    assert_eq!(f.deployment(id).await.backends(), [new]);
    let findings = f.registry.audit_with(Duration::ZERO).await.unwrap();
    let found: Vec<&Inconsistency> = findings.iter().map(|finding| &finding.what).collect();
    // The old slot is unlisted and no deployment is under way, as the audit is asked.
    assert!(
        matches!(found[..], [Inconsistency::ContainerUnlisted { container, .. }] if *container == old),
        "{found:?}"
    );
    let (_, left) = f.registry.repair_all(Duration::ZERO).await.unwrap();
    assert_eq!(left, []);
    let mended = f.deployment(id).await;
    assert_eq!(
        (mended.backends(), mended.serving.concurrency),
        (vec![new], 9)
    );
    assert_eq!(mended.slots.len(), 1);
}

#[tokio::test]
async fn undecodable_slots_serving_and_revisions_are_written_anew() {
    let f = Fixture::new().await;
    let id = f
        .function(&with_concurrency(&["a.b"], 3), &[slot(NODES[0])])
        .await;
    let sound = f.deployment(id).await;
    let layout = f.registry.layout();
    for path in [
        layout.slots(id),
        layout.serving(id),
        layout.revision(id, Revision::FIRST),
    ] {
        f.put(&path, b"\xff").await;
        let (repaired, left) = f.registry.repair_all(Duration::ZERO).await.unwrap();
        assert_eq!((repaired.len(), left.len()), (1, 0), "{path}");
    }
    let mended = f.deployment(id).await;
    assert_eq!((mended.slots, mended.serving), (sound.slots, sound.serving));
}

#[tokio::test]
async fn a_function_whose_parts_cannot_be_decoded_can_be_deleted() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&["a.b"]), &[slot(NODES[0])]).await;
    let layout = f.registry.layout();
    for path in [layout.slots(id), layout.serving(id)] {
        f.put(&path, b"\xff").await;
    }
    f.registry.delete_function(id).await.unwrap();
    f.nothing_is_inconsistent().await;
    assert!(matches!(
        f.registry.delete_function(id).await,
        Err(Error::FunctionUnknown { .. })
    ));
}

#[tokio::test]
async fn more_slots_than_one_list_holds_are_refused() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&[]), &[]).await;
    let many: Vec<Backend> = (0..=bismuth_registry::MAX_SLOTS)
        .map(|_| slot(NODES[0]))
        .collect();
    let refused = f
        .registry
        .replace_definition(id, &definition(&[]), Version(0), &many)
        .await;
    assert!(
        matches!(refused, Err(Error::TooManyBackends { .. })),
        "{refused:?}"
    );
    assert!(f.deployment(id).await.slots.encode().unwrap().is_empty());
}
