//! Registers the node in ZooKeeper, and keeps it registered.

use std::net::Ipv4Addr;
use std::time::Duration;

use bismuth_base::Backoff;
use bismuth_daemon::Shutdown;
use bismuth_model::{Environment, NodeFacts};
use bismuth_registry::{Error, RegistrationState, Registry};
use tokio::sync::watch;
use tracing::{info, warn};

/// Whether the node was registered at least once, so that no other process serves it.
#[derive(Clone, Debug)]
pub struct Registered(watch::Receiver<bool>);

impl Registered {
    /// Says when it is.
    pub fn channel() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Returns when it is. For ever if that will not be: then the process is ending.
    pub async fn wait(mut self) {
        if self.0.wait_for(|registered| *registered).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Registers the node until the shutdown. A node that is not provisioned, or served by another
/// bismuthd, ends the process: it could only do harm.
pub async fn keep_registered(
    registry: Registry,
    environment: Environment,
    ip: Ipv4Addr,
    facts: NodeFacts,
    registered: watch::Sender<bool>,
    shutdown: Shutdown,
) {
    let mut delays = RETRY_BACKOFF.delays();
    let registration = loop {
        let registration = tokio::select! {
            registration = registry.register_node(ip, &facts) => registration,
            () = shutdown.cancelled() => return,
        };
        match registration {
            Ok(registration) => break registration,
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
                "cannot register the node"
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(delays.next_delay()) => {}
            () = shutdown.cancelled() => return,
        }
    };
    let mut state = registration.state();
    loop {
        match &*state.borrow_and_update() {
            RegistrationState::Registered => {
                info!(%ip, "registered");
                registered.send_replace(true);
            }
            RegistrationState::Unregistered => {
                warn!(%ip, "ZooKeeper does not answer; the node goes on with what it knows")
            }
            RegistrationState::NotProvisioned => warn!(%ip, "the node was deprovisioned"),
            RegistrationState::ServedByOther { epoch } => {
                return shutdown.fail(format!(
                    "node {ip} is served by another bismuthd, of epoch {epoch}"
                ));
            }
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { break },
            () = shutdown.cancelled() => break,
        }
    }
    if let Err(error) = registration.deregister().await {
        info!(
            error = bismuth_base::chain(&error),
            "the registration of the node ends with its session"
        );
    }
}
