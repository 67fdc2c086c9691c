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

use anyhow::{Context, Result, bail};
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::tonic::transport::Channel;

use crate::process::{Process, Program};
use crate::{eventually, run};

/// It serves within half a second; a loaded machine may take longer.
const START_BOUND: Duration = Duration::from_secs(30);
const STOP_BOUND: Duration = Duration::from_secs(15);

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
#[derive(Debug)]
pub struct Containerd {
    dir: PathBuf,
    process: Option<Process>,
}

impl Containerd {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not answer.
    pub async fn start() -> Result<Self> {
        let dir = run::subdir("containerd")?;
        for name in ["root", "state", "run"] {
            fs::create_dir(dir.join(name))
                .with_context(|| format!("create {name} in {}", dir.display()))?;
        }
        let config = dir.join("config.toml");
        fs::write(&config, configuration(&dir))
            .with_context(|| format!("write {}", config.display()))?;
        let mut containerd = Self { dir, process: None };
        containerd.launch().await?;
        Ok(containerd)
    }

    /// The gRPC socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Its directory. Mounts made below it on the host are seen by containers.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new directory below [`dir`](Self::dir), for state whose mounts containers must see.
    ///
    /// # Errors
    ///
    /// When it exists or cannot be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// A channel to its gRPC services.
    ///
    /// # Errors
    ///
    /// When it does not listen.
    pub async fn connect(&self) -> Result<Channel> {
        let socket = self.socket();
        containerd_client::connect(&socket)
            .await
            .with_context(|| format!("connect to {}", socket.display()))
    }

    /// Kills containerd alone (`SIGKILL`); shims and containers live on. Harmless when it is down.
    ///
    /// # Errors
    ///
    /// When it does not die.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await.map(drop),
            None => Ok(()),
        }
    }

    /// Ends containerd alone (`SIGTERM`); shims and containers live on. Harmless when it is down.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub async fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.terminate(STOP_BOUND).await.map(drop),
            None => Ok(()),
        }
    }

    /// Starts it again on its socket and its state, killing it first if it runs.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.launch().await
    }

    /// The process; paused, it accepts connections and never answers.
    ///
    /// # Errors
    ///
    /// When it is down.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("this containerd is down")
    }

    async fn launch(&mut self) -> Result<()> {
        let program = Program::new("containerd", "unshare", &self.dir)
            .args([
                "--mount",
                "--propagation",
                "slave",
                "sh",
                "-c",
                IN_PRIVATE_NAMESPACE,
                "containerd",
            ])
            .arg(self.dir.join("run"))
            .args(["containerd", "--config"])
            .arg(self.dir.join("config.toml"));
        let process = self.process.insert(program.spawn()?);
        let socket = self.dir.join("containerd.sock");
        let answers = eventually::within(START_BOUND, async || {
            if let Err(error) = process.check_alive() {
                return Ok(Err(error));
            }
            let channel = containerd_client::connect(&socket)
                .await
                .map_err(|error| format!("{error:?}"))?;
            let version = VersionClient::new(channel).version(()).await;
            version.map(|_| Ok(())).map_err(|status| status.to_string())
        });
        match answers.await {
            Ok(answer) => answer,
            Err(reason) => bail!(
                "containerd does not answer: {reason}; its log ends:\n{}",
                process.log_tail()
            ),
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.process = None;
        if let Err(error) = run::remove(&self.dir) {
            eprintln!("containerd's directory: {error:#}");
        }
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
