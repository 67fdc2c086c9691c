//! Each inconsistency is found, and repaired where that needs no decision.

use std::time::Duration;

use bismuth_coord::{CreateMode, Tree};
use bismuth_model::{Backend, ContainerId, ContainerRecord, ContainerStatus, FunctionId, Revision};
use bismuth_registry::audit::{Finding, Inconsistency};
use bismuth_registry::codec::Record;
use bismuth_registry::{Error, Layout};

use crate::fixture::{Fixture, NODES, definition, hostname, refused, slot};

struct Broken {
    f: Fixture,
    id: FunctionId,
    slot: Backend,
    other: FunctionId,
}

/// Two functions: one with a route and a backend, one with nothing.
async fn sound() -> Broken {
    let f = Fixture::new().await;
    let slot = slot(NODES[0]);
    let id = f.function(&definition(&["a.b"]), &[slot]).await;
    let other = f.function(&definition(&[]), &[]).await;
    let broken = Broken { f, id, slot, other };
    assert_eq!(broken.audit().await, []);
    broken
}

impl Broken {
    fn layout(&self) -> &Layout {
        self.f.registry.layout()
    }

    async fn audit(&self) -> Vec<Finding> {
        self.f.registry.audit_with(Duration::ZERO).await.unwrap()
    }

    /// The one finding is this one; it is repaired, and nothing is left.
    async fn is_repaired(&self, what: Inconsistency) {
        let findings = self.audit().await;
        assert_eq!(
            findings
                .iter()
                .map(|finding| &finding.what)
                .collect::<Vec<_>>(),
            [&what]
        );
        self.f.registry.repair(&findings[0]).await.unwrap();
        // The slots follow what else was repaired.
        for left in self.audit().await {
            assert!(
                matches!(left.what, Inconsistency::SlotsOutdated { .. }),
                "after repairing that {what}: {left}"
            );
            self.f.registry.repair(&left).await.unwrap();
        }
        assert_eq!(self.audit().await, [], "after repairing that {what}");
    }

    fn undecodable(path: &str, findings: &[Finding]) -> Inconsistency {
        let reason = findings.iter().find_map(|finding| match &finding.what {
            Inconsistency::Undecodable {
                path: found,
                reason,
            } if found == path => Some(reason.clone()),
            _ => None,
        });
        Inconsistency::Undecodable {
            path: path.to_owned(),
            reason: reason.expect("it is found"),
        }
    }

    async fn undecodable_is_repaired(&self, path: &str) {
        let what = Self::undecodable(path, &self.audit().await);
        self.is_repaired(what).await;
    }

    async fn backends(&self) -> Vec<Backend> {
        self.f
            .registry
            .function(self.id)
            .await
            .unwrap()
            .unwrap()
            .backends
    }

    async fn list(&self, backends: &[Backend]) {
        self.f
            .put(
                &self.layout().backends(self.id),
                &Backend::encode_list(backends),
            )
            .await;
    }

    async fn assign(&self, slot: Backend, function_id: FunctionId, revision: u64) {
        let status = ContainerStatus::assigned(1);
        let record = ContainerRecord {
            function_id,
            revision: Revision(revision),
            status,
        };
        let path = self.layout().container(slot.ip, slot.container_id);
        self.f.put(&path, &record.encode().unwrap()).await;
    }
}

#[tokio::test]
async fn a_missing_directory_is_created() {
    let b = sound().await;
    let path = b.layout().election();
    b.f.remove(&path).await;
    b.is_repaired(Inconsistency::DirectoryMissing { path })
        .await;
    b.f.remove(&b.layout().containers(NODES[1])).await;
    b.is_repaired(Inconsistency::NodeWithoutDirectory { ip: NODES[1] })
        .await;
}

#[tokio::test]
async fn a_misplaced_node_is_removed_only_from_directories_of_ours() {
    let b = sound().await;
    for path in [
        "/default/function/nonsense",
        "/default/route/Upper.case",
        "/default/node/here",
    ] {
        b.f.put(path, b"?").await;
        b.is_repaired(Inconsistency::Misplaced {
            path: path.to_owned(),
        })
        .await;
    }
    b.f.put("/default/something", b"of another program").await;
    b.f.put("/default/something/below", b"").await;
    let findings = b.audit().await;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].repair, None);
    refused!(
        b.f.registry.repair(&findings[0]),
        Error::NotRepairable { .. }
    );
}

#[tokio::test]
async fn a_missing_or_undecodable_backend_list_is_rebuilt_from_the_assignments() {
    let b = sound().await;
    b.f.remove(&b.layout().backends(b.id)).await;
    b.is_repaired(Inconsistency::ListMissing { function: b.id })
        .await;
    assert_eq!(b.backends().await, [b.slot]);
    let path = b.layout().backends(b.id);
    b.f.put(&path, b"cut off").await;
    b.undecodable_is_repaired(&path).await;
    assert_eq!(b.backends().await, [b.slot]);
}

#[tokio::test]
async fn an_invalid_backend_is_removed_from_the_list() {
    let b = sound().await;
    b.list(&[b.slot, b.slot]).await;
    b.is_repaired(Inconsistency::BackendTwice {
        function: b.id,
        backend: b.slot,
    })
    .await;

    let nowhere = slot("10.0.0.1".parse().unwrap());
    b.list(&[nowhere, b.slot]).await;
    b.is_repaired(Inconsistency::BackendOnUnknownNode {
        function: b.id,
        backend: nowhere,
    })
    .await;

    let theirs = b.f.registry.add_backend(b.other, NODES[1]).await.unwrap();
    b.list(&[b.slot, theirs]).await;
    b.is_repaired(Inconsistency::BackendOfOther {
        function: b.id,
        backend: theirs,
        serves: b.other,
    })
    .await;
    assert_eq!(b.backends().await, [b.slot]);
}

#[tokio::test]
async fn a_backend_that_is_not_assigned_is_assigned() {
    let b = sound().await;
    b.f.remove(&b.layout().container(b.slot.ip, b.slot.container_id))
        .await;
    b.is_repaired(Inconsistency::BackendUnassigned {
        function: b.id,
        backend: b.slot,
    })
    .await;
    let record =
        b.f.registry
            .container(b.slot.ip, b.slot.container_id)
            .await
            .unwrap()
            .unwrap();
    assert_eq!(
        (record.function_id, record.revision),
        (b.id, Revision::FIRST)
    );
}

#[tokio::test]
async fn an_assignment_without_function_or_backend_is_removed() {
    let b = sound().await;
    let (stray, nobody) = (slot(NODES[1]), FunctionId::new_random());
    b.assign(stray, nobody, 1).await;
    b.is_repaired(Inconsistency::ContainerOfMissingFunction {
        container: stray,
        function: nobody,
    })
    .await;
    b.assign(stray, b.id, 1).await;
    b.is_repaired(Inconsistency::ContainerUnlisted {
        container: stray,
        function: b.id,
    })
    .await;
    b.assign(stray, b.id, 9).await;
    let (revision, current) = (Revision(9), Revision(1));
    b.is_repaired(Inconsistency::ContainerOfFutureRevision {
        container: stray,
        function: b.id,
        revision,
        current,
    })
    .await;
    assert_eq!(b.f.container(stray).await, None);
}

#[tokio::test]
async fn a_backend_of_a_revision_that_does_not_exist_is_assigned_for_the_current_one() {
    let b = sound().await;
    b.assign(b.slot, b.id, 9).await;
    let (revision, current) = (Revision(9), Revision(1));
    b.is_repaired(Inconsistency::ContainerOfFutureRevision {
        container: b.slot,
        function: b.id,
        revision,
        current,
    })
    .await;
    assert_eq!(b.backends().await, [b.slot]);
}

#[tokio::test]
async fn a_deployment_in_progress_is_no_inconsistency() {
    let b = sound().await;
    b.f.replace(
        b.id,
        &definition(&["a.b"]),
        bismuth_coord::Version(0),
        &[slot(NODES[1])],
    )
    .await;
    assert_eq!(b.f.registry.audit().await.unwrap(), []);
    assert_eq!(b.audit().await.len(), 1, "without grace it is");
}

#[tokio::test]
async fn missing_and_wrong_routes_are_repaired() {
    let b = sound().await;
    let (name, path) = (hostname("a.b"), b.layout().route(&hostname("a.b")));
    let lead = |id: FunctionId| id.encode().unwrap();

    b.f.remove(&path).await;
    b.is_repaired(Inconsistency::RouteMissing {
        hostname: name.clone(),
        function: b.id,
    })
    .await;
    b.f.put(&path, &lead(b.other)).await;
    b.is_repaired(Inconsistency::RouteElsewhere {
        hostname: name.clone(),
        function: b.id,
        leads_to: b.other,
    })
    .await;
    b.f.put(&path, b"\x01").await;
    b.undecodable_is_repaired(&path).await;

    let (free, nobody) = (hostname("free.b"), FunctionId::new_random());
    let free_path = b.layout().route(&free);
    b.f.put(&free_path, &lead(nobody)).await;
    b.is_repaired(Inconsistency::RouteToMissingFunction {
        hostname: free.clone(),
        function: nobody,
    })
    .await;
    b.f.put(&free_path, &lead(b.other)).await;
    b.is_repaired(Inconsistency::RouteUnclaimed {
        hostname: free,
        function: b.other,
    })
    .await;
    b.f.put(&free_path, b"").await;
    b.undecodable_is_repaired(&free_path).await;
    assert!(!b.f.exists(&free_path).await);
}

#[tokio::test]
async fn a_hostname_claimed_by_two_functions_is_left_to_the_operator() {
    let b = sound().await;
    let record = b.f.registry.function(b.id).await.unwrap().unwrap().record;
    b.f.put(&b.layout().function(b.other), &record.encode().unwrap())
        .await;
    let findings = b.audit().await;
    let mut functions = vec![b.id, b.other];
    functions.sort_unstable();
    assert_eq!(findings.len(), 1);
    assert_eq!(
        findings[0].what,
        Inconsistency::RouteContested {
            hostname: hostname("a.b"),
            functions
        }
    );
    assert_eq!(findings[0].repair, None);
}

#[tokio::test]
async fn undecodable_nodes_registrations_and_assignments_are_repaired() {
    let b = sound().await;
    let node = b.layout().node(NODES[1]);
    b.f.put(&node, b"yes").await;
    b.undecodable_is_repaired(&node).await;
    assert!(
        !b.f.registry
            .node(NODES[1])
            .await
            .unwrap()
            .unwrap()
            .schedulable
    );

    let alive = b.layout().alive(NODES[1]);
    b.f.tree
        .create(&alive, b"?", CreateMode::Ephemeral)
        .await
        .unwrap();
    b.undecodable_is_repaired(&alive).await;
    b.f.put(&alive, b"").await;
    b.is_repaired(Inconsistency::AlivePersistent { ip: NODES[1] })
        .await;

    let listed = b.layout().container(b.slot.ip, b.slot.container_id);
    b.f.put(&listed, b"\x01\x02").await;
    b.undecodable_is_repaired(&listed).await;
    assert!(b.f.exists(&listed).await);
    let unlisted = b.layout().container(NODES[2], ContainerId::new_random());
    b.f.put(&unlisted, b"").await;
    b.undecodable_is_repaired(&unlisted).await;
    assert!(!b.f.exists(&unlisted).await);
}

#[tokio::test]
async fn a_leader_znode_that_would_stay_is_deleted_and_what_goes_by_itself_is_left() {
    let b = sound().await;
    let (path, term) = (b.layout().leader(), b.layout().term());
    b.f.put(&path, b"by hand").await;
    b.is_repaired(Inconsistency::LeaderPersistent { path: path.clone() })
        .await;

    let below = format!("{path}/lock-0000000001");
    b.f.put(&path, b"").await;
    b.f.put(&below, b"of another program").await;
    let findings = b.audit().await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].repair, None);
    b.f.remove(&below).await;
    b.f.remove(&path).await;

    let ephemeral = CreateMode::Ephemeral;
    b.f.tree.create(&path, b"?", ephemeral).await.unwrap();
    b.f.put(&term, b"?").await;
    b.f.put("/default/election/other", b"of another program")
        .await;
    let findings = b.audit().await;
    assert_eq!(
        findings
            .iter()
            .map(|finding| (&finding.what, &finding.repair))
            .collect::<Vec<_>>(),
        [
            (&Broken::undecodable(&path, &findings), &None),
            (&Broken::undecodable(&term, &findings), &None)
        ]
    );
}

#[tokio::test]
async fn an_undecodable_function_is_left_to_the_operator_with_its_routes_and_slots() {
    let b = sound().await;
    let path = b.layout().function(b.id);
    b.f.put(&path, b"\x02").await;
    let findings = b.audit().await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (&findings[0].what, &findings[0].repair),
        (&Broken::undecodable(&path, &findings), &None)
    );
}

#[tokio::test]
async fn a_repair_does_nothing_if_the_record_changed_since_the_audit() {
    let b = sound().await;
    b.list(&[b.slot, b.slot]).await;
    let findings = b.audit().await;
    b.f.registry.switch_backends(b.id, &[]).await.unwrap();
    refused!(
        b.f.registry.repair(&findings[0]),
        Error::FindingStale { .. }
    );
    assert!(b.backends().await.is_empty());
}

#[tokio::test]
async fn several_inconsistencies_are_repaired_in_rounds() {
    let b = sound().await;
    let nowhere = [
        slot("10.0.0.1".parse().unwrap()),
        slot("10.0.0.2".parse().unwrap()),
    ];
    b.list(&[nowhere[0], b.slot, b.slot, nowhere[1]]).await;
    b.f.remove(&b.layout().container(b.slot.ip, b.slot.container_id))
        .await;
    b.f.remove(&b.layout().route(&hostname("a.b"))).await;
    b.f.put("/default/node/10.0.0.999", b"").await;
    let (repaired, left) = b.f.registry.repair_all(Duration::ZERO).await.unwrap();
    // The slots are the last of them.
    assert_eq!((repaired.len(), left), (7, Vec::new()), "{repaired:#?}");
    assert_eq!(b.backends().await, [b.slot]);
}
