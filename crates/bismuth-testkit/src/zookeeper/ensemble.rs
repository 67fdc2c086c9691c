//! A ZooKeeper ensemble: several servers that elect a leader.

use std::fmt::Write as _;

use anyhow::Result;

use super::{DEFAULT_TICK, ZooKeeper, write};
use crate::ports;

/// Servers of one ensemble.
#[derive(Debug)]
pub struct Ensemble {
    servers: Vec<ZooKeeper>,
}

impl Ensemble {
    pub(super) async fn start(size: u8) -> Result<Self> {
        let mut members = String::new();
        for id in 1..=size {
            let (peers, election) = (ports::reserve()?, ports::reserve()?);
            writeln!(members, "server.{id}=127.0.0.1:{peers}:{election}")?;
        }
        let mut servers = Vec::new();
        for id in 1..=size {
            let mut server = ZooKeeper::configured(DEFAULT_TICK, &members)?;
            write(&server.dir().join("data/myid"), &id.to_string())?;
            server.launch()?;
            servers.push(server);
        }
        for server in &servers {
            server.serving().await?;
        }
        Ok(Self { servers })
    }

    /// All servers as `HOST:PORT,HOST:PORT,…`.
    pub fn connect_string(&self) -> String {
        let addresses: Vec<String> = self.servers.iter().map(ZooKeeper::connect_string).collect();
        addresses.join(",")
    }

    /// The servers, in the order of their ids.
    pub fn servers(&self) -> &[ZooKeeper] {
        &self.servers
    }
}
