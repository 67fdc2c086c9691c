//! Starts svcprovider for a cluster or alone: keys, blobs and secrets.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::READY_BOUND;
use crate::daemon::{Daemon, flags};
use crate::s3::{KEY_ID, SECRET_KEY};
use crate::{PostgreSql, S3Server, ports};

/// Engines that several svcproviders share.
#[derive(Debug, Clone)]
pub struct Engines {
    /// Its `--records`.
    pub records: String,
    /// Its `--objects`.
    pub objects: String,
    /// What it has in its environment.
    pub variables: Vec<(String, String)>,
}

impl Engines {
    /// A database in a PostgreSQL server, and a bucket in an S3 server.
    pub fn on(postgres: &PostgreSql, database: &str, s3: &S3Server, bucket: &str) -> Self {
        Self {
            records: postgres.url(database),
            objects: s3.url(bucket),
            variables: vec![
                ("AWS_ACCESS_KEY_ID".into(), KEY_ID.into()),
                ("AWS_SECRET_ACCESS_KEY".into(), SECRET_KEY.into()),
            ],
        }
    }
}

/// The node that it is of, unless told otherwise.
const NODE: &str = "127.0.0.1";

/// A svcprovider.
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
    /// Fails when it does not become ready, with its log.
    pub async fn start(dir: &Path, zookeeper: &str, environment: &str) -> Result<Self> {
        Self::start_with(dir, zookeeper, environment, None).await
    }

    /// Starts one that nobody but operators asks and that needs no ZooKeeper: it finds a store that this node served before.
    /// Fails when it does not become ready, with its log.
    pub async fn start_alone(dir: &Path) -> Result<Self> {
        let data_dir = dir.join("services");
        fs::create_dir(&data_dir).with_context(|| format!("create {}", data_dir.display()))?;
        let claimed = data_dir.join("claimed");
        fs::write(&claimed, NODE).with_context(|| format!("write {}", claimed.display()))?;
        let nobody = format!("127.0.0.1:{}", ports::reserve()?);
        Self::start(dir, &nobody, "default").await
    }

    /// One of several, each with its own `dir` and all with the master keys at `keys`.
    pub(super) async fn start_on(
        dir: &Path,
        zookeeper: &str,
        environment: &str,
        engines: &Engines,
        keys: &Path,
    ) -> Result<Self> {
        Self::start_with(dir, zookeeper, environment, Some((engines, keys))).await
    }

    async fn start_with(
        dir: &Path,
        zookeeper: &str,
        environment: &str,
        shared: Option<(&Engines, &Path)>,
    ) -> Result<Self> {
        let data_dir = dir.join("services");
        // Short, as all paths of sockets.
        let socket = dir.join("s.sock");
        let (admin_port, operator_port) = (ports::reserve()?, ports::reserve()?);
        let own_keys = dir.join("keys/master.keys");
        let keys = shared.map_or(own_keys.as_path(), |(_, keys)| keys);
        let mut args = flags([
            ("--zookeeper", zookeeper.into()),
            ("--zookeeper-env", environment.into()),
            ("--data-dir", data_dir.display().to_string()),
            ("--socket", socket.display().to_string()),
            ("--admin-listen", format!("127.0.0.1:{admin_port}")),
            ("--operator-listen", format!("127.0.0.1:{operator_port}")),
            ("--master-key-file", keys.display().to_string()),
            ("--drain", "2s".into()),
        ]);
        args.push("--create-master-key".into());
        if let Some((engines, _)) = shared {
            args.extend(flags([
                ("--records", engines.records.clone()),
                ("--objects", engines.objects.clone()),
            ]));
        }
        let variables = shared.map_or(&[][..], |(engines, _)| &engines.variables);
        let daemon = Daemon::spawn_with(dir, "svcprovider", "svcprovider", args, variables)?;
        let services = Self {
            daemon,
            admin_port,
            operator_port,
            data_dir,
            socket,
        };
        services.ready().await?;
        Ok(services)
    }

    /// Waits until it says that it is ready.
    /// Fails when it does not, with its log.
    pub async fn ready(&self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin_port);
        self.daemon.ready(&url, READY_BOUND).await
    }

    /// Its process.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Its process, to kill and restart it.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Where bismuthd finds it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What programs that work for operators have in their environment.
    pub fn operator(&self) -> [(&'static str, String); 2] {
        [
            ("BISMUTH_SVCPROVIDER", self.url()),
            (
                "BISMUTH_SVCPROVIDER_TOKEN_FILE",
                self.token_file().display().to_string(),
            ),
        ]
    }

    /// Where it takes the calls of operators.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.operator_port)
    }

    /// The file with the operator's token.
    pub fn token_file(&self) -> PathBuf {
        self.data_dir.join("operator.token")
    }

    /// The operator's token.
    /// Fails when it was not made.
    pub fn token(&self) -> Result<String> {
        let path = self.token_file();
        let token = fs::read_to_string(&path);
        Ok(token
            .with_context(|| format!("read {}", path.display()))?
            .trim()
            .to_owned())
    }
}
