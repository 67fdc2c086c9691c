//! Command-line flags for the ZooKeeper servers and the environment, shared by all programs.

use bismuth_coord::Servers;
use bismuth_model::Environment;

/// Where the registry is; flatten it into a program's arguments.
#[derive(clap::Args, Clone, Debug)]
pub struct ZooKeeperArgs {
    /// ZooKeeper servers, HOST:PORT separated by commas.
    #[arg(
        id = "zookeeper",
        long,
        env = "BISMUTH_ZOOKEEPER",
        value_name = "ZOOKEEPER",
        default_value = "127.0.0.1:2181",
        global = true
    )]
    pub servers: Servers,

    /// The environment in ZooKeeper.
    #[arg(
        id = "zookeeper_env",
        long = "zookeeper-env",
        env = "BISMUTH_ZOOKEEPER_ENV",
        value_name = "ZOOKEEPER_ENV",
        default_value = "default",
        global = true
    )]
    pub environment: Environment,
}
