//! The cgroup of a container. The OCI runtime makes it, at the path that the spec gives; it is removed here.

use std::path::PathBuf;
use std::time::Duration;

use bismuth_model::ContainerId;
use bismuth_sandbox::cgroup::{self, Cgroup, Error};

/// How long the kernel may take to let go of an empty cgroup.
const REMOVE_BOUND: Duration = Duration::from_secs(2);

/// Where the OCI runtime makes it.
pub(super) fn path_in_spec(id: ContainerId) -> PathBuf {
    cgroup::cgroups_path(&id.to_string())
}

fn of(id: ContainerId) -> Result<Cgroup, Error> {
    cgroup::detect()?.container_cgroup(&id.to_string())
}

pub(super) fn remove(id: ContainerId) -> Result<(), String> {
    let cgroup = of(id).map_err(|e| e.to_string())?;
    cgroup.remove(REMOVE_BOUND).map_err(|e| e.to_string())
}

/// Whether the kernel killed something in the container because its memory was used up.
pub(super) fn killed_for_memory(id: ContainerId) -> bool {
    match of(id).and_then(|cgroup| cgroup.oom_kills()) {
        Ok(kills) => kills > 0,
        Err(error) => {
            tracing::debug!(container = %id, %error, "cannot tell whether it ran out of memory");
            false
        }
    }
}
