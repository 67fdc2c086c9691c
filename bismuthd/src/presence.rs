//! Keeping the node announced in ZooKeeper.

use std::net::Ipv4Addr;
use std::time::Duration;

use bismuth_base::Backoff;
use bismuth_daemon::Shutdown;
use bismuth_model::{Environment, NodeFacts};
use bismuth_registry::{Error, Presence, Registry};
use tokio::sync::watch;
use tracing::{info, warn};

/// Whether the node was announced at least once, so that no other process serves it.
#[derive(Clone, Debug)]
pub struct Announced(watch::Receiver<bool>);

impl Announced {
    /// Says when it is.
    pub fn channel() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Returns when it is. For ever if that will not be: then the process is ending.
    pub async fn wait(mut self) {
        if self.0.wait_for(|announced| *announced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Announces the node until the shutdown. A node that is not provisioned, or served by another
/// bismuthd, ends the process: it could only do harm.
pub async fn keep(
    registry: Registry,
    environment: Environment,
    ip: Ipv4Addr,
    facts: NodeFacts,
    announced: watch::Sender<bool>,
    shutdown: Shutdown,
) {
    let mut delays = AGAIN.delays();
    let announcement = loop {
        let announcement = tokio::select! {
            announcement = registry.announce_node(ip, &facts) => announcement,
            () = shutdown.cancelled() => return,
        };
        match announcement {
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
                error = bismuth_base::chain(&error),
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
            Presence::Present => {
                info!(%ip, "announced");
                announced.send_replace(true);
            }
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
            error = bismuth_base::chain(&error),
            "the node's sign of life goes with its session"
        );
    }
}
