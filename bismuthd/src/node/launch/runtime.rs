//! Chooses the OCI runtime that containerd uses: crun or runc.
//!
//! crun starts a container in half of runc's time, and refuses machines on which control groups of both versions are mounted. What counts
//! is what containerd's own mount namespace shows: it may have one to itself in which only one version is left.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use bismuth_sandbox::cgroup;
use tracing::{info, warn};

/// What the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedRuntime {
    /// crun where it is installed and works, else runc.
    Auto,
    /// This name or path.
    Named(String),
}

impl FromStr for WantedRuntime {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            name => Self::Named(name.to_owned()),
        })
    }
}

/// The choice for the containerd that serves now.
pub(super) struct Runtime {
    wanted: WantedRuntime,
    /// The process id of the containerd that was looked at, and what was chosen for it.
    chosen: Mutex<Option<(u32, String)>>,
}

impl Runtime {
    pub(super) fn new(wanted: WantedRuntime) -> Self {
        Self {
            wanted,
            chosen: Mutex::new(None),
        }
    }

    /// The runtime's name or path for a containerd with this process id. Looks at a mount table the first time.
    pub(super) fn binary_for(&self, containerd: u32) -> String {
        if let WantedRuntime::Named(name) = &self.wanted {
            return name.clone();
        }
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((pid, binary)) = &*chosen
            && *pid == containerd
        {
            return binary.clone();
        }
        let binary = choose(containerd).to_owned();
        info!(containerd, binary, "chose the OCI runtime");
        *chosen = Some((containerd, binary.clone()));
        binary
    }
}

fn choose(containerd: u32) -> &'static str {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("crun").is_file()) {
        return "runc";
    }
    match cgroup::detect_for(containerd) {
        Ok(seen) if seen.version().crun_usable() => "crun",
        Ok(_) => "runc",
        Err(error) => {
            warn!(%error, "cannot see which control groups containerd sees, runc works with all");
            "runc"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_the_operator_names_is_used() {
        let Ok(wanted) = "/opt/runtime".parse::<WantedRuntime>();
        assert_eq!(Runtime::new(wanted).binary_for(1), "/opt/runtime");
    }

    #[test]
    fn the_runtime_is_chosen_once_for_each_containerd_process() {
        let Ok(wanted) = "auto".parse::<WantedRuntime>();
        let runtime = Runtime::new(wanted);
        let first = runtime.binary_for(std::process::id());
        let kept = runtime.chosen.lock().unwrap().clone();
        assert_eq!(kept, Some((std::process::id(), first)));
        // A process that is not there shows no mounts: the runtime that works with all.
        assert_eq!(runtime.binary_for(u32::MAX), "runc");
    }
}
