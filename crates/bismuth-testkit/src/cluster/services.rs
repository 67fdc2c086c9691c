//! svcprovider: keys, blobs and secrets for the functions of all nodes of a cluster, which are on one machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::READY_BOUND;
use crate::daemon::Daemon;
use crate::ports;

/// A svcprovider with embedded engines.
#[derive(Debug)]
pub struct Services {
    daemon: Daemon,
    admin_port: u16,
    operator_port: u16,
    data_dir: PathBuf,
    socket: PathBuf,
}

impl Services {
    /// Starts one for the environment of that name, with everything it has below `dir`, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it does not become ready, with its log.
    pub async fn start(dir: &Path, zookeeper: &str, environment: &str) -> Result<Self> {
        let data_dir = dir.join("services");
        // Short, as all paths of sockets.
        let socket = dir.join("s.sock");
        let (admin_port, operator_port) = (ports::reserve()?, ports::reserve()?);
        let args = [
            "--zookeeper".into(),
            zookeeper.into(),
            "--zookeeper-env".into(),
            environment.into(),
            "--data-dir".into(),
            data_dir.display().to_string(),
            "--socket".into(),
            socket.display().to_string(),
            "--admin-listen".into(),
            format!("127.0.0.1:{admin_port}"),
            "--operator-listen".into(),
            format!("127.0.0.1:{operator_port}"),
            "--master-key-file".into(),
            dir.join("keys/master.keys").display().to_string(),
            "--create-master-key".into(),
            "--drain".into(),
            "2s".into(),
        ];
        let services = Self {
            daemon: Daemon::spawn_in(dir, "svcprovider", "svcprovider", args)?,
            admin_port,
            operator_port,
            data_dir,
            socket,
        };
        services.ready().await?;
        Ok(services)
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    ///
    /// When it does not, with its log.
    pub async fn ready(&self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin_port);
        self.daemon.ready(&url, READY_BOUND).await
    }

    /// Its process.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Its process, to kill and restart it.
    #[must_use]
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Where its data is.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where bismuthd finds it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What programs that work for operators have in their environment.
    #[must_use]
    pub fn operator(&self) -> [(&'static str, String); 2] {
        let token = self.data_dir.join("operator.token");
        [
            (
                "BISMUTH_SVCPROVIDER",
                format!("http://127.0.0.1:{}", self.operator_port),
            ),
            (
                "BISMUTH_SVCPROVIDER_TOKEN_FILE",
                token.display().to_string(),
            ),
        ]
    }

    /// The operator's token.
    ///
    /// # Errors
    ///
    /// When it was not made.
    pub fn token(&self) -> Result<String> {
        let path = self.data_dir.join("operator.token");
        let token = std::fs::read_to_string(&path);
        Ok(token
            .with_context(|| format!("read {}", path.display()))?
            .trim()
            .to_owned())
    }
}
