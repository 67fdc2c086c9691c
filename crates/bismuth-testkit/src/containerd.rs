//! A real containerd with its own root, state and socket, beside whatever runs on the machine.
//!
//! It runs in a private mount namespace, because
//!
//! - crun refuses machines that have a cgroup2 mount beside cgroup v1 controllers, so
//!   `/sys/fs/cgroup/unified` is unmounted there and only there;
//! - shims put their sockets into `/run/containerd/s` and runc's state into `/run/containerd/runc`, whatever
//!   containerd's own state directory is; both are bound there to our own directory.
//!
//! The namespace is a *slave* of the host's, and the run directory is a shared mount: what bismuthd mounts
//! below [`Containerd::dir`] appears inside, and nothing that containerd mounts appears outside.

mod inventory;

pub use inventory::Inventory;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::tonic::transport::Channel;

use crate::process::Program;
use crate::server::{Kind, Server};

/// `$1` is our directory for what shims keep in `/run/containerd`, the rest is the command.
const IN_PRIVATE_NAMESPACE: &str = r#"
umount /sys/fs/cgroup/unified 2>/dev/null
for name in s runc; do
    mkdir -p /run/containerd/$name "$1/$name" && mount --bind "$1/$name" /run/containerd/$name || exit 1
done
shift
exec "$@"
"#;

/// A containerd of our own. Dropping it kills its shims and containers too.
pub type Containerd = Server<ContainerdKind>;

/// See [`Containerd`].
#[derive(Debug)]
pub struct ContainerdKind;

impl Kind for ContainerdKind {
    const NAME: &'static str = "containerd";
    // It serves within half a second; a loaded machine may take longer.
    const START_BOUND: Duration = Duration::from_secs(30);

    fn program(server: &Containerd) -> Result<Program> {
        let private = ["--mount", "--propagation", "slave", "sh", "-c"];
        Ok(Program::new("containerd", "unshare", server.dir())
            .args(private)
            .args([IN_PRIVATE_NAMESPACE, "containerd"])
            .arg(server.dir().join("run"))
            .args(["containerd", "--config"])
            .arg(server.dir().join("config.toml")))
    }

    async fn probe(server: &Containerd) -> Result<()> {
        let mut client = VersionClient::new(server.connect().await?);
        client.version(()).await?;
        Ok(())
    }
}

impl Containerd {
    /// Starts one and waits until it answers. Fails when it is not installed.
    pub async fn start() -> Result<Self> {
        let containerd = Self::new(ContainerdKind)?;
        for name in ["root", "state", "run"] {
            containerd.scratch(name)?;
        }
        let config = containerd.dir().join("config.toml");
        fs::write(&config, configuration(containerd.dir()))
            .with_context(|| format!("write {}", config.display()))?;
        containerd.started().await
    }

    /// The gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("containerd.sock")
    }

    /// A new directory below [`dir`](Self::dir), where mounts made on the host are seen by containers.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir().join(name);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// A channel to its gRPC services. Fails when it does not listen.
    pub async fn connect(&self) -> Result<Channel> {
        let socket = self.socket();
        containerd_client::connect(&socket)
            .await
            .with_context(|| format!("connect to {}", socket.display()))
    }
}

/// Only what we use: no CRI, no other snapshotters, nothing outside `dir`.
fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{dir}/containerd.sock"
[debug]
  level = "warn"
"#
    )
}
