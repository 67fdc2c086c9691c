//! Configures and starts a cluster: servers side by side, then the environment, then the daemons.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};

use super::{
    Cluster, ClusterDir, ClusterPorts, ENVIRONMENT, Engines, Node, Services, ctl, succeeded,
};
use crate::daemon::{Daemon, flags, static_program};
use crate::{Containerd, Image, Registry, ZooKeeper, image, ports, run};

/// How many svcproviders a cluster has, and on which engines.
#[derive(Debug, Clone)]
enum ServicesLayout {
    None,
    /// One for all nodes, on embedded engines.
    One,
    /// One for each node.
    OneEach(Engines),
}

/// What a cluster is made of before it starts.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    nodes: u8,
    images: Vec<(String, Image)>,
    runtime: String,
    bismuthd_args: Vec<String>,
    bismuthd_env: Vec<(String, String)>,
    frontend_args: Vec<String>,
    services: ServicesLayout,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            nodes: 1,
            images: Vec::new(),
            // The faster one. It works here although bismuthd, outside containerd's mount namespace, cannot tell.
            runtime: "crun".into(),
            bismuthd_args: Vec::new(),
            bismuthd_env: Vec::new(),
            frontend_args: Vec::new(),
            services: ServicesLayout::None,
        }
    }
}

impl Builder {
    /// How many nodes.
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// One more image in the registry, as `REPOSITORY:TAG`; `library/alpine:latest` (busybox) and
    /// `library/echo-server:latest` are always there.
    pub fn image(mut self, name: &str, image: Image) -> Self {
        self.images.push((name.into(), image));
        self
    }

    /// The OCI runtime behind containerd: `crun` unless told otherwise.
    pub fn runtime(mut self, runtime: &str) -> Self {
        self.runtime = runtime.into();
        self
    }

    /// More arguments for every bismuthd.
    pub fn bismuthd_args(mut self, args: &[&str]) -> Self {
        self.bismuthd_args
            .extend(args.iter().map(ToString::to_string));
        self
    }

    /// One more variable in the environment of every bismuthd.
    pub fn bismuthd_env(mut self, name: &str, value: &str) -> Self {
        self.bismuthd_env.push((name.into(), value.into()));
        self
    }

    /// More arguments for bismuthfe.
    pub fn frontend_args(mut self, args: &[&str]) -> Self {
        self.frontend_args
            .extend(args.iter().map(ToString::to_string));
        self
    }

    /// With one svcprovider, which all nodes share, on embedded engines.
    pub fn services(mut self) -> Self {
        self.services = ServicesLayout::One;
        self
    }

    /// With one svcprovider for each node, all on these engines.
    pub fn services_on(mut self, engines: Engines) -> Self {
        self.services = ServicesLayout::OneEach(engines);
        self
    }

    /// Starts everything and waits until all of it is ready.
    /// Fails when a part does not become ready, with its log.
    pub async fn start(self) -> Result<Cluster> {
        let dir = ClusterDir(run::subdir("cluster")?);
        let (zookeeper, containerd, registry) = tokio::try_join!(
            ZooKeeper::start(),
            Containerd::start(),
            self.start_registry()
        )?;
        let servers = zookeeper.connect_string();
        let ips: Vec<Ipv4Addr> = (1..=self.nodes)
            .map(|last| Ipv4Addr::new(127, 0, 0, last))
            .collect();
        provision(&servers, &ips).await?;

        let ports = ClusterPorts {
            frontend: ports::reserve()?,
            frontend_admin: ports::reserve()?,
            api: ports::reserve()?,
            node: ports::reserve()?,
        };
        let services = self.start_services(&dir.0, &servers).await?;
        let mut nodes = Vec::new();
        for (ip, number) in ips.into_iter().zip(1_u8..) {
            // Its own, or the one for all.
            let own = services.get(usize::from(number) - 1).or(services.first());
            nodes.push(self.start_node(
                &dir.0,
                number,
                ip,
                &servers,
                &containerd,
                &registry,
                ports,
                own,
            )?);
        }
        let api = start_api(&dir.0, &servers, ports, services.first())?;
        let frontend = self.start_frontend(&dir.0, &servers, ports)?;
        let cluster = Cluster {
            frontend,
            api,
            nodes,
            services,
            containerd,
            registry,
            zookeeper,
            ports,
            dir,
        };
        for node in &cluster.nodes {
            node.ready().await?;
        }
        cluster.api_ready().await?;
        cluster.frontend_ready().await?;
        Ok(cluster)
    }

    async fn start_services(&self, dir: &Path, zookeeper: &str) -> Result<Vec<Services>> {
        let mut all = Vec::new();
        match &self.services {
            ServicesLayout::None => {}
            ServicesLayout::One => all.push(Services::start(dir, zookeeper, ENVIRONMENT).await?),
            ServicesLayout::OneEach(engines) => {
                let keys = dir.join("keys/master.keys");
                for number in 1..=self.nodes {
                    let dir = dir.join(format!("p{number}"));
                    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
                    let started =
                        Services::start_on(&dir, zookeeper, ENVIRONMENT, engines, &keys).await?;
                    all.push(started);
                }
            }
        }
        Ok(all)
    }

    async fn start_registry(&self) -> Result<Registry> {
        let registry = Registry::start().await?;
        let alpine = ("library/alpine:latest".into(), image::alpine()?);
        let server = ("library/echo-server:latest".into(), image::static_server()?);
        for (name, image) in [alpine, server].iter().chain(&self.images) {
            registry.push(name, image).await?;
        }
        Ok(registry)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one flag of the daemon")]
    fn start_node(
        &self,
        dir: &Path,
        number: u8,
        ip: Ipv4Addr,
        zookeeper: &str,
        containerd: &Containerd,
        registry: &Registry,
        ports: ClusterPorts,
        services: Option<&Services>,
    ) -> Result<Node> {
        let namespace = match number {
            1 => "bismuth".to_owned(),
            _ => format!("bismuth-{number}"),
        };
        let name = format!("bismuthd-{number}");
        // Short: the paths of sockets below it must fit into 107 bytes.
        let state_dir = dir.join(format!("n{number}"));
        fs::create_dir(&state_dir).with_context(|| format!("create {}", state_dir.display()))?;
        let admin_port = ports::reserve()?;
        // Not the machine's own, should there be one.
        let none = state_dir.join("svcprovider.sock");
        let services = services.map_or(none.as_path(), Services::socket);
        let init = static_program("bismuth-init")?;
        let mut args = common(zookeeper);
        args.extend(flags([
            ("--node-ip", ip.to_string()),
            ("--listen", format!("{ip}:{}", ports.node)),
            ("--admin-listen", format!("127.0.0.1:{admin_port}")),
            ("--containerd", containerd.socket().display().to_string()),
            ("--containerd-namespace", namespace.clone()),
            ("--state-dir", state_dir.display().to_string()),
            ("--svcprovider-socket", services.display().to_string()),
            ("--init", init.display().to_string()),
            ("--runtime", self.runtime.clone()),
            ("--registry-mirror", format!("docker.io={}", registry.url())),
        ]));
        args.extend(self.bismuthd_args.clone());
        let daemon = Daemon::spawn_with(dir, &name, "bismuthd", args, &self.bismuthd_env)?;
        Ok(Node {
            daemon,
            name,
            ip,
            admin_port,
            namespace,
            state_dir,
        })
    }

    fn start_frontend(&self, dir: &Path, zookeeper: &str, ports: ClusterPorts) -> Result<Daemon> {
        let mut args = common(zookeeper);
        let snapshot = dir.join("bismuthfe.snapshot");
        args.extend(flags([
            ("--listen", format!("127.0.0.1:{}", ports.frontend)),
            (
                "--admin-listen",
                format!("127.0.0.1:{}", ports.frontend_admin),
            ),
            ("--node-port", ports.node.to_string()),
            ("--snapshot", snapshot.display().to_string()),
        ]));
        args.extend(self.frontend_args.clone());
        Daemon::spawn_in(dir, "bismuthfe", "bismuthfe", args)
    }
}

fn start_api(
    dir: &Path,
    zookeeper: &str,
    ports: ClusterPorts,
    services: Option<&Services>,
) -> Result<Daemon> {
    let mut args = common(zookeeper);
    args.extend(flags([
        ("--listen", format!("127.0.0.1:{}", ports.api)),
        ("--node-port", ports.node.to_string()),
    ]));
    let operator = services.map(Services::operator).into_iter().flatten();
    let operator: Vec<_> = operator.map(|(name, it)| (name.to_owned(), it)).collect();
    Daemon::spawn_with(dir, "bismuth-api", "bismuth-api", args, &operator)
}

/// Flags that every daemon has.
fn common(zookeeper: &str) -> Vec<String> {
    flags([
        ("--zookeeper", zookeeper.into()),
        ("--zookeeper-env", ENVIRONMENT.into()),
        ("--log-format", "text".into()),
    ])
}

async fn provision(zookeeper: &str, ips: &[Ipv4Addr]) -> Result<()> {
    let run = async |args: &[&str]| succeeded(args, &ctl(zookeeper, &[], args, &[]).await?);
    run(&["bootstrap"]).await?;
    for ip in ips {
        run(&["provision", &ip.to_string()]).await?;
    }
    Ok(())
}
