use std::collections::HashMap;

use bismuth_containerd::fake::{Act, Fault};
use bismuth_containerd::tasks::{NewContainer, Stdio, Tasks as _};
use bismuth_registry::{AssignedContainer, Unresolved, UnresolvedReason};

use super::*;
use crate::node::fakes::{self, Fakes, NODE};

struct Harness {
    fakes: Fakes,
    reconciler: Reconciler,
    reporter: StatusReporter,
    table: Arc<SlotTable>,
    _shutdown: Shutdown,
}

fn harness() -> Harness {
    let (fakes, reporter, shutdown) = (Fakes::new(), StatusReporter::default(), Shutdown::new());
    let table = Arc::new(SlotTable::default());
    let deps = Deps {
        launcher: Arc::clone(&fakes.launcher),
        reporter: reporter.clone(),
        bounds: StopBounds {
            drain: Duration::from_secs(1),
            grace: Duration::from_secs(1),
        },
        queue: 1,
    };
    let reconciler = Reconciler::new(deps, Arc::clone(&table), Tasks::new(&shutdown));
    Harness {
        fakes,
        reconciler,
        reporter,
        table,
        _shutdown: shutdown,
    }
}

impl Harness {
    /// A container that an earlier process started, and whose `slot.json` cannot be read.
    async fn left_with_unreadable_state(&self, id: ContainerId) {
        let containerd = &self.fakes.containerd;
        let container = NewContainer {
            id: id.to_string(),
            spec: Default::default(),
            image: None,
            labels: HashMap::from([("bismuth.node".into(), NODE.into())]),
            runtime: "runc".to_owned(),
        };
        containerd.create_container(container).await.unwrap();
        let id_text = id.to_string();
        containerd
            .create_task(&id_text, Stdio::null())
            .await
            .unwrap();
        containerd.start(&id_text).await.unwrap();
        let dir = self.fakes.launcher.state().container_dir(id);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("slot.json"), "{\"function_id\":").unwrap();
    }

    fn runs(&self, id: ContainerId) -> bool {
        let ends = [Act::Kill, Act::DeleteTask, Act::DeleteContainer];
        let containerd = &self.fakes.containerd;
        containerd.container(&id.to_string()).is_some()
            && ends.iter().all(|act| containerd.count(*act) == 0)
    }

    fn is_served(&self, id: ContainerId) -> bool {
        self.table.load().contains_key(&id)
    }
}

fn assigned(id: ContainerId) -> Assignment {
    let container = AssignedContainer {
        function_id: FunctionId::new_random(),
        revision: Revision::FIRST,
        definition: fakes::definition(),
        status_at_list: ContainerStatus::assigned(1),
    };
    Assignment {
        containers: BTreeMap::from([(id, container)]),
        complete: true,
        ..Assignment::default()
    }
}

/// Assigned, and a newer revision of its function has been written.
fn assigned_and_superseded(id: ContainerId) -> Assignment {
    let slot = Unresolved {
        function: Some((FunctionId::new_random(), Revision::FIRST)),
        reason: UnresolvedReason::FunctionMissing,
    };
    Assignment {
        unresolved: BTreeMap::from([(id, slot)]),
        complete: true,
        ..Assignment::default()
    }
}

#[tokio::test]
async fn a_superseded_container_is_left_running_when_its_saved_state_cannot_be_read() {
    let (id, mut harness) = (ContainerId::new_random(), harness());
    harness.left_with_unreadable_state(id).await;
    harness.reconciler.serve_recovered().await;
    let assignment = assigned_and_superseded(id);
    harness.reconciler.reconcile(&assignment).await;
    assert!(harness.runs(id));
    assert!(!harness.is_served(id));
    let status = harness.reporter.get(id).unwrap();
    let reason = status.reason.clone().unwrap();
    assert_eq!(status.state, ContainerState::Failed);
    assert!(
        reason.contains("deploy the function again") && reason.contains("slot.json"),
        "{reason}"
    );
    harness.reconciler.reconcile(&assignment).await;
    let again = harness.reporter.get(id);
    assert_eq!(again, Some(status), "it is reported once");

    // No longer assigned, it goes as everything else does.
    let nothing = Assignment {
        complete: true,
        ..Assignment::default()
    };
    harness.reconciler.reconcile(&nothing).await;
    assert!(!harness.runs(id));
    assert_eq!(harness.reporter.get(id), None);
}

#[tokio::test]
async fn a_container_with_unreadable_state_is_started_again_when_its_definition_is_known() {
    let (id, mut harness) = (ContainerId::new_random(), harness());
    harness.left_with_unreadable_state(id).await;
    let image = fakes::definition();
    harness.fakes.images.block(image.image.as_reference());
    harness.reconciler.reconcile(&assigned(id)).await;
    assert!(harness.is_served(id));
    assert!(!harness.runs(id), "the old program has ended");
}

#[tokio::test]
async fn a_container_is_left_running_when_the_disk_fails_while_its_state_is_read() {
    let (id, mut harness) = (ContainerId::new_random(), harness());
    harness.left_with_unreadable_state(id).await;
    let dir = harness.fakes.launcher.state().container_dir(id);
    std::fs::remove_file(dir.join("slot.json")).unwrap();
    // Reading a directory as a file fails with EISDIR.
    std::fs::create_dir(dir.join("slot.json")).unwrap();
    harness.reconciler.reconcile(&assigned(id)).await;
    assert!(harness.runs(id) && !harness.is_served(id));
}

#[tokio::test(start_paused = true)]
async fn a_superseded_container_is_left_running_while_containerd_does_not_answer() {
    let (id, mut harness) = (ContainerId::new_random(), harness());
    harness.left_with_unreadable_state(id).await;
    for acts in [
        &[Act::ListTasks][..],
        &[Act::ListContainers, Act::ListTasks],
    ] {
        for act in acts {
            harness.fakes.containerd.script(*act, Fault::Hang);
        }
        let assignment = assigned_and_superseded(id);
        harness.reconciler.reconcile(&assignment).await;
        assert!(harness.runs(id) && !harness.is_served(id));
    }
}
