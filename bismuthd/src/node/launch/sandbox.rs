//! The sandbox of a container: namespaces, root filesystem, user, log, service socket. Made before its task
//! and removed after it. Everything here blocks.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bismuth_model::ContainerId;
use bismuth_sandbox::cgroup::{self, Cgroup};
use bismuth_sandbox::ids::IdRange;
use bismuth_sandbox::mounts;
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::rootfs::{self, RootfsSpec};
use tracing::warn;

use super::error::LaunchError;
use super::user::{self, User};
use crate::logs::cri::Stream;
use crate::logs::pump::{self, Pump, fifo_path};
use crate::logs::rotate::Limits;
use crate::node::state_dir;
use crate::services;

/// The directory, in a container's own, that holds the socket of bismuth-init.
pub(super) const RUN: &str = "run";
/// How long the kernel may take to let go of an empty cgroup.
const CGROUP_BOUND: Duration = Duration::from_secs(2);

/// What a sandbox is made of.
#[derive(Debug)]
pub(super) struct SandboxSpec {
    pub dir: PathBuf,
    pub log_dir: PathBuf,
    pub log_limits: Limits,
    /// Root directories of the image's layers, topmost first.
    pub layers: Vec<PathBuf>,
    pub disk_bytes: u64,
    /// `user[:group]` as the definition or the image says.
    pub user: Option<String>,
    pub ids: IdRange,
    /// Whether bismuth-init will run in it.
    pub init: bool,
}

/// What the task runs in.
pub(super) struct Sandbox {
    pub ids: IdRange,
    pub namespaces: Namespaces,
    pub root: PathBuf,
    pub user: User,
}

/// A sandbox, and what others serve of it.
pub(super) struct MadeSandbox {
    pub sandbox: Sandbox,
    /// Moves the output of the container into its log.
    pub pump: Pump,
    /// Takes the connections to its services.
    pub service_socket: OwnedFd,
}

/// Makes the sandbox. What is left of one that failed half-way is for [`remove`].
pub(super) fn make(spec: &SandboxSpec) -> Result<MadeSandbox, LaunchError> {
    state_dir::make_container_dir(&spec.dir, spec.ids)?;
    let namespaces = Namespaces::create(&spec.dir, spec.ids).map_err(LaunchError::Namespaces)?;
    // Before the program runs, so that its first connection finds it.
    let service_socket = services::listen(namespaces.net_fd()).map_err(LaunchError::Services)?;
    let root = rootfs::mount(&RootfsSpec {
        lower_dirs: spec.layers.clone(),
        dir: spec.dir.clone(),
        user_ns: namespaces.user_fd(),
        ids: spec.ids,
        disk_bytes: spec.disk_bytes,
    })
    .map_err(LaunchError::Rootfs)?;
    let user = user::resolve(&root, spec.user.as_deref())?;
    let owner = host_owner(spec.ids, &user);
    if spec.init {
        let run = spec.dir.join(RUN);
        bismuth_init::host::prepare(&run, owner.0, owner.1).map_err(failed("prepare", &run))?;
    }
    let pump = pump::open(&spec.dir, owner, &spec.log_dir, spec.log_limits)?;
    let sandbox = Sandbox {
        ids: spec.ids,
        namespaces,
        root,
        user,
    };
    Ok(MadeSandbox {
        sandbox,
        pump,
        service_socket,
    })
}

/// Removes the sandbox of a container whose task is gone; tries everything and logs every error.
/// Returns whether nothing is left. What is saved of the container stays.
pub(super) fn remove(dir: &Path, id: ContainerId) -> bool {
    let mut errors = Vec::new();
    let mut note = |result: Result<(), String>| errors.extend(result.err());
    if dir.exists() {
        note(rootfs::unmount(dir).map_err(|e| e.to_string()));
        note(Namespaces::remove(dir).map_err(|e| e.to_string()));
        note(mounts::unmount_under(dir).map_err(|e| e.to_string()));
        for stream in [Stream::Stdout, Stream::Stderr] {
            note(gone(std::fs::remove_file(fifo_path(dir, stream))).map_err(|e| e.to_string()));
        }
        note(gone(std::fs::remove_dir_all(dir.join(RUN))).map_err(|e| e.to_string()));
    }
    note(remove_cgroup(id));
    for error in &errors {
        warn!(container = %id, error, "cannot remove a part of a container");
    }
    errors.is_empty()
}

fn cgroup_of(id: ContainerId) -> Result<Cgroup, cgroup::Error> {
    cgroup::detect()?.container_cgroup(&id.to_string())
}

fn remove_cgroup(id: ContainerId) -> Result<(), String> {
    let cgroup = cgroup_of(id).map_err(|e| e.to_string())?;
    cgroup.remove(CGROUP_BOUND).map_err(|e| e.to_string())
}

/// Whether the kernel killed something in the container because its memory was used up.
pub(super) fn killed_for_memory(id: ContainerId) -> bool {
    match cgroup_of(id).and_then(|cgroup| cgroup.oom_kills()) {
        Ok(kills) => kills > 0,
        Err(error) => {
            tracing::debug!(container = %id, %error, "cannot tell whether it ran out of memory");
            false
        }
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Host uid and gid of the program.
pub(super) fn host_owner(range: IdRange, user: &User) -> (u32, u32) {
    // Ids above the range are refused when the user is resolved.
    let host = |id| range.host_id(id).unwrap_or(range.host_start);
    (host(user.uid), host(user.gid))
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let path = path.to_owned();
    move |source| LaunchError::Directory { act, path, source }
}
