//! Secrets reach the function that asked for them, and no disk, log or other process.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::Cluster;
use serde_json::{Value, json};

use crate::{ask, calls, cluster, python};

const CANARIES: usize = 20;
/// errno(3).
const EINVAL: i32 = 22;

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_found_on_a_disk_in_a_log_or_in_another_process() -> Result<()> {
    let mut cluster = cluster().await?;
    let scanner = ProcScanner::begin();
    let mut canaries = Vec::new();
    for number in 0..CANARIES {
        let value = canary();
        let name = format!("canary-{number}");
        cluster
            .ctl_ok_with(&["secret", "set", "zoo", &name, "-"], &value)
            .await?;
        canaries.push(value);
    }
    // Half of them are given at the start, one of those as a file too; all are read.
    let secrets: Vec<Value> = (0..CANARIES / 2)
        .map(|n| match n {
            0 => json!({ "name": "canary-0", "env": "CANARY_0", "file": "canary" }),
            n => json!({ "name": format!("canary-{n}"), "env": format!("CANARY_{n}") }),
        })
        .collect();
    let id = python(&cluster, "zoo", &json!({ "secrets": secrets })).await?;
    let server = cluster
        .deploy(&json!({
            "image": "docker.io/library/echo-server:latest",
            "invoke_mode": { "Server": [["/echo-server"], 8000] },
            "svc_group_id": "zoo",
            "secrets": [{ "name": "canary-1", "env": "CANARY_1" }],
        }))
        .await?;
    cluster.invoke(&server).await?;
    let names: Vec<String> = (0..CANARIES / 2).map(|n| format!("CANARY_{n}")).collect();
    let results = ask(&cluster, &id, &json!({ "calls": [], "env": names })).await?;
    for (name, value) in names.iter().zip(&canaries) {
        ensure!(
            results.0["env"][name] == value.as_str(),
            "{name}: {}",
            results.0["env"]
        );
    }
    ensure!(
        results.0["files"]["canary"] == canaries[0].as_str(),
        "{}",
        results.0["files"]
    );
    let reads: Vec<Value> = (0..CANARIES)
        .map(|n| json!(["GET", format!("/secrets/v1/canary-{n}")]))
        .collect();
    let results = calls(&cluster, &id, &json!(reads)).await?;
    for ((status, value), canary) in results.answers().into_iter().zip(&canaries) {
        ensure!(status == 200 && value == canary, "{status}");
    }

    // A new value for each, and the function reads that.
    for number in 0..CANARIES {
        let value = canary();
        let name = format!("canary-{number}");
        cluster
            .ctl_ok_with(&["secret", "rotate", "zoo", &name, "-"], &value)
            .await?;
        canaries.push(value);
    }
    let results = calls(&cluster, &id, &json!(reads)).await?;
    for ((status, value), canary) in results.answers().into_iter().zip(&canaries[CANARIES..]) {
        ensure!(status == 200 && value == canary, "{status}");
    }

    let tasks = cluster.containerd.tasks(&cluster.nodes[0].namespace);
    let tasks: BTreeSet<u32> = tasks.await?.into_values().collect();
    let findings = scanner.end()?;
    ensure!(findings.leaks.is_empty(), "in processes: {findings:?}");
    // Where they belong they are found: in the server, which is its container's first process, and in executions.
    ensure!(
        findings.functions.iter().any(|pid| tasks.contains(pid)),
        "not in the server: {findings:?}"
    );
    ensure!(
        findings.functions.iter().any(|pid| !tasks.contains(pid)),
        "not in an execution: {findings:?}"
    );
    ensure!(findings.scans > 20, "too few scans: {findings:?}");

    kill_everything(&mut cluster).await?;
    let mut found = Vec::new();
    // What is there is found.
    let decoy = cluster.dir().join("decoy");
    fs::write(&decoy, format!("before {} after", canaries[CANARIES]))?;
    search(cluster.dir(), &canaries, &mut found)?;
    ensure!(found == [decoy.as_path()], "{found:?}");
    fs::remove_file(&decoy)?;
    found.clear();
    for dir in [
        cluster.dir(),
        cluster.containerd.dir(),
        cluster.zookeeper.dir(),
    ] {
        search(dir, &canaries, &mut found)?;
    }
    ensure!(found.is_empty(), "on disk: {found:?}");
    Ok(())
}

/// As long as a password is, and in no text by chance.
fn canary() -> String {
    format!("canary{:032x}", fastrand::u128(..))
}

async fn kill_everything(cluster: &mut Cluster) -> Result<()> {
    cluster.frontend.kill().await?;
    cluster.api.kill().await?;
    cluster.services[0].daemon_mut().kill().await?;
    cluster.nodes[0].daemon.kill().await?;
    cluster.zookeeper.kill().await?;
    cluster.containerd.kill().await
}

/// Files that hold any of them.
fn search(dir: &Path, canaries: &[String], found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            search(&entry.path(), canaries, found)?;
        } else if kind.is_file() {
            let bytes = match fs::read(entry.path()) {
                // A pinned namespace, which holds no bytes.
                Err(error) if error.raw_os_error() == Some(EINVAL) => continue,
                read => read.with_context(|| format!("read {}", entry.path().display()))?,
            };
            if holds(&bytes, canaries) {
                found.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Looks at all processes again and again while the test goes on.
struct ProcScanner {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Findings>>,
}

/// What a [`ProcScanner`] has found.
#[derive(Debug, Default)]
struct Findings {
    /// Command lines, and environments outside of containers, that hold any of them.
    leaks: BTreeSet<String>,
    /// Processes in containers whose environment does.
    functions: BTreeSet<u32>,
    scans: usize,
}

impl ProcScanner {
    fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut findings = Findings::default();
                while !stop.load(Ordering::Relaxed) {
                    findings.scan()?;
                    std::thread::sleep(Duration::from_millis(10));
                }
                findings.scan()?;
                Ok(findings)
            }
        });
        Self { stop, thread }
    }

    fn end(self) -> Result<Findings> {
        self.stop.store(true, Ordering::Relaxed);
        let findings = self.thread.join();
        findings.map_err(|_panic| anyhow::anyhow!("the scanner panicked"))?
    }
}

impl Findings {
    fn scan(&mut self) -> Result<()> {
        let ours = fs::read_link("/proc/self/ns/user")?;
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let pid = path
                .file_name()
                .and_then(|name| name.to_str()?.parse::<u32>().ok());
            let Some(pid) = pid else { continue };
            // It may end while it is looked at.
            let read = |name: &str| fs::read(path.join(name)).unwrap_or_default();
            if holds_any(&read("cmdline")) {
                self.leaks.insert(format!("/proc/{pid}/cmdline"));
            }
            if holds_any(&read("environ")) {
                // A function's container has a user namespace of its own.
                match fs::read_link(path.join("ns/user")) {
                    Ok(namespace) if namespace == ours => {
                        self.leaks.insert(format!("/proc/{pid}/environ"));
                    }
                    Ok(_) => drop(self.functions.insert(pid)),
                    Err(_) => {}
                }
            }
        }
        self.scans += 1;
        Ok(())
    }
}

/// Whether there is anything that looks like [`canary`].
fn holds_any(bytes: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, b"canary").any(|at| {
        let rest = bytes.get(at + 6..at + 38);
        rest.is_some_and(|rest| rest.iter().all(u8::is_ascii_hexdigit))
    })
}

fn holds(bytes: &[u8], canaries: &[String]) -> bool {
    // They all begin alike: most files need one look.
    let mut rest = bytes;
    while let Some(at) = memchr::memmem::find(rest, b"canary") {
        rest = &rest[at..];
        if canaries
            .iter()
            .any(|canary| rest.starts_with(canary.as_bytes()))
        {
            return true;
        }
        rest = &rest[1..];
    }
    false
}
