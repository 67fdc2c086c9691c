//! One node and one frontend on real servers, without an API.
//!
//! ```text
//!  client ─► bismuthfe ─► bismuthd ─► container ─► svcprovider
//!               └── ZooKeeper ──┘ └─ containerd, image registry
//! ```

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_model::{
    Backend, ContainerId, ContainerState, Environment, FunctionDefinition, FunctionId,
};
use bismuth_registry::Registry;
use bismuth_testkit::cluster::Services;
use bismuth_testkit::daemon::static_program;
use bismuth_testkit::{
    Containerd, Daemon, Image, Registry as ImageRegistry, ZooKeeper, eventually, image, ports,
};

use crate::client::Client;
use crate::machine;

const IP: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Servers start and images are pulled within seconds; a loaded machine may take longer.
const SOON: Duration = Duration::from_secs(60);

/// Everything that runs. Fields are dropped in this order: daemons before what they talk to.
pub(crate) struct Harness {
    frontend: Daemon,
    node: Daemon,
    services: Services,
    registry: Registry,
    containerd: Containerd,
    images: ImageRegistry,
    _zookeeper: ZooKeeper,
    /// `HOST:PORT` of the frontend.
    pub(crate) frontend_authority: String,
}

/// A function with one container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deployed {
    pub(crate) function: FunctionId,
    container: ContainerId,
}

impl Deployed {
    /// Where the frontend has it.
    pub(crate) fn path(&self) -> String {
        format!("/invoke/{}/", self.function)
    }
}

impl Harness {
    /// Starts it; `runtime` is what containers are made with, as bismuthd's flag has it.
    pub(crate) async fn start(runtime: &str) -> Result<Self> {
        let (zookeeper, containerd, images) = tokio::try_join!(
            ZooKeeper::start(),
            Containerd::start(),
            start_image_registry()
        )?;
        let (servers, environment) = (zookeeper.connect_string(), Environment::default());
        let tree = ZkTree::connect(&servers, ConnectOptions::default()).await?;
        let registry = Registry::new(Arc::new(tree), environment.clone());
        registry.bootstrap().await?;
        registry.provision_node(IP).await?;
        let dir = containerd.scratch("s")?;
        let services = Services::start(&dir, &servers, &environment.to_string()).await?;
        let node_port = ports::reserve()?;
        let known = [
            ("--zookeeper", servers.clone()),
            (
                "--svcprovider-socket",
                services.socket().display().to_string(),
            ),
            ("--registry-mirror", format!("docker.io={}", images.url())),
            ("--runtime", runtime.to_owned()),
        ];
        let node = start_node(known, node_port, &containerd).await?;
        let (frontend, frontend_authority) = start_frontend(node_port, &servers).await?;
        Ok(Self {
            frontend,
            node,
            registry,
            containerd,
            images,
            _zookeeper: zookeeper,
            services,
            frontend_authority,
        })
    }

    /// What others do to the machine while this harness is up and idle, for the report.
    pub(crate) async fn background_load(&self) -> Result<String> {
        let busy = machine::busy_elsewhere().await?;
        Ok(format!("others keep {busy:.1} cores busy"))
    }

    /// Process ids of bismuthfe and bismuthd.
    pub(crate) fn daemons(&self) -> Result<[u32; 2]> {
        Ok([self.frontend.process()?.pid(), self.node.process()?.pid()])
    }

    /// Keys, blobs and secrets.
    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// Makes an image known to the node as `docker.io/library/NAME:latest`.
    pub(crate) async fn push(&self, name: &str, image: &Image) -> Result<()> {
        let name = format!("library/{name}:latest");
        self.images.push(&name, image).await.map(drop)
    }

    /// The process in whose mount namespace both OCI runtimes work on any machine.
    pub(crate) fn containerd_pid(&self) -> Result<u32> {
        Ok(self.containerd.process()?.pid())
    }

    /// A connection to the frontend.
    pub(crate) async fn client(&self) -> Result<Client> {
        Client::connect(&self.frontend_authority).await
    }

    /// A definition of `mode` in `image`, both as on the command line. It is never put to rest, so that nothing
    /// but the benchmark decides whether it runs.
    pub(crate) fn definition(image: &str, mode: &str) -> Result<FunctionDefinition> {
        let mut definition = FunctionDefinition::new(
            image.parse().with_context(|| format!("image {image}"))?,
            mode.parse().with_context(|| format!("mode {mode}"))?,
        );
        definition.idle_pause_ms = 0;
        definition.idle_stop_ms = 0;
        Ok(definition)
    }

    /// Deploys a function and waits until it runs and the frontend has it.
    pub(crate) async fn deploy(&self, definition: &FunctionDefinition) -> Result<Deployed> {
        let deployed = Deployed {
            function: FunctionId::new_random(),
            container: ContainerId::new_random(),
        };
        let slot = Backend {
            ip: IP,
            container_id: deployed.container,
        };
        self.registry
            .create_function(deployed.function, definition, &[slot])
            .await?;
        self.reaches(deployed, ContainerState::Running).await;
        let mut client = self.client().await?;
        let path = deployed.path();
        eventually("the frontend knows the function", SOON, async || {
            client.timed(&path).await.map_err(|e| format!("{e:#}"))
        })
        .await;
        Ok(deployed)
    }

    /// Waits until its container is in this state.
    pub(crate) async fn reaches(&self, deployed: Deployed, wanted: ContainerState) {
        let what = format!("container {} is {wanted}", deployed.container);
        eventually(&what, SOON, async || {
            let status = self.status(deployed).await.map_err(|e| format!("{e:#}"))?;
            if status.state == wanted {
                Ok(())
            } else {
                Err(format!("it is {} ({:?})", status.state, status.reason))
            }
        })
        .await;
    }

    /// The process id of its program on this machine.
    pub(crate) async fn program(&self, deployed: Deployed) -> Result<u32> {
        let pid = self.status(deployed).await?.pid;
        pid.with_context(|| format!("container {} does not run", deployed.container))
    }

    async fn status(&self, deployed: Deployed) -> Result<bismuth_model::ContainerStatus> {
        let record = self.registry.container(IP, deployed.container).await?;
        let record = record.with_context(|| format!("no container {}", deployed.container))?;
        Ok(record.status)
    }
}

async fn start_image_registry() -> Result<ImageRegistry> {
    let images = ImageRegistry::start().await?;
    images
        .push("library/alpine:latest", &image::alpine()?)
        .await?;
    images
        .push("library/echo-server:latest", &image::static_server()?)
        .await?;
    Ok(images)
}

async fn start_node(
    known: [(&str, String); 4],
    port: u16,
    containerd: &Containerd,
) -> Result<Daemon> {
    let admin = ports::reserve()?;
    let args = [
        "--listen".to_owned(),
        format!("{IP}:{port}"),
        "--admin-listen".to_owned(),
        format!("{IP}:{admin}"),
        "--containerd".to_owned(),
        containerd.socket().display().to_string(),
        // Below containerd's directory: mounts made there are seen by its containers.
        "--state-dir".to_owned(),
        containerd.scratch("n")?.display().to_string(),
        "--init".to_owned(),
        static_program("bismuth-init")?.display().to_string(),
    ];
    let known = known
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value]);
    let args = known.chain(args);
    let node = Daemon::spawn("bismuthd", args)?;
    node.ready(&format!("http://{IP}:{admin}/readyz"), SOON)
        .await?;
    Ok(node)
}

async fn start_frontend(node_port: u16, zookeeper: &str) -> Result<(Daemon, String)> {
    let authority = format!("{IP}:{}", ports::reserve()?);
    let admin = ports::reserve()?;
    let args = [
        "--zookeeper".to_owned(),
        zookeeper.to_owned(),
        "--listen".to_owned(),
        authority.clone(),
        "--admin-listen".to_owned(),
        format!("{IP}:{admin}"),
        "--node-port".to_owned(),
        node_port.to_string(),
    ];
    let frontend = Daemon::spawn("bismuthfe", args)?;
    frontend
        .ready(&format!("http://{IP}:{admin}/readyz"), SOON)
        .await?;
    Ok((frontend, authority))
}
