//! Leading: of all replicas the elected one runs the rollouts, by a registry that its term fences.
//!
//! ```text
//!  election (bismuth-registry) ─► Leading(term): rollout::run until the term is over, or the shutdown
//!             └─► state ─► metrics
//! ```
//!
//! An election in which nobody can lead does not make a replica unready: it answers calls as before, and a balancer that
//! took all replicas away would make it worse. The log and a metric say it.

use std::net::SocketAddr;
use std::time::Duration;

use bismuth_daemon::Shutdown;
use bismuth_registry::{ElectionState, Registry};
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::rollout;

/// Where the kernel says what this machine is called.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// What leading needs besides the registry.
pub(crate) struct Leadership {
    /// What the other replicas and operators know it by.
    pub(crate) name: String,
    pub(crate) metrics: Metrics,
    /// How long slots stay after requests were switched away from them.
    pub(crate) settle: Duration,
}

/// The machine and the address: replicas on several machines may all listen on loopback.
pub(crate) fn replica_name(address: Option<SocketAddr>) -> String {
    let machine = std::fs::read_to_string(HOSTNAME).unwrap_or_default();
    let address = address.map(|address| address.to_string());
    format!("{} {}", machine.trim(), address.unwrap_or_default())
        .trim()
        .to_owned()
}

/// Stands for leader, and leads whenever it is elected, until the shutdown.
pub(crate) async fn run(registry: Registry, leadership: Leadership, shutdown: Shutdown) {
    let Leadership {
        name,
        metrics,
        settle,
    } = leadership;
    let candidate = registry.candidate(name);
    let shown = show(candidate.state(), metrics.clone());
    let led = candidate.run(shutdown.cancelled(), |_, fenced| {
        rollout::run(fenced, metrics.clone(), settle)
    });
    // The state ends with the candidate.
    tokio::join!(led, shown);
}

/// Shows the state of the election until it ends.
async fn show(mut state: watch::Receiver<ElectionState>, metrics: Metrics) {
    loop {
        let now = state.borrow_and_update().clone();
        let is = |so: bool| i64::from(so);
        metrics
            .leader
            .set(is(matches!(now, ElectionState::Leading(_))));
        metrics
            .election_blocked
            .set(is(matches!(now, ElectionState::Blocked { .. })));
        match now {
            ElectionState::Leading(term) => set_term(&metrics, term.number()),
            ElectionState::Following(leader) => set_term(&metrics, leader.term),
            ElectionState::Unknown | ElectionState::Blocked { .. } => {}
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

fn set_term(metrics: &Metrics, term: u64) {
    metrics.term.set(i64::try_from(term).unwrap_or(i64::MAX));
}
