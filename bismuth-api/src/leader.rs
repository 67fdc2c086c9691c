//! Leading: of all replicas the elected one runs the rollouts, by a registry that its term fences.
//!
//! ```text
//!  election (bismuth-registry) ─► Leading(term): rollout::run until the term is over, or the shutdown
//!             └─► state ─► metrics, and the readiness condition if nobody can lead
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use bismuth_daemon::{Condition, Shutdown};
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
    /// Met whoever leads; unmet while nobody can.
    pub(crate) election: Condition,
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
        election,
        settle,
    } = leadership;
    let candidate = registry.candidate(name);
    let shown = show(candidate.state(), metrics.clone(), election);
    let led = candidate.run(shutdown.cancelled(), |_, fenced| {
        rollout::run(fenced, metrics.clone(), settle)
    });
    // The state ends with the candidate.
    tokio::join!(led, shown);
}

/// Shows the state of the election until it ends.
async fn show(mut state: watch::Receiver<ElectionState>, metrics: Metrics, election: Condition) {
    loop {
        let now = state.borrow_and_update().clone();
        metrics.leader.set(match &now {
            ElectionState::Leading(_) => 1,
            _ => 0,
        });
        match &now {
            ElectionState::Leading(term) => set_term(&metrics, term.number()),
            ElectionState::Following(leader) => set_term(&metrics, leader.term),
            ElectionState::Unknown | ElectionState::Blocked { .. } => {}
        }
        match now {
            ElectionState::Blocked { problem } => {
                metrics.election_blocked.set(1);
                election.unmet(problem);
            }
            _ => {
                metrics.election_blocked.set(0);
                election.met();
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

fn set_term(metrics: &Metrics, term: u64) {
    metrics.term.set(i64::try_from(term).unwrap_or(i64::MAX));
}
