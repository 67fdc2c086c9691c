//! The ground a container stands on: namespaces, root filesystem, user, log. Made before its task
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
use crate::services;

/// The directory, in a container's own, that holds the socket of bismuth-init.
pub(super) const RUN: &str = "run";
/// How long the kernel may take to let go of an empty cgroup.
const CGROUP_BOUND: Duration = Duration::from_secs(2);

/// What the ground shall be like.
#[derive(Debug)]
pub(super) struct Wish {
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

/// What the task will stand on.
pub(super) struct Ground {
    pub namespaces: Namespaces,
    pub root: PathBuf,
    pub user: User,
    /// Taken by whoever runs it.
    pub pump: Option<Pump>,
    /// The socket of its services, taken by whoever has it served.
    pub door: Option<OwnedFd>,
}

/// Makes the ground. What an earlier attempt left in the directory is removed first.
pub(super) fn make(wish: &Wish) -> Result<Ground, LaunchError> {
    std::fs::create_dir_all(&wish.dir).map_err(failed("make directory", &wish.dir))?;
    let namespaces = Namespaces::create(&wish.dir, wish.ids).map_err(LaunchError::Namespaces)?;
    // Before the program runs, so that its first connection finds it.
    let door = services::listen(namespaces.net_fd()).map_err(LaunchError::Services)?;
    let root = rootfs::mount(&RootfsSpec {
        lower_dirs: wish.layers.clone(),
        dir: wish.dir.clone(),
        user_ns: namespaces.user_fd(),
        ids: wish.ids,
        disk_bytes: wish.disk_bytes,
    })
    .map_err(LaunchError::Rootfs)?;
    let user = user::resolve(&root, wish.user.as_deref())?;
    let owner = host_owner(wish.ids, &user);
    if wish.init {
        let run = wish.dir.join(RUN);
        bismuth_init::host::prepare(&run, owner.0, owner.1).map_err(failed("prepare", &run))?;
    }
    let pump = pump::open(&wish.dir, owner, &wish.log_dir, wish.log_limits)?;
    Ok(Ground {
        namespaces,
        root,
        user,
        pump: Some(pump),
        door: Some(door),
    })
}

/// Removes the ground of a container whose task is gone; tries everything and logs every error.
/// Returns whether nothing is left. What is remembered of the container stays.
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
    cgroup::detect()?.container(&id.to_string())
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
