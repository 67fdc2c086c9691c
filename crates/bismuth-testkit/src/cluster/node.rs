//! One worker node: an address of its own, a containerd namespace, a state directory, a bismuthd.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::READY_BOUND;
use crate::daemon::Daemon;

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    pub(super) daemon: Daemon,
    pub(super) name: String,
    pub(super) ip: Ipv4Addr,
    pub(super) admin_port: u16,
    pub(super) namespace: String,
    pub(super) state_dir: PathBuf,
}

impl Node {
    /// `bismuthd-1` and so on; its log is called so.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Its namespace in containerd.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its state directory.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Its bismuthd.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Its bismuthd, to kill and restart it.
    #[must_use]
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// URL of its admin endpoint followed by `path`, which begins with a slash.
    #[must_use]
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }

    /// Waits until its bismuthd says that it is ready.
    ///
    /// # Errors
    ///
    /// When it does not, with its log.
    pub async fn ready(&self) -> Result<()> {
        self.daemon
            .ready(&self.admin_url("/readyz"), READY_BOUND)
            .await
    }
}
