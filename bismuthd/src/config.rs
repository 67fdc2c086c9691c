//! Command-line flags of bismuthd, each with an environment variable.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bismuth_containerd::images::RegistryMirror;
use bismuth_daemon::TelemetryArgs;
use bismuth_registry::ZooKeeperArgs;
use bismuth_sandbox::ids::IdPool;
use clap::Parser;

use crate::node::launch::WantedRuntime;

/// Runs the containers of one Bismuth node.
#[derive(Clone, Debug, Parser)]
#[command(name = "bismuthd", version)]
pub struct Args {
    /// This node's address, by which it is provisioned and frontends reach it.
    #[arg(long, env = "BISMUTH_NODE_IP", default_value = "127.0.0.1")]
    pub node_ip: Ipv4Addr,

    /// Address that accepts requests from frontends. There is no authentication here: loopback, or a
    /// network that only frontends and the API are on.
    #[arg(long, env = "BISMUTH_LISTEN", default_value = "127.0.0.1:8001")]
    pub listen: SocketAddr,

    /// Where /healthz, /readyz and /metrics answer.
    #[arg(long, env = "BISMUTH_ADMIN_LISTEN", default_value = "127.0.0.1:8011")]
    pub admin_listen: SocketAddr,

    /// Threads that forward requests; the number of cores by default.
    #[arg(long, env = "BISMUTH_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// Connections at a time; when there are more, the oldest make room
    /// [default: 10000, or fewer where so many descriptors cannot be opened].
    #[arg(long, env = "BISMUTH_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub zookeeper: ZooKeeperArgs,

    /// Socket of containerd.
    #[arg(
        long,
        env = "BISMUTH_CONTAINERD",
        default_value = "/run/containerd/containerd.sock"
    )]
    pub containerd: PathBuf,

    /// Namespace in containerd; one per node.
    #[arg(long, env = "BISMUTH_CONTAINERD_NAMESPACE", default_value = "bismuth")]
    pub containerd_namespace: String,

    /// containerd's root directory, whose disk must not fill up with images.
    #[arg(
        long,
        env = "BISMUTH_CONTAINERD_ROOT",
        default_value = "/var/lib/containerd"
    )]
    pub containerd_root: PathBuf,

    /// containerd's snapshotter.
    #[arg(long, env = "BISMUTH_SNAPSHOTTER", default_value = "overlayfs")]
    pub snapshotter: String,

    /// Directory for what must outlive this process; at most 45 characters, because sockets are below it.
    #[arg(long, env = "BISMUTH_STATE_DIR", default_value = "/var/lib/bismuth")]
    pub state_dir: PathBuf,

    /// The static bismuth-init; beside this program by default.
    #[arg(long, env = "BISMUTH_INIT")]
    pub init: Option<PathBuf>,

    /// The socket on which svcprovider accepts the service sockets of containers.
    #[arg(
        long,
        env = "BISMUTH_SVCPROVIDER_SOCKET",
        default_value = "/run/bismuth/svcprovider.sock"
    )]
    pub svcprovider_socket: PathBuf,

    /// The svcprovider to start when nobody answers on its socket. It outlives this process, and is given the socket, node
    /// address, ZooKeeper and environment given here; its other flags are set by their BISMUTH_… variables. Without this flag
    /// somebody else starts it, such as an init system.
    #[arg(long, env = "BISMUTH_SVCPROVIDER_EXEC", value_name = "PATH")]
    pub svcprovider_exec: Option<PathBuf>,

    /// OCI runtime behind containerd: a name or path. `auto` is crun where it is installed and
    /// works, else runc.
    #[arg(long, env = "BISMUTH_RUNTIME", default_value = "auto")]
    pub runtime: WantedRuntime,

    /// Where images of a registry are pulled from instead, such as docker.io=http://127.0.0.1:5000.
    /// Repeatable, asked in this order; docker.io=origin among them is the registry itself, which is
    /// asked only if it is listed.
    #[arg(
        long,
        env = "BISMUTH_REGISTRY_MIRROR",
        value_delimiter = ',',
        value_name = "REGISTRY=URL"
    )]
    pub registry_mirror: Vec<RegistryMirror>,

    /// Credentials for registries, in the form of Docker's config.json.
    #[arg(long, env = "BISMUTH_REGISTRY_CONFIG", value_name = "FILE")]
    pub registry_config: Option<PathBuf>,

    /// Host user ids for functions: first id and how many, a multiple of 65536.
    #[arg(
        long,
        env = "BISMUTH_ID_POOL",
        default_value = "1000013824:1966080000",
        value_name = "FIRST:COUNT"
    )]
    pub id_pool: IdPool,

    /// Requests that may wait for one container before more are refused.
    #[arg(long, env = "BISMUTH_QUEUE", default_value_t = 1000)]
    pub queue: usize,

    /// How long requests may take to end when their container is removed, or this process ends.
    #[arg(long, env = "BISMUTH_DRAIN", default_value = "30s", value_parser = humantime::parse_duration)]
    pub drain: Duration,

    /// How long a program may take to end after SIGTERM before it is killed.
    #[arg(long, env = "BISMUTH_STOP_GRACE", default_value = "10s", value_parser = humantime::parse_duration)]
    pub stop_grace: Duration,

    /// Bytes at which a log file is full.
    #[arg(long, env = "BISMUTH_LOG_FILE_BYTES", default_value_t = 10 << 20, value_parser = clap::value_parser!(u64).range(4096..))]
    pub log_file_bytes: u64,

    /// Log files kept per container.
    #[arg(long, env = "BISMUTH_LOG_FILES", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub log_files: u8,

    /// How long logs are kept after their container is gone.
    #[arg(long, env = "BISMUTH_LOG_RETENTION", default_value = "7d", value_parser = humantime::parse_duration)]
    pub log_retention: Duration,

    /// How long images that no function here uses are kept.
    #[arg(long, env = "BISMUTH_IMAGE_RETENTION", default_value = "7d", value_parser = humantime::parse_duration)]
    pub image_retention: Duration,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: TelemetryArgs,
}
