//! Command-line flags, each with an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bismuth_daemon::TelemetryArgs;
use bismuth_model::Hostname;
use bismuth_operator::{DEFAULT_TOKEN_FILE, DEFAULT_URL};
use bismuth_registry::ZooKeeperArgs;
use clap::Parser;

/// The control plane of Bismuth over HTTP: functions, nodes, logs.
#[derive(Clone, Debug, Parser)]
#[command(name = "bismuth-api", version)]
pub struct Args {
    /// Where deployers connect. There is no authentication here: loopback, or a network that only
    /// deployers are on.
    #[arg(long, env = "BISMUTH_API_LISTEN", default_value = "127.0.0.1:8002")]
    pub listen: SocketAddr,

    /// Names by which deployers reach it, besides addresses and localhost. While it listens on
    /// loopback, requests for other names are refused: a web page could have its own name lead here.
    #[arg(
        long,
        env = "BISMUTH_API_HOSTNAME",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub hostname: Vec<Hostname>,

    /// The port of bismuthd on every node, for logs.
    #[arg(long, env = "BISMUTH_NODE_PORT", default_value_t = 8001)]
    pub node_port: u16,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub zookeeper: ZooKeeperArgs,

    /// The operator's surface of svcprovider, for secrets and for deleting data with functions.
    #[arg(long, env = "BISMUTH_SVCPROVIDER", value_name = "URL", default_value = DEFAULT_URL)]
    pub svcprovider: http::Uri,

    /// The file with svcprovider's token, which only its owner may read. It is read anew for every call.
    #[arg(long, env = "BISMUTH_SVCPROVIDER_TOKEN_FILE", value_name = "FILE", default_value = DEFAULT_TOKEN_FILE)]
    pub svcprovider_token_file: PathBuf,

    /// How long ZooKeeper or svcprovider may take over one call before it is answered with 503.
    #[arg(long, env = "BISMUTH_API_ANSWER_WITHIN", default_value = "950ms", value_parser = humantime::parse_duration)]
    pub answer_within: Duration,

    /// How long the slots of an earlier revision stay after requests were switched away from them:
    /// frontends hear of the switch within milliseconds, and bismuthd lets requests inside end.
    #[arg(long, env = "BISMUTH_API_SETTLE", default_value = "2s", value_parser = humantime::parse_duration)]
    pub settle: Duration,

    /// How long calls in flight may take to end after SIGTERM.
    #[arg(long, env = "BISMUTH_API_DRAIN", default_value = "10s", value_parser = humantime::parse_duration)]
    pub drain: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: TelemetryArgs,
}
