//! Command-line flags, and the configuration made of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bismuth_daemon::{TelemetryArgs, cores, limits};
use bismuth_http::{Limits, PoolLimits};
use bismuth_registry::ZooKeeperArgs;
use clap::Parser;

use crate::COMPONENT;

/// The public entrance of Bismuth: finds the function by Host or /invoke/{id} and forwards to a node that serves it.
#[derive(Debug, Clone, Parser)]
#[command(name = "bismuthfe", version)]
pub struct Args {
    /// Where clients connect.
    #[arg(long, env = "BISMUTHFE_LISTEN", default_value = "0.0.0.0:8000")]
    pub listen: SocketAddr,

    /// Where /healthz, /readyz and /metrics answer.
    #[arg(long, env = "BISMUTHFE_ADMIN_LISTEN", default_value = "127.0.0.1:8010")]
    pub admin_listen: SocketAddr,

    /// Worker threads [default: one per core].
    #[arg(long, env = "BISMUTHFE_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub zookeeper: ZooKeeperArgs,

    /// The port of bismuthd on every node.
    #[arg(long, env = "BISMUTHFE_NODE_PORT", default_value_t = 8001)]
    pub node_port: u16,

    /// A file that keeps the last routing, so that a restart serves while ZooKeeper is down.
    #[arg(long, env = "BISMUTHFE_SNAPSHOT")]
    pub snapshot: Option<PathBuf>,

    /// Believe X-Forwarded-Proto/Host/Prefix of whoever connects (a load balancer of yours in front).
    #[arg(long, env = "BISMUTHFE_TRUST_FORWARDED")]
    pub trust_forwarded: bool,

    /// Client connections at a time; when there are more, the oldest make room
    /// [default: 10000, or fewer where so many descriptors cannot be opened].
    #[arg(long, env = "BISMUTHFE_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,

    /// Largest request head in bytes.
    #[arg(long, env = "BISMUTHFE_MAX_HEAD_BYTES", default_value_t = 64 * 1024,
        value_parser = clap::value_parser!(u32).range(1024..=96 * 1024))]
    pub max_head_bytes: u32,

    /// How long a request head may take to arrive, in ms.
    #[arg(long, env = "BISMUTHFE_HEAD_TIMEOUT_MS", default_value_t = 10_000, value_parser = positive())]
    pub head_timeout_ms: u64,

    /// How long a new connection may stay silent, in ms.
    #[arg(long, env = "BISMUTHFE_FIRST_BYTE_TIMEOUT_MS", default_value_t = 10_000, value_parser = positive())]
    pub first_byte_timeout_ms: u64,

    /// How long a connection may be idle between requests, in ms.
    #[arg(long, env = "BISMUTHFE_KEEP_ALIVE_MS", default_value_t = 75_000, value_parser = positive())]
    pub keep_alive_ms: u64,

    /// How long a client may leave its answer unread, in ms.
    #[arg(long, env = "BISMUTHFE_WRITE_TIMEOUT_MS", default_value_t = 30_000, value_parser = positive())]
    pub write_timeout_ms: u64,

    /// How long connecting to a node may take, in ms.
    #[arg(long, env = "BISMUTHFE_CONNECT_TIMEOUT_MS", default_value_t = 1_000, value_parser = positive())]
    pub connect_timeout_ms: u64,

    /// How long requests in flight may take to end after SIGTERM, in ms.
    #[arg(long, env = "BISMUTHFE_DRAIN_MS", default_value_t = 30_000)]
    pub drain_ms: u64,

    #[allow(missing_docs)]
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

fn positive() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

impl Args {
    /// How many worker threads.
    pub fn workers(&self) -> usize {
        self.workers.map_or_else(cores::available, usize::from)
    }

    fn max_connections(&self) -> usize {
        // One for the client, one for its request to a node.
        limits::connections(self.max_connections, 2)
    }
}

/// What the service needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The port of bismuthd on every node.
    pub node_port: u16,
    /// Client connections that one worker serves at a time.
    pub max_connections_per_worker: usize,
    /// Bounds on client connections.
    pub limits: Limits,
    /// Bounds on idle connections to nodes.
    pub pool: PoolLimits,
    /// How long connecting to a node may take.
    pub connect_timeout: Duration,
    /// How long a slot that its node does not know yet is asked for again. A new function's slot is written to the registry
    /// before its node has seen it.
    pub new_slot_timeout: Duration,
    /// Whether the peer's `X-Forwarded-*` are believed.
    pub trust_forwarded: bool,
    /// How long requests in flight may take to end.
    pub drain: Duration,
    /// The file that keeps the last routing.
    pub snapshot: Option<PathBuf>,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        let most = Limits::new(COMPONENT);
        Config {
            node_port: args.node_port,
            // The kernel spreads them over the workers' listeners by hash, so rarely evenly: rounded up.
            max_connections_per_worker: args.max_connections().div_ceil(args.workers()),
            limits: Limits {
                max_head_bytes: args.max_head_bytes as usize,
                head_timeout: Duration::from_millis(args.head_timeout_ms),
                first_byte_timeout: Duration::from_millis(args.first_byte_timeout_ms),
                keep_alive_timeout: Duration::from_millis(args.keep_alive_ms),
                write_timeout: Duration::from_millis(args.write_timeout_ms),
                // Fewer than the nodes take, because six are added on the way: X-Forwarded-For, -Proto, -Host, -Prefix,
                // X-Request-Id, traceparent.
                max_head_fields: most.max_head_fields - 6,
                ..most
            },
            pool: PoolLimits::default(),
            new_slot_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_millis(args.connect_timeout_ms),
            trust_forwarded: args.trust_forwarded,
            drain: Duration::from_millis(args.drain_ms),
            snapshot: args.snapshot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_valid_and_its_defaults_are_those_of_the_library() {
        Args::command().debug_assert();
        let limits = Config::from(Args::parse_from(["bismuthfe"])).limits;
        let library = Limits::new(COMPONENT);
        assert_eq!(limits.max_head_bytes, library.max_head_bytes);
        assert_eq!(limits.keep_alive_timeout, library.keep_alive_timeout);
    }

    #[test]
    fn invalid_flags_are_refused_at_the_start() {
        for wrong in [
            "--zookeeper=not a server",
            "--workers=0",
            "--head-timeout-ms=0",
            "--zookeeper-env=a/b",
        ] {
            let parsed = Args::try_parse_from(["bismuthfe", wrong]);
            assert!(parsed.is_err(), "{wrong}");
        }
    }
}
