//! The readiness condition: a ZooKeeper session, and an environment that exists.

use std::time::Duration;

use bismuth_base::chain;
use bismuth_coord::SessionState;
use bismuth_daemon::{Condition, Shutdown};
use bismuth_registry::Registry;

/// The session tells at once when it goes; this is for an environment that is made or removed meanwhile.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Updates the condition until the shutdown.
pub(crate) async fn watch(registry: Registry, condition: Condition, shutdown: Shutdown) {
    let mut session = registry.tree().session();
    loop {
        let state = *session.borrow_and_update();
        match state {
            SessionState::Connected => match registry.is_bootstrapped().await {
                Ok(true) => condition.met(),
                Ok(false) => condition.unmet(format!(
                    "{} is not in ZooKeeper, or not whole: `bismuthctl bootstrap` makes it",
                    registry.layout().root()
                )),
                Err(error) => condition.unmet(chain(&error)),
            },
            SessionState::Disconnected | SessionState::Expired => {
                condition.unmet("ZooKeeper does not answer")
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            changed = session.changed() => if changed.is_err() {
                // The tree is gone, and the process with it.
                return;
            }
        }
    }
}
