//! Starts with a fake containerd, in real sandboxes.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use bismuth_containerd::fake::{Act, Code, FakeContainerd, Fault};
use bismuth_containerd::images::ImageConfig;
use bismuth_containerd::images::fake::FakeImages;
use bismuth_model::Revision;
use bismuth_testkit::eventually;
use tokio::task::JoinSet;

use super::*;
use crate::node::fakes;

const SOON: Duration = Duration::from_secs(10);

struct Harness {
    launcher: Arc<Launcher>,
    containerd: FakeContainerd,
    images: FakeImages,
    dir: PathBuf,
    layer: PathBuf,
    program: Child,
}

impl Harness {
    fn new() -> Self {
        let dir = bismuth_testkit::run::subdir("launch").unwrap();
        let layer = dir.join("layer");
        std::fs::create_dir_all(layer.join("etc")).unwrap();
        let (containerd, images) = (FakeContainerd::default(), FakeImages::new());
        Self {
            launcher: fakes::launcher(&dir, &containerd, &images),
            containerd,
            images,
            dir,
            layer,
            program: Command::new("sleep").arg("600").spawn().unwrap(),
        }
    }

    /// A slot of a server that never listens.
    fn slot(&self, change: impl FnOnce(&mut FunctionDefinition)) -> Arc<Slot> {
        let (image, mode) = ("a".parse().unwrap(), "server:1:/a".parse().unwrap());
        let mut definition = FunctionDefinition::new(image, mode);
        definition.startup_timeout_ms = 30_000;
        change(&mut definition);
        let image = definition.image.as_reference();
        let layers = vec![self.layer.clone()];
        self.images.put(image, ImageConfig::default(), layers);
        Arc::new(Slot::new(
            ContainerId::new_random(),
            FunctionId::new_random(),
            Revision::FIRST,
            Arc::new(definition),
            1,
        ))
    }

    async fn start(&self, slot: &Arc<Slot>, cancelled: &CancellationToken) -> LaunchError {
        self.containerd.next_pid(self.program.id());
        let start = StartOptions {
            created_ms: 0,
            deployment: false,
            cancelled,
        };
        let started = self.launcher.start(slot, start, &|_state| ());
        started.await.expect_err("it cannot answer")
    }

    /// What a start has left behind.
    fn left_of(&self, slot: &Slot) -> Vec<String> {
        let dir = self.launcher.state.container_dir(slot.container_id);
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<_> = names.filter(|name| name != "slot.json").collect();
        let id = slot.container_id.to_string();
        left.extend(self.containerd.container(&id).map(|_there| id));
        left
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ended = self.program.kill().and_then(|()| self.program.wait());
        // Swept by the next run where a test has failed.
        let _removed = bismuth_testkit::run::remove(&self.dir);
    }
}

#[test]
fn programs_that_never_listen_leave_blocking_threads_for_others() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).max_blocking_threads(2);
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async {
        let harness = Arc::new(Harness::new());
        let cancelled = CancellationToken::new();
        let mut starts = JoinSet::new();
        for _ in 0..4 {
            let (harness, cancelled) = (Arc::clone(&harness), cancelled.clone());
            starts.spawn(async move {
                let slot = harness.slot(|_as_it_is| ());
                let error = harness.start(&slot, &cancelled).await;
                (error, harness.left_of(&slot))
            });
        }
        let started = async || match harness.containerd.count(Act::Start) {
            4 => Ok(()),
            n => Err(format!("{n} are")),
        };
        eventually("four are started", SOON, started).await;
        let other = harness.slot(|_as_it_is| ());
        let removed = async {
            harness.launcher.teardown(other.container_id).await
                && harness.launcher.delete(other.container_id).await
        };
        let removed = tokio::time::timeout(Duration::from_secs(1), removed).await;
        assert_eq!(removed, Ok(true));
        cancelled.cancel();
        while let Some(ended) = starts.join_next().await {
            let (error, left) = ended.unwrap();
            assert!(matches!(error, LaunchError::Cancelled), "{error}");
            assert_eq!(left, Vec::<String>::new());
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_at_any_step_leaves_nothing() {
    let harness = Harness::new();
    let fail = || Fault::Fail(Code::Unknown, "no".into());
    let unknown = || Fault::TakesEffectThenFails(Code::DeadlineExceeded, "late".into());
    let faults = [
        (Act::CreateContainer, fail()),
        (Act::CreateContainer, unknown()),
        (Act::CreateTask, fail()),
        (Act::CreateTask, unknown()),
        (Act::Start, fail()),
        (Act::Start, unknown()),
    ];
    let never = CancellationToken::new();
    for (act, fault) in faults {
        let slot = harness.slot(|_as_it_is| ());
        harness.containerd.script(act, fault.clone());
        let error = harness.start(&slot, &never).await;
        let wanted = matches!(error, LaunchError::Containerd(_));
        assert!(wanted, "{act:?} {fault:?}: {error:?}");
        assert_eq!(harness.left_of(&slot), Vec::<String>::new(), "{act:?}");
    }
    let nobody = harness.slot(|definition| definition.user = Some("nobody".into()));
    let error = harness.start(&nobody, &never).await;
    assert!(matches!(error, LaunchError::User(_)), "{error:?}");
    assert_eq!(harness.left_of(&nobody), Vec::<String>::new());
    let late = harness.slot(|definition| definition.startup_timeout_ms = 20);
    let error = harness.start(&late, &never).await;
    assert_eq!(error.kind().1, "startup_timeout");
    assert_eq!(harness.left_of(&late), Vec::<String>::new());
    let permits = harness.launcher.start_permits.available_permits();
    let all = STARTS_PER_CORE * bismuth_daemon::cores::available();
    assert_eq!(permits, all, "permits that were not given back");
}
