//! The harness: a containerd, a namespace pair, a busybox root, and checks for what is left of a container.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bismuth_containerd::spec::{self, IdMapping, SpecInput};
use bismuth_containerd::tasks::{NewContainer, Stdio, Tasks};
use bismuth_containerd::{Containerd, Deadlines, TaskEvent, TaskEvents};
use bismuth_testkit::process::{Process, Program};
use bismuth_testkit::{Containerd as Server, eventually};
use futures_util::StreamExt;
use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// The host ids of the test containers; nothing else on the machine has them.
const IDS: IdMapping = IdMapping {
    container: 0,
    host: 1_500_000,
    size: 65_536,
};
/// Long on an idle machine, short on one that builds three crates beside the test.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A containerd with a client, and what its containers need.
pub struct Harness {
    pub server: Server,
    pub client: Containerd,
    root: PathBuf,
    namespaces: Process,
    nofile: u64,
    serial: AtomicU32,
}

impl Harness {
    pub async fn start() -> Result<Self> {
        Self::with_deadlines(|_| {}).await
    }

    pub async fn with_deadlines(change: impl FnOnce(&mut Deadlines)) -> Result<Self> {
        let mut deadlines = Deadlines::default();
        change(&mut deadlines);
        let server = Server::start().await?;
        let client = Containerd::connect(&server.socket(), "bismuth-test", deadlines)?;
        let root = busybox_root(&server.scratch("rootfs")?)?;
        let namespaces = spawn_namespace_holder(&server).await?;
        let nofile = client
            .server_process()
            .await?
            .nofile
            .min(spec::DEFAULT_NOFILE_LIMIT);
        Ok(Self {
            nofile,
            server,
            client,
            root,
            namespaces,
            serial: AtomicU32::new(0),
        })
    }

    /// A container that runs a shell script as an unprivileged user.
    pub fn container(&self, script: &str) -> Result<NewContainer> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}-{serial}", std::process::id());
        let holder = PathBuf::from(format!("/proc/{}/ns", self.namespaces.pid()));
        let input = SpecInput {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["PATH=/bin".to_owned()],
            cwd: "/".into(),
            uid: 1000,
            gid: 1000,
            additional_gids: Vec::new(),
            hostname: "function".to_owned(),
            root_path: self.root.clone(),
            uid_map: vec![IDS],
            gid_map: vec![IDS],
            userns_path: holder.join("user"),
            netns_path: holder.join("net"),
            cgroups_path: format!("/bismuth/{id}").into(),
            cpu: 1.0,
            memory: 64 << 20,
            limit_swap: true,
            pids: spec::DEFAULT_PIDS_LIMIT,
            nofile: self.nofile,
            oom_score_adj: spec::DEFAULT_OOM_SCORE_ADJ,
            shm_bytes: spec::DEFAULT_SHM_BYTES,
            mounts: Vec::new(),
            tmpfs_mounts: Vec::new(),
            seccomp: None,
            id: id.clone(),
        };
        Ok(NewContainer {
            spec: spec::build(&input)?,
            id,
            image: None,
            labels: HashMap::from([("bismuth.test".to_owned(), "yes".to_owned())]),
            runtime: "runc".to_owned(),
        })
    }

    /// The harness's events from now on.
    pub async fn events(&self) -> Result<TaskEvents> {
        let mut events = self.client.events();
        let first = tokio::time::timeout(TIMEOUT, events.next()).await;
        let first = first.context("not subscribed")?;
        ensure!(
            first == Some(TaskEvent::Lost),
            "the first item must say that the list is stale: {first:?}"
        );
        Ok(events)
    }

    /// Creates and starts the container; returns its id and pid.
    pub async fn run(&self, container: NewContainer) -> Result<(String, u32)> {
        self.run_with(container, Stdio::null()).await
    }

    pub async fn run_with(&self, container: NewContainer, stdio: Stdio) -> Result<(String, u32)> {
        let id = container.id.clone();
        self.client.create_container(container).await?;
        let pid = self.client.create_task(&id, stdio).await?;
        self.client.start(&id).await?;
        Ok((id, pid))
    }

    /// A FIFO and its reading end.
    pub fn fifo(&self, name: &str) -> Result<(PathBuf, pipe::Receiver)> {
        let path = self.server.dir().join(name);
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))
            .with_context(|| format!("make FIFO {}", path.display()))?;
        // Read and write: it stays open while the shim comes and goes.
        let receiver = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(&path)?;
        Ok((path, receiver))
    }

    /// Tears a container down, and waits until nothing of it is left.
    pub async fn remove(&self, id: &str) -> Result<()> {
        self.client.teardown(id).await?;
        eventually("nothing is left", TIMEOUT, async || {
            self.check_nothing_left(id).await
        })
        .await;
        Ok(())
    }

    /// Fails unless nothing of the container is left: process, shim, bundle, cgroup, record.
    pub async fn check_nothing_left(&self, id: &str) -> Result<()> {
        let records = self.client.list_containers().await?;
        ensure!(records.iter().all(|c| c.id != id), "its record is left");
        let tasks = self.client.list_tasks().await?;
        ensure!(tasks.iter().all(|t| t.id != id), "its task is left");
        let shims = shims_of(id)?;
        ensure!(shims.is_empty(), "its shim is left: {shims:?}");
        let left: Vec<_> = self.leftover_dirs(id)?;
        ensure!(left.is_empty(), "these are left: {left:?}");
        Ok(())
    }

    /// Directories that exist while the container does: its bundle and its cgroups.
    pub fn leftover_dirs(&self, id: &str) -> Result<Vec<PathBuf>> {
        let mut leftover_dirs: Vec<PathBuf> = ["state", "root"]
            .iter()
            .map(|base| self.server.dir().join(base))
            .map(|base| {
                base.join("io.containerd.runtime.v2.task/bismuth-test")
                    .join(id)
            })
            .collect();
        for controller in fs::read_dir("/sys/fs/cgroup").context("list the cgroup mounts")? {
            leftover_dirs.push(controller?.path().join("bismuth").join(id));
        }
        leftover_dirs.push(Path::new("/sys/fs/cgroup/bismuth").join(id));
        leftover_dirs.retain(|path| path.exists());
        Ok(leftover_dirs)
    }
}

/// The processes whose command line has `-id {id}`: shims, while they live.
pub fn shims_of(id: &str) -> Result<Vec<u32>> {
    let wanted = format!("-id\0{id}\0");
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")? {
        let path = entry?.path();
        let pid = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let (Some(pid), Ok(command)) = (pid, fs::read(path.join("cmdline"))) else {
            continue;
        };
        if String::from_utf8_lossy(&command).contains(&wanted) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// The next event that is not `Lost`.
pub async fn next_event(events: &mut TaskEvents) -> Result<TaskEvent> {
    let wanted = async {
        loop {
            match events.next().await {
                Some(TaskEvent::Lost) => {}
                Some(event) => return Ok(event),
                None => anyhow::bail!("the event stream ended"),
            }
        }
    };
    tokio::time::timeout(TIMEOUT, wanted)
        .await
        .context("no event")?
}

/// The container, pid and status of the next event, which is an exit.
pub async fn next_exit(events: &mut TaskEvents) -> Result<(String, u32, u32)> {
    match next_event(events).await? {
        TaskEvent::Exit {
            id, pid, status, ..
        } => Ok((id, pid, status)),
        other => anyhow::bail!("not an exit: {other:?}"),
    }
}

/// Reads until the output ends with `end`, and returns all of it.
pub async fn read_until(output: &mut pipe::Receiver, end: &str) -> Result<String> {
    let mut text = String::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !text.ends_with(end) {
            let n = output.read(&mut buffer).await?;
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(TIMEOUT, read).await {
        Ok(read) => read.map(|()| text),
        Err(_) => anyhow::bail!("the output does not end with {end:?}: {text:?}"),
    }
}

/// A root file system that is a busybox and the directories a container needs.
fn busybox_root(root: &Path) -> Result<PathBuf> {
    for dir in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir(root.join(dir))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("copy /bin/busybox")?;
    for applet in [
        "sh", "sleep", "cat", "echo", "true", "id", "kill", "head", "tail", "mount",
    ] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    // The mapped root makes mount points in it.
    for dir in ["", "bin", "proc", "sys", "dev", "tmp", "etc"] {
        let path = root.join(dir);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::chown(&path, Some(IDS.host), Some(IDS.host))?;
    }
    Ok(root.to_owned())
}

/// A process that does nothing but keep a user namespace and a network namespace owned by it.
async fn spawn_namespace_holder(server: &Server) -> Result<Process> {
    let host = fs::read_link("/proc/self/ns/net")?;
    let holder = Program::new("namespaces", "unshare", server.dir())
        .args(["--user", "--net", "sleep", "infinity"])
        .spawn()?;
    let proc = PathBuf::from(format!("/proc/{}", holder.pid()));
    eventually("the namespaces exist", TIMEOUT, async || {
        let own = fs::read_link(proc.join("ns/net")).map_err(|error| error.to_string())?;
        if own == host {
            Err("still in the host's".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    let map = format!("{} {} {}", IDS.container, IDS.host, IDS.size);
    for file in ["uid_map", "gid_map"] {
        fs::write(proc.join(file), &map).with_context(|| format!("write {file}"))?;
    }
    Ok(holder)
}
