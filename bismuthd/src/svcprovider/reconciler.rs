//! Reconciles the service sockets that svcprovider holds with those of this node's containers.
//!
//! ```text
//!            ┌─────────────── lost ────────────────┐
//!            ▼                                     │
//!   ┌─► connect ─► list what is held ─► plan ─► act, step by step ─► wait: a socket changed │ 5 s │ lost
//!   │       │ nobody                     ▲                                   │
//!   │       ▼                            └───────────────────────────────────┘
//!   └─ 20..100 ms: start it, if told so; make sockets that nobody holds
//! ```
//!
//! Level-triggered: connecting, a change and the timer do the same over the whole truth.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use bismuth_base::Backoff;
use bismuth_daemon::Shutdown;
use bismuth_handover::{CallError, Client, NodeName, TokenDigest};
use bismuth_model::ContainerId;
use bismuth_sandbox::namespaces::Namespaces;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::plan::{Step, plan};
use super::process::{ProviderConfig, ProviderProcess};
use super::sockets::{ServiceSockets, SocketState};

/// Functions wait for their services meanwhile; a connect to a socket that is not there costs microseconds.
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(100));
/// svcprovider answers from memory.
const CALL_BOUND: Duration = Duration::from_secs(1);
/// How often the whole truth is looked at without a hint.
const RESYNC_INTERVAL: Duration = Duration::from_secs(5);
/// The same, while something could not be done.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Where svcprovider is.
#[derive(Clone, Debug)]
pub struct SocketReconcilerConfig {
    /// Its socket.
    pub socket: PathBuf,
    /// How this node is called there.
    pub node: NodeName,
    /// What to start when it does not answer, if somebody else does not.
    pub provider: Option<ProviderConfig>,
}

/// Makes svcprovider hold the service sockets of this node. One task per node.
#[derive(Debug)]
pub struct SocketReconciler {
    service_sockets: ServiceSockets,
    config: SocketReconcilerConfig,
    provider: Option<ProviderProcess>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("svcprovider did not answer within {} ms", CALL_BOUND.as_millis())]
    Timeout,
    #[error("svcprovider closed the connection")]
    Closed,
}

impl SocketReconciler {
    /// Every container that an earlier process started must be in `service_sockets` before it runs:
    /// svcprovider lets go of what it holds for no container.
    pub fn new(service_sockets: ServiceSockets, config: SocketReconcilerConfig) -> Self {
        Self {
            provider: config.provider.clone().map(ProviderProcess::new),
            service_sockets,
            config,
        }
    }

    /// Runs until the shutdown; svcprovider keeps running and holds its sockets.
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.keep_connected() => {}
        }
    }

    async fn keep_connected(&mut self) {
        let mut delays = RETRY_BACKOFF.delays();
        let mut away_since = None;
        let mut look_again = Instant::now();
        loop {
            match self.connect().await {
                Ok(client) => {
                    info!(socket = %self.config.socket.display(), "connected to svcprovider");
                    delays.reset();
                    away_since = None;
                    if let Err(lost) = self.serve(client).await {
                        warn!(
                            error = bismuth_base::chain(&lost),
                            "lost the connection to svcprovider"
                        );
                    }
                }
                Err(error) => {
                    if away_since.replace(()).is_none() {
                        info!(%error, "svcprovider does not answer; functions wait for their services");
                    }
                    if let Some(provider) = &mut self.provider {
                        provider.start_if_gone();
                    }
                    if Instant::now() >= look_again {
                        self.make_lost_sockets().await;
                        look_again = Instant::now() + RETRY_INTERVAL;
                    }
                }
            }
            tokio::time::sleep(delays.next_delay()).await;
        }
    }

    async fn connect(&self) -> Result<Client, String> {
        let connect = Client::connect(&self.config.socket, &self.config.node);
        match tokio::time::timeout(CALL_BOUND, connect).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(bismuth_base::chain(&error)),
            Err(_elapsed) => Err(Lost::Timeout.to_string()),
        }
    }

    async fn serve(&mut self, mut client: Client) -> Result<(), Lost> {
        let mut held = list(&mut client).await?;
        loop {
            let mut undone = 0;
            for step in plan(&self.service_sockets.wanted(), &held) {
                if !self.act(step, &mut client, &mut held).await? {
                    undone += 1;
                }
            }
            let resync = if undone > 0 {
                RETRY_INTERVAL
            } else {
                RESYNC_INTERVAL
            };
            // All arms are safe to cancel.
            tokio::select! {
                () = self.service_sockets.changed() => {}
                () = client.closed() => return Err(Lost::Closed),
                () = tokio::time::sleep(resync) => {
                    held = list(&mut client).await?;
                    self.provider.iter_mut().for_each(ProviderProcess::reap);
                }
            }
        }
    }

    /// Does one step and notes it in `held`; `false` if it could not be done now.
    async fn act(
        &self,
        step: Step,
        client: &mut Client,
        held: &mut BTreeMap<ContainerId, TokenDigest>,
    ) -> Result<bool, Lost> {
        match step {
            Step::Detach(id) => {
                bounded(client.detach(id)).await?;
                held.remove(&id);
                debug!(container = %id, "detached");
            }
            Step::TakeBack(id) => {
                let Some(wanted) = self.service_sockets.get(id) else {
                    return Ok(true);
                };
                let Some(socket) = bounded(client.duplicate(id)).await? else {
                    held.remove(&id);
                    return Ok(false);
                };
                self.service_sockets
                    .set_held(id, wanted.attachment.token, socket);
            }
            Step::Make(id) => return Ok(self.make(id).await),
            Step::Attach(id) => {
                let Some(wanted) = self.service_sockets.get(id) else {
                    return Ok(true);
                };
                let SocketState::Held(socket) = wanted.state else {
                    return Ok(false);
                };
                let token = wanted.attachment.token;
                let attached = bounded(client.attach(wanted.attachment, socket.as_fd())).await;
                match attached {
                    Err(Lost::Call(refused)) if refused.is_refusal() => {
                        warn!(container = %id, error = %refused, "cannot attach a container");
                        return Ok(false);
                    }
                    attached => attached?,
                }
                held.insert(id, token);
                debug!(container = %id, "attached");
            }
        }
        Ok(true)
    }

    /// While svcprovider is away: if it died together with an earlier process of ours, its sockets are gone. One that is still
    /// held by it cannot be made a second time.
    async fn make_lost_sockets(&self) {
        for step in plan(&self.service_sockets.wanted(), &BTreeMap::new()) {
            if let Step::Make(id) = step {
                self.make(id).await;
            }
        }
    }

    async fn make(&self, id: ContainerId) -> bool {
        let Some(wanted) = self.service_sockets.get(id) else {
            return true;
        };
        let SocketState::Lost(dir) = wanted.state else {
            return true;
        };
        let made = tokio::task::spawn_blocking(move || -> Result<OwnedFd, String> {
            let namespaces = Namespaces::open(&dir).map_err(|e| bismuth_base::chain(&e))?;
            super::listen(namespaces.net_fd()).map_err(|e| bismuth_base::chain(&e))
        });
        match made.await {
            Ok(Ok(socket)) => {
                info!(container = %id, "made the service socket of a running container anew");
                self.service_sockets
                    .set_held(id, wanted.attachment.token, socket);
                true
            }
            Ok(Err(error)) => {
                debug!(container = %id, error, "cannot make the service socket of a running container");
                false
            }
            Err(_panicked) => false,
        }
    }
}

async fn list(client: &mut Client) -> Result<BTreeMap<ContainerId, TokenDigest>, Lost> {
    let held = bounded(client.held_sockets()).await?;
    Ok(held.into_iter().map(|h| (h.container, h.token)).collect())
}

async fn bounded<T>(call: impl Future<Output = Result<T, CallError>>) -> Result<T, Lost> {
    match tokio::time::timeout(CALL_BOUND, call).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(Lost::Timeout),
    }
}

#[cfg(test)]
mod tests;
