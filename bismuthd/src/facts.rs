//! Collects the facts that a node registers with: cores, memory, versions.

use std::collections::BTreeMap;

use bismuth_containerd::Containerd;
use bismuth_model::NodeFacts;
use tracing::warn;

use crate::node::launch::Launcher;

/// Cores, memory and versions of this machine. What cannot be learned is left out.
pub async fn gather(containerd: &Containerd, launcher: &Launcher) -> NodeFacts {
    let uname = rustix::system::uname();
    let mut versions = BTreeMap::from([
        ("bismuthd".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (
            "kernel".to_owned(),
            uname.release().to_string_lossy().into(),
        ),
    ]);
    match launcher.runtime().await {
        Ok(runtime) => drop(versions.insert("runtime".to_owned(), runtime)),
        Err(error) => warn!(
            error = bismuth_base::chain(&error),
            "cannot tell which runtime containerd will use"
        ),
    }
    match containerd.version().await {
        Ok(version) => drop(versions.insert("containerd".to_owned(), version.version)),
        Err(error) => warn!(
            error = bismuth_base::chain(&error),
            "containerd does not say its version"
        ),
    }
    NodeFacts {
        cores: u32::try_from(bismuth_daemon::cores::available()).unwrap_or(u32::MAX),
        memory: total_memory(),
        versions,
        epoch: launcher.state().epoch().to_owned(),
    }
}

/// Bytes of physical memory: `sysinfo(2)`.
fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}
