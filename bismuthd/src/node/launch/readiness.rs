//! Waits until a started container answers, and explains why one does not.
//!
//! ```text
//!  exec:    bismuth-init listens ─► secrets, if any ─► ready
//!  server: (bismuth-init listens ─► secrets) ───────► the program accepts (and its readiness path agrees) ─► ready
//! ```

use std::net::TcpStream;
use std::time::Duration;

use bismuth_init::InjectRequest;
use bismuth_model::InvokeMode;
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::process::WatchedProcess;
use tokio_util::sync::CancellationToken;

use super::Launcher;
use super::error::LaunchError;
use super::init_ready::{self, InitNotReady};
use super::inject::{InjectError, inject};
use super::server_ready::{self, ServerNotReady};
use crate::node::slot::Slot;

enum Unready {
    Server(ServerNotReady),
    Init(InitNotReady),
    Inject(InjectError),
}

/// What stands between a started process and one that answers.
pub(super) struct Wait<'a> {
    pub bound: Duration,
    /// What bismuth-init is given first.
    pub delivery: Option<InjectRequest>,
    pub cancelled: &'a CancellationToken,
}

impl Launcher {
    /// Waits at most `bound` until a started program answers; a server's answer is a connection.
    pub(super) async fn wait_until_ready(
        &self,
        slot: &Slot,
        namespaces: &Namespaces,
        process: &WatchedProcess,
        wait: Wait<'_>,
    ) -> Result<Option<TcpStream>, LaunchError> {
        match self.ready(slot, namespaces, process, wait).await {
            Ok(connection) => Ok(connection),
            Err(unready) => Err(self.explain(slot, process, unready).await),
        }
    }

    async fn ready(
        &self,
        slot: &Slot,
        namespaces: &Namespaces,
        process: &WatchedProcess,
        wait: Wait<'_>,
    ) -> Result<Option<TcpStream>, Unready> {
        let Wait {
            bound,
            delivery,
            cancelled,
        } = wait;
        let definition = &slot.definition;
        let executes = matches!(definition.invoke_mode, InvokeMode::Executable(_));
        let run_dir = self.run_dir(slot.container_id);
        if executes || delivery.is_some() {
            let listens = init_ready::wait(&run_dir, process, bound, cancelled).await;
            listens.map_err(Unready::Init)?;
        }
        if let Some(delivery) = delivery {
            let injected = inject(&run_dir, &delivery).await;
            injected.map_err(Unready::Inject)?;
        }
        let InvokeMode::Server(_, port) = &definition.invoke_mode else {
            return Ok(None);
        };
        let wait = server_ready::ServerWait {
            net: namespaces.net_fd(),
            process,
            port: *port,
            path: definition.readiness.as_ref().map(|r| r.path.as_str()),
            bound,
            cancelled,
        };
        let answers = server_ready::wait(&wait).await;
        answers.map(Some).map_err(Unready::Server)
    }

    /// Turns "it is not ready" into what the deployer can act on: how it ended, what it printed.
    async fn explain(
        &self,
        slot: &Slot,
        process: &WatchedProcess,
        unready: Unready,
    ) -> LaunchError {
        let id = slot.container_id;
        if matches!(
            unready,
            Unready::Server(ServerNotReady::Cancelled) | Unready::Init(InitNotReady::Cancelled)
        ) {
            return LaunchError::Cancelled;
        }
        if let Unready::Inject(error) = unready {
            let command = slot.definition.invoke_mode.command();
            return LaunchError::from_inject(error, command);
        }
        let ended = process.has_ended().unwrap_or(false);
        let exit = if ended { self.exit(id).await } else { None };
        self.logs.stop(id).await;
        let tail = self.logs.tail(&self.state.log_dir(id)).await;
        if let Some(exit) = exit {
            return LaunchError::Died { exit, tail };
        }
        match unready {
            Unready::Server(source) => LaunchError::NotReady { source, tail },
            Unready::Init(source) => LaunchError::Init(source),
            Unready::Inject(source) => LaunchError::Inject(source),
        }
    }
}
