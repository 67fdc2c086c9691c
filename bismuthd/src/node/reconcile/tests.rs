use std::collections::HashMap;

use bismuth_containerd::fake::{Act, Fault};
use bismuth_containerd::tasks::{NewContainer, RuntimeOptions, Stdio, Tasks as _};
use bismuth_registry::{AssignedContainer, Unresolved, UnresolvedReason};

use super::*;
use crate::node::fakes::{self, Fakes, NODE};

struct World {
    fakes: Fakes,
    reconciler: Reconciler,
    board: StatusBoard,
    table: Arc<SlotTable>,
    _shutdown: Shutdown,
}

fn world() -> World {
    let (fakes, board, shutdown) = (Fakes::new(), StatusBoard::default(), Shutdown::new());
    let table = Arc::new(SlotTable::default());
    let means = Means {
        launcher: Arc::clone(&fakes.launcher),
        board: board.clone(),
        bounds: StopBounds {
            drain: Duration::from_secs(1),
            grace: Duration::from_secs(1),
        },
        queue: 1,
    };
    let reconciler = Reconciler::new(means, Arc::clone(&table), Tasks::new(&shutdown));
    World {
        fakes,
        reconciler,
        board,
        table,
        _shutdown: shutdown,
    }
}

impl World {
    /// A container that an earlier process started, and whose note cannot be read.
    async fn left_with_an_unreadable_note(&self, id: ContainerId) {
        let containerd = &self.fakes.containerd;
        let container = NewContainer {
            id: id.to_string(),
            spec: Default::default(),
            image: None,
            labels: HashMap::from([("bismuth.node".into(), NODE.into())]),
            runtime: RuntimeOptions::runc(),
            shim_group: None,
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
async fn an_assigned_container_is_left_running_when_its_note_cannot_be_read() {
    let id = ContainerId::new_random();
    for assignment in [assigned(id), assigned_and_superseded(id)] {
        let mut world = world();
        world.left_with_an_unreadable_note(id).await;
        world.reconciler.serve_remembered().await;
        world.reconciler.reconcile(&assignment).await;
        assert!(world.runs(id));
        assert!(!world.is_served(id));
        let status = world.board.get(id).unwrap();
        let reason = status.reason.clone().unwrap();
        assert_eq!(status.state, ContainerState::Failed);
        assert!(
            reason.contains("left running") && reason.contains("slot.json"),
            "{reason}"
        );
        world.reconciler.reconcile(&assignment).await;
        assert_eq!(world.board.get(id), Some(status), "it is said once");

        // No longer assigned, it goes as everything else does.
        let nothing = Assignment {
            complete: true,
            ..Assignment::default()
        };
        world.reconciler.reconcile(&nothing).await;
        assert!(!world.runs(id));
        assert_eq!(world.board.get(id), None);
    }
}

#[tokio::test]
async fn a_container_with_an_unreadable_note_is_started_anew_once_its_program_has_ended() {
    let (id, mut world) = (ContainerId::new_random(), world());
    world.left_with_an_unreadable_note(id).await;
    world
        .fakes
        .images
        .block(fakes::definition().image.as_reference());
    world.reconciler.reconcile(&assigned(id)).await;
    assert!(!world.is_served(id));
    world.fakes.containerd.exit(&id.to_string(), 1);
    world
        .reconciler
        .reconcile(&assigned_and_superseded(id))
        .await;
    assert!(!world.is_served(id), "there is no definition to start");
    assert!(world.runs(id));
    world.reconciler.reconcile(&assigned(id)).await;
    assert!(world.is_served(id));
}

#[tokio::test(start_paused = true)]
async fn a_container_is_left_alone_while_containerd_does_not_say_whether_it_runs() {
    let (id, mut world) = (ContainerId::new_random(), world());
    world.left_with_an_unreadable_note(id).await;
    for acts in [
        &[Act::ListTasks][..],
        &[Act::ListContainers, Act::ListTasks],
    ] {
        for act in acts {
            world.fakes.containerd.script(*act, Fault::Hang);
        }
        world.reconciler.reconcile(&assigned(id)).await;
        assert!(world.runs(id) && !world.is_served(id));
    }
}
