//! The reference for cold starts: `runc run` or `crun run` of the same files, up to the first answer.
//!
//! It has a mount, pid, ipc and uts namespace of its own, but neither a user nor a network namespace (its loopback
//! would be down, so that nobody could ask it), no logs, no memory limit, and nobody who watches it: a reference that
//! does less than we must.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_testkit::daemon::static_program;
use bismuth_testkit::{ports, run};
use serde_json::{Value, json};

use crate::cold::first_answer;

/// A static server listens a millisecond after its start.
const BOUND: Duration = Duration::from_secs(10);
/// The one container, here and below the cgroup that bismuthd's containers share.
const ID: &str = "bench-reference";

/// An OCI runtime with a bundle that it can run.
pub(crate) struct Runtime {
    name: &'static str,
    dir: PathBuf,
    /// In the mount namespace of this process, which has no cgroup v2 mount beside v1: crun refuses both at once.
    beside: u32,
    port: u16,
}

impl Runtime {
    /// Makes the bundle: the same files as the image of the server.
    pub(crate) fn prepare(name: &'static str, beside: u32) -> Result<Self> {
        let runtime = Self {
            name,
            dir: run::subdir(name)?,
            beside,
            port: ports::reserve()?,
        };
        let root = runtime.dir.join("bundle/rootfs");
        for dir in ["proc", "sys", "dev", "etc", "run", "var", "tmp"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        fs::copy(static_program("echo-server")?, root.join("echo-server"))
            .with_context(|| format!("copy the server into {}", root.display()))?;
        runtime.configure()?;
        Ok(runtime)
    }

    /// The runtime's own example, with our program and without what needs more than the machine's defaults.
    fn configure(&self) -> Result<()> {
        let bundle = self.dir.join("bundle");
        self.run(&["spec"])?;
        let path = bundle.join("config.json");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut config: Value = serde_json::from_slice(&text)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/echo-server", "--port", self.port.to_string()]);
        config["linux"]["cgroupsPath"] = json!(format!("/bismuth/{ID}"));
        remove(&mut config["linux"]["namespaces"], "network");
        remove(&mut config["linux"]["namespaces"], "cgroup");
        remove(&mut config["mounts"], "cgroup");
        fs::write(&path, config.to_string()).with_context(|| format!("write {}", path.display()))
    }

    /// How long it takes from starting the runtime to the server's first answer. Nothing is left.
    pub(crate) async fn first_answer(&self) -> Result<Duration> {
        let began = Instant::now();
        let started = self.run(&["run", "--detach", ID]);
        let authority = format!("127.0.0.1:{}", self.port);
        let answered = match started {
            Ok(()) => first_answer(&authority, "/", BOUND).await,
            Err(error) => Err(error),
        };
        let took = began.elapsed();
        let deleted = self.run(&["delete", "--force", ID]);
        answered?;
        deleted?;
        Ok(took)
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        // Files, not pipes: the container would keep the pipes open, and we would wait for their end.
        let output = self.dir.join("output");
        let file =
            fs::File::create(&output).with_context(|| format!("create {}", output.display()))?;
        let status = Command::new("nsenter")
            .arg(format!("--mount=/proc/{}/ns/mnt", self.beside))
            .arg(format!("--wdns={}", self.dir.join("bundle").display()))
            .arg(self.name)
            .arg("--root")
            .arg(self.dir.join("state"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("run {}", self.name))?;
        let said = fs::read_to_string(&output).unwrap_or_default();
        ensure!(status.success(), "{status} {}", said.trim());
        Ok(())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Err(error) = run::remove(&self.dir) {
            eprintln!("{}'s directory: {error:#}", self.name);
        }
    }
}

/// Takes the entries of that type out of a list of mounts or namespaces.
fn remove(list: &mut Value, kind: &str) {
    if let Some(list) = list.as_array_mut() {
        list.retain(|entry| entry["type"] != kind);
    }
}
