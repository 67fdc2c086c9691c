//! The ZooKeeper session of a command.

use std::sync::Arc;

use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_registry::{Registry, ZooKeeperArgs};

use crate::error::Error;

/// A session, and the registry on it.
pub(crate) struct Session {
    pub(crate) registry: Registry,
    tree: ZkTree,
}

impl Session {
    /// Connects, within five seconds.
    pub(crate) async fn open(args: ZooKeeperArgs) -> Result<Self, Error> {
        let tree = ZkTree::connect(args.servers.as_str(), ConnectOptions::default())
            .await
            .map_err(Error::Connect)?;
        let registry = Registry::new(Arc::new(tree.clone()), args.environment);
        Ok(Self { registry, tree })
    }

    /// Ends it now and not when it times out.
    pub(crate) async fn close(&self) {
        self.tree.close().await;
    }
}
