//! The cluster that is measured, as users run it: one node, svcprovider, and bismuth-api beside them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bismuth_model::FunctionDefinition;
use bismuth_testkit::cluster::Services;
use bismuth_testkit::{Cluster, Image, eventually};

use crate::client::Client;
use crate::machine;

/// States are reported within seconds; a loaded machine may take longer.
const SOON: Duration = Duration::from_secs(60);

/// Everything that runs.
pub(crate) struct Harness(Cluster);

/// A function with one container.
#[derive(Debug)]
pub(crate) struct Deployed {
    pub(crate) function: String,
    container: String,
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
        let cluster = Cluster::builder().runtime(runtime).services();
        Ok(Self(cluster.start().await?))
    }

    /// What others do to the machine while this harness is up and idle, for the report.
    pub(crate) async fn background_load(&self) -> Result<String> {
        let busy = machine::busy_elsewhere().await?;
        Ok(format!("others keep {busy:.1} cores busy"))
    }

    /// Process ids of bismuthfe and bismuthd.
    pub(crate) fn daemons(&self) -> Result<[u32; 2]> {
        let (frontend, node) = (&self.0.frontend, &self.0.nodes[0].daemon);
        Ok([frontend.process()?.pid(), node.process()?.pid()])
    }

    /// Keys, blobs and secrets.
    pub(crate) fn services(&self) -> &Services {
        &self.0.services[0]
    }

    /// Makes an image known to the node as `docker.io/library/NAME:latest`.
    pub(crate) async fn push(&self, name: &str, image: &Image) -> Result<()> {
        let name = format!("library/{name}:latest");
        self.0.registry.push(&name, image).await.map(drop)
    }

    /// The process in whose mount namespace both OCI runtimes work on any machine.
    pub(crate) fn containerd_pid(&self) -> Result<u32> {
        Ok(self.0.containerd.process()?.pid())
    }

    /// `HOST:PORT` of the frontend.
    pub(crate) fn frontend_authority(&self) -> String {
        self.0.frontend_url("").replace("http://", "")
    }

    /// A connection to the frontend.
    pub(crate) async fn client(&self) -> Result<Client> {
        Client::connect(&self.frontend_authority()).await
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
        let function = self.0.deploy(&serde_json::to_value(definition)?).await?;
        let described = self.0.function(&function).await?;
        let container = described["backends"][0]["backend"]["container_id"].as_str();
        let container = container.with_context(|| format!("{described} has no container"))?;
        let deployed = Deployed {
            function,
            container: container.to_owned(),
        };
        let mut client = self.client().await?;
        let path = deployed.path();
        eventually("the frontend knows the function", SOON, async || {
            client.timed(&path).await
        })
        .await;
        Ok(deployed)
    }

    /// Waits until nothing is left of its container.
    pub(crate) async fn has_failed(&self, deployed: &Deployed) {
        let what = format!("container {} has failed", deployed.container);
        eventually(&what, SOON, async || {
            let described = self.0.function(&deployed.function).await?;
            let failed = described["backends"][0]["status"] == "Failed";
            ensure!(failed, "{described}");
            Ok(())
        })
        .await;
    }

    /// The process id of its program on this machine.
    pub(crate) async fn program(&self, deployed: &Deployed) -> Result<u32> {
        let tasks = self.0.containerd.tasks(&self.0.nodes[0].namespace).await?;
        let pid = tasks.get(&deployed.container).copied();
        pid.with_context(|| format!("container {} does not run", deployed.container))
    }
}
