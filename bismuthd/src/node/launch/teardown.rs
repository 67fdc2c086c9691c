//! Tears a container down, and finds its exit reason.

use std::sync::Arc;
use std::time::Duration;

use bismuth_containerd::tasks::{Exit, SIGTERM};
use bismuth_model::ContainerId;
use bismuth_sandbox::process;
use rustix::process::Signal;
use tracing::{info, warn};

use super::{EXIT_BOUND, Launcher, RunningContainer, cgroup, sandbox};

impl Launcher {
    /// How a container whose process has ended did so, if its shim can say it in time.
    pub async fn exit(&self, id: ContainerId) -> Option<Exit> {
        let id = id.to_string();
        match tokio::time::timeout(EXIT_BOUND, self.tasks.wait(&id)).await {
            Ok(Ok(exit)) => Some(exit),
            Ok(Err(error)) => {
                warn!(container = id, %error, "cannot learn how the process ended");
                None
            }
            Err(_elapsed) => {
                warn!(
                    container = id,
                    "the shim does not say how the process ended"
                );
                None
            }
        }
    }

    /// Why a container that answered has ended, for its deployer.
    pub async fn exit_reason(&self, id: ContainerId) -> String {
        let exit = self.exit(id).await;
        let out_of_memory = cgroup::killed_for_memory(id);
        self.logs.stop(id).await;
        let tail = self.logs.tail(&self.state.log_dir(id)).await;
        let how = exit.map_or_else(
            || "the program ended".to_owned(),
            |exit| format!("the program ended: {exit}"),
        );
        let why = if out_of_memory { ", out of memory" } else { "" };
        format!("{how}{why}{tail}")
    }

    /// Asks the program to end, if it handles the signal, and gives it `grace` to do so.
    pub async fn terminate(&self, id: ContainerId, running: &RunningContainer, grace: Duration) {
        // The kernel drops a signal that the first process of a pid namespace does not handle.
        match process::handles_signal(running.pid(), Signal::TERM) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return info!(container = %id, %error, "ended before it was asked to"),
        }
        match self.tasks.kill(&id.to_string(), SIGTERM, false).await {
            Ok(()) => {
                if tokio::time::timeout(grace, running.ended()).await.is_err() {
                    info!(container = %id, grace_ms = grace.as_millis() as u64, "did not end after SIGTERM, it is killed");
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                warn!(container = %id, error = bismuth_base::chain(&error), "cannot send SIGTERM")
            }
        }
    }

    /// Takes down whatever there is of a container, except its log and what is saved of it.
    /// Tries everything; returns whether nothing is left.
    pub async fn teardown(&self, id: ContainerId) -> bool {
        let mut clean = true;
        if let Err(error) = self.tasks.teardown(&id.to_string()).await {
            warn!(container = %id, error = bismuth_base::chain(&error), "cannot take down the task");
            clean = false;
        }
        // A socket keeps its network namespace alive.
        self.service_sockets.remove(id);
        self.logs.stop(id).await;
        let dir = self.state.container_dir(id);
        let removed = tokio::task::spawn_blocking(move || sandbox::remove(&dir, id)).await;
        clean && removed.unwrap_or(false)
    }

    /// Removes what is saved of a container. Call it after [`Launcher::teardown`] came out clean.
    pub async fn delete(&self, id: ContainerId) -> bool {
        let state = Arc::clone(&self.state);
        let deleted = tokio::task::spawn_blocking(move || state.delete_slot(id)).await;
        match deleted {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                warn!(container = %id, error = bismuth_base::chain(&error), "cannot delete the state of a container");
                false
            }
            Err(_panicked) => false,
        }
    }
}
