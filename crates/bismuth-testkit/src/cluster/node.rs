//! One worker node: an address of its own, a containerd namespace, a state directory, a bismuthd.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Result;

use super::READY_BOUND;
use crate::daemon::Daemon;

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Its bismuthd.
    pub daemon: Daemon,
    /// `bismuthd-1` and so on; its log is called so.
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
    pub(super) admin_port: u16,
    /// Its namespace in containerd.
    pub namespace: String,
    /// Its state directory.
    pub state_dir: PathBuf,
}

impl Node {
    /// Waits until its bismuthd says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin_port);
        self.daemon.ready(&url, READY_BOUND).await
    }

    /// Kills its bismuthd if it runs, starts the next one, and waits until that says it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.daemon.restart().await?;
        self.ready().await
    }
}
