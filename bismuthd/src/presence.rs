//! Keeping the node announced in ZooKeeper.

use std::net::Ipv4Addr;
use std::time::Duration;

use bismuth_daemon::{Backoff, Shutdown};
use bismuth_model::{Environment, NodeFacts};
use bismuth_registry::{Error, Presence, Registry};
use tracing::{info, warn};

const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Announces the node until the shutdown. A node that is not provisioned, or served by another
/// bismuthd, ends the process: it could only do harm.
pub async fn keep(
    registry: Registry,
    environment: Environment,
    ip: Ipv4Addr,
    facts: NodeFacts,
    shutdown: Shutdown,
) {
    let mut delays = AGAIN.delays();
    let announcement = loop {
        let announced = tokio::select! {
            announced = registry.announce_node(ip, &facts) => announced,
            () = shutdown.cancelled() => return,
        };
        match announced {
            Ok(announcement) => break announcement,
            Err(error @ Error::NodeAlreadyServed { .. }) => {
                return shutdown.fail(error.to_string());
            }
            Err(error @ (Error::NodeUnknown { .. } | Error::NotBootstrapped { .. })) => {
                return shutdown.fail(format!(
                    "{error}: run `bismuthctl --zookeeper-env {environment} bootstrap` and `… provision {ip}` first"
                ));
            }
            Err(error) => warn!(
                error = bismuth_daemon::exit::chain(&error),
                "cannot announce the node"
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(delays.next_delay()) => {}
            () = shutdown.cancelled() => return,
        }
    };
    let mut presence = announcement.presence();
    loop {
        match &*presence.borrow_and_update() {
            Presence::Present => info!(%ip, "announced"),
            Presence::Absent => {
                warn!(%ip, "ZooKeeper does not answer; the node goes on with what it knows")
            }
            Presence::NotProvisioned => warn!(%ip, "the node was deprovisioned"),
            Presence::ServedByOther { epoch } => {
                return shutdown.fail(format!(
                    "node {ip} is served by another bismuthd, of epoch {epoch}"
                ));
            }
        }
        tokio::select! {
            changed = presence.changed() => if changed.is_err() { break },
            () = shutdown.cancelled() => break,
        }
    }
    if let Err(error) = announcement.withdraw().await {
        info!(
            error = bismuth_daemon::exit::chain(&error),
            "the node's sign of life goes with its session"
        );
    }
}
