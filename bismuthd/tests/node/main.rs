//! One node on the real parts: ZooKeeper, containerd, a registry, the kernel. No frontend, no API.

mod service_sockets;

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_model::{
    Backend, ContainerId, ContainerState, ContainerStatus, Environment, FunctionDefinition,
    FunctionId,
};
use bismuth_registry::Registry;
use bismuth_testkit::{
    Containerd, Daemon, Registry as ImageRegistry, ZooKeeper, eventually, http, image, ports,
};

const IP: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SOON: Duration = Duration::from_secs(20);

struct TestNode {
    daemon: Daemon,
    port: u16,
    registry: Registry,
    zookeeper: ZooKeeper,
    containerd: Containerd,
    _images: ImageRegistry,
    _state: PathBuf,
    /// Where it looks for svcprovider.
    handover: PathBuf,
}

impl TestNode {
    async fn start() -> Result<Self> {
        let (zookeeper, containerd, images) = tokio::try_join!(
            ZooKeeper::start(),
            Containerd::start(),
            ImageRegistry::start()
        )?;
        images
            .push("library/alpine:latest", &image::alpine()?)
            .await?;
        images
            .push("library/echo-server:latest", &image::static_server()?)
            .await?;
        let tree = ZkTree::connect(&zookeeper.connect_string(), ConnectOptions::default()).await?;
        let registry = Registry::new(Arc::new(tree), Environment::default());
        registry.bootstrap().await?;
        registry.provision_node(IP).await?;
        let state = containerd.scratch("n")?;
        let handover = containerd.scratch("s")?.join("s");
        let (port, admin) = (ports::reserve()?, ports::reserve()?);
        let init = bismuth_testkit::daemon::static_program("bismuth-init")?;
        let args = [
            format!("--zookeeper={}", zookeeper.connect_string()),
            format!("--listen={IP}:{port}"),
            format!("--admin-listen={IP}:{admin}"),
            format!("--containerd={}", containerd.socket().display()),
            format!("--state-dir={}", state.display()),
            format!("--svcprovider-socket={}", handover.display()),
            format!("--init={}", init.display()),
            format!("--registry-mirror=docker.io={}", images.url()),
            "--log-level=info,bismuthd=debug".to_owned(),
        ];
        let daemon = Daemon::spawn("bismuthd", args)?;
        daemon
            .ready(&format!("http://{IP}:{admin}/readyz"), SOON)
            .await?;
        Ok(Self {
            daemon,
            port,
            registry,
            zookeeper,
            containerd,
            _images: images,
            _state: state,
            handover,
        })
    }

    async fn deploy(&self, image: &str, mode: &str) -> Result<(FunctionId, ContainerId)> {
        let definition = FunctionDefinition::new(image.parse()?, mode.parse()?);
        self.create(&definition).await
    }

    async fn create(&self, definition: &FunctionDefinition) -> Result<(FunctionId, ContainerId)> {
        let (function, container_id) = (FunctionId::new_random(), ContainerId::new_random());
        let slot = Backend {
            ip: IP,
            container_id,
        };
        self.registry
            .create_function(function, definition, &[slot])
            .await?;
        Ok((function, container_id))
    }

    async fn status(&self, id: ContainerId) -> Result<ContainerStatus> {
        let record = self.registry.container(IP, id).await?;
        Ok(record.context("no record")?.status)
    }

    async fn state(&self, id: ContainerId, wanted: ContainerState) -> String {
        eventually(&format!("{id} is {wanted}"), SOON, async || {
            let status = self.status(id).await.map_err(|e| e.to_string())?;
            if status.state == wanted {
                Ok(status.reason.unwrap_or_default())
            } else {
                Err(format!("it is {} ({:?})", status.state, status.reason))
            }
        })
        .await
    }

    async fn answers_again(&self, id: ContainerId) {
        eventually("it answers again", SOON, async || {
            match http::get(&self.url(id, "/")).await {
                Ok(answer) if answer.status() == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    fn url(&self, id: ContainerId, rest: &str) -> String {
        format!("http://{IP}:{}/invoke/{id}{rest}", self.port)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_function_answers_with_what_its_program_prints() -> Result<()> {
    let node = TestNode::start().await?;
    let (_, id) = node
        .deploy(
            "alpine",
            "exec:/bin/sh -c 'echo $REQUEST_METHOD $PATH_INFO $QUERY_STRING; cat'",
        )
        .await?;
    node.state(id, ContainerState::Running).await;
    let answer = http::post(&node.url(id, "/a/b?c=d"), "the body").await?;
    ensure!(answer.status() == 200, "{answer:?}");
    assert_eq!(answer.body(), "POST /a/b c=d\nthe body");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_function_is_started_once_and_survives_a_restart_of_the_daemon() -> Result<()> {
    let mut node = TestNode::start().await?;
    let (_, id) = node
        .deploy("echo-server", "server:8080:/echo-server --port 8080")
        .await?;
    node.state(id, ContainerState::Running).await;
    let pid = node.status(id).await?.pid;
    assert_eq!(http::get(&node.url(id, "/")).await?.status(), 200);
    node.daemon.kill().await?;
    node.daemon.start()?;
    node.answers_again(id).await;
    node.state(id, ContainerState::Running).await;
    assert_eq!(node.status(id).await?.pid, pid);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_start_fails_with_a_reason_that_names_the_cause() -> Result<()> {
    let node = TestNode::start().await?;
    let (missing, dies) = (
        "server:80:/bin/nosuchprogram",
        "server:80:/bin/sh -c 'echo my last words; exit 3'",
    );
    for (image, mode, words) in [
        ("nosuchimage", "exec:/bin/ls", &["nosuchimage"][..]),
        ("alpine", missing, &["/bin/nosuchprogram"]),
        ("alpine", dies, &["exit code 3", "my last words"]),
    ] {
        let (_, id) = node.deploy(image, mode).await?;
        let reason = node.state(id, ContainerState::Failed).await;
        for word in words {
            ensure!(reason.contains(word), "{mode}: {reason}");
        }
        let answer = http::get(&node.url(id, "/")).await?;
        ensure!(answer.status() == 502, "{answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_any_user_work_in_a_directory_that_only_root_and_their_own_root_may_enter()
-> Result<()> {
    let mut node = TestNode::start().await?;
    let exec = "exec:/bin/sh -c 'id -u; echo to the log >&2'";
    let server = "server:8080:/echo-server --port 8080";
    let mut containers = Vec::new();
    for (image, mode, user, answers) in [
        ("alpine", exec, None, "1000\n"),
        ("alpine", exec, Some("0:0"), "0\n"),
        ("alpine", exec, Some("77:88"), "77\n"),
        ("echo-server", server, Some("77:88"), "hello\n"),
    ] {
        let mut definition = FunctionDefinition::new(image.parse()?, mode.parse()?);
        definition.user = user.map(str::to_owned);
        let (_, id) = node.create(&definition).await?;
        node.state(id, ContainerState::Running).await;
        let dir = node._state.join("containers").join(id.to_string());
        containers.push((id, dir, answers));
    }
    let check = async |node: &TestNode| {
        for (id, dir, answers) in &containers {
            let answer = http::get(&node.url(*id, "/")).await?;
            ensure!(
                answer.status() == 200 && answer.body() == *answers,
                "{answer:?}"
            );
            let found = std::fs::metadata(dir)?;
            // The root directory of the container belongs to its own root.
            let group = std::fs::metadata(dir.join("root"))?.gid();
            assert_ne!(group, 0);
            let access = (found.mode() & 0o7777, found.uid(), found.gid());
            assert_eq!(access, (0o710, 0, group), "{}", dir.display());
        }
        Ok::<_, anyhow::Error>(())
    };
    check(&node).await?;
    node.daemon.kill().await?;
    for (_, dir, _) in &containers {
        // As an earlier version would have left it.
        std::os::unix::fs::chown(dir, Some(0), Some(0))?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o711))?;
    }
    node.daemon.start()?;
    for (id, ..) in &containers {
        node.answers_again(*id).await;
    }
    check(&node).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_function_leaves_nothing_on_the_node() -> Result<()> {
    let node = TestNode::start().await?;
    let before = node.containerd.inventory().await?;
    let (function, id) = node
        .deploy("echo-server", "server:8080:/echo-server --port 8080")
        .await?;
    node.state(id, ContainerState::Running).await;
    node.registry.delete_function(function).await?;
    let dir = node._state.join("containers").join(id.to_string());
    eventually("its directory is gone", SOON, async || {
        (!dir.exists()).then_some(()).ok_or("it is there")
    })
    .await;
    let after = node.containerd.inventory().await?;
    for kind in ["containers", "tasks"] {
        assert_eq!(after.get(kind), before.get(kind), "{kind}");
    }
    drop(node.zookeeper);
    Ok(())
}
