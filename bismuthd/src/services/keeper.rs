//! The owner of the connection to svcprovider.
//!
//! ```text
//!            ┌─────────────── lost ────────────────┐
//!            ▼                                     │
//!   ┌─► connect ─► list what is held ─► plan ─► act, step by step ─► wait: a door changed │ 5 s │ lost
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

use bismuth_daemon::{Backoff, Shutdown, exit};
use bismuth_handover::{CallError, Client, NodeName, TokenDigest};
use bismuth_model::ContainerId;
use bismuth_sandbox::namespaces::Namespaces;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::doors::{DoorSocket, Services};
use super::plan::{Step, plan};
use super::provider::{Provider, ProviderConfig};

/// Functions wait for their services meanwhile; a connect to a socket that is not there costs microseconds.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(100));
/// svcprovider answers from memory.
const CALL_BOUND: Duration = Duration::from_secs(1);
/// How often the whole truth is looked at without a hint.
const RESYNC: Duration = Duration::from_secs(5);
/// The same, while something could not be done.
const RESYNC_SOON: Duration = Duration::from_secs(1);

/// Where svcprovider is.
#[derive(Clone, Debug)]
pub struct KeeperConfig {
    /// Its socket.
    pub socket: PathBuf,
    /// How this node is called there.
    pub node: NodeName,
    /// What to start when it does not answer, if somebody else does not.
    pub provider: Option<ProviderConfig>,
}

/// Keeps svcprovider told. One task per node.
#[derive(Debug)]
pub struct Keeper {
    services: Services,
    config: KeeperConfig,
    provider: Option<Provider>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("svcprovider did not answer within {} ms", CALL_BOUND.as_millis())]
    Silent,
    #[error("svcprovider closed the connection")]
    Closed,
}

impl Keeper {
    /// A keeper of these doors. Every container that an earlier process started must be remembered among them before it runs:
    /// what is held for no door is let go of.
    pub fn new(services: Services, config: KeeperConfig) -> Self {
        Self {
            provider: config.provider.clone().map(Provider::new),
            services,
            config,
        }
    }

    /// Runs until the shutdown; svcprovider and its sockets live on.
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        let mut delays = AGAIN.delays();
        let mut away_since = None;
        let mut look_again = Instant::now();
        loop {
            match self.connect().await {
                Ok(client) => {
                    info!(socket = %self.config.socket.display(), "connected to svcprovider");
                    delays.reset();
                    away_since = None;
                    if let Err(lost) = self.serve(client).await {
                        warn!(error = exit::chain(&lost), "lost svcprovider");
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
                        look_again = Instant::now() + RESYNC_SOON;
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
            Ok(Err(error)) => Err(exit::chain(&error)),
            Err(_elapsed) => Err(Lost::Silent.to_string()),
        }
    }

    async fn serve(&mut self, mut client: Client) -> Result<(), Lost> {
        let mut held = list(&mut client).await?;
        loop {
            let mut undone = 0;
            for step in plan(&self.services.wanted(), &held) {
                if !self.act(step, &mut client, &mut held).await? {
                    undone += 1;
                }
            }
            let resync = if undone > 0 { RESYNC_SOON } else { RESYNC };
            // All arms are safe to cancel.
            tokio::select! {
                () = self.services.changed() => {}
                () = client.closed() => return Err(Lost::Closed),
                () = tokio::time::sleep(resync) => {
                    held = list(&mut client).await?;
                    self.provider.iter_mut().for_each(Provider::reap);
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
                let Some(door) = self.services.get(id) else {
                    return Ok(true);
                };
                let Some(socket) = bounded(client.duplicate(id)).await? else {
                    held.remove(&id);
                    return Ok(false);
                };
                self.services.found(id, door.attachment.token, socket);
            }
            Step::Make(id) => return Ok(self.make(id).await),
            Step::Attach(id) => {
                let Some(door) = self.services.get(id) else {
                    return Ok(true);
                };
                let DoorSocket::Held(socket) = door.socket else {
                    return Ok(false);
                };
                let token = door.attachment.token;
                let attached = bounded(client.attach(door.attachment, socket.as_fd())).await;
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
        for step in plan(&self.services.wanted(), &BTreeMap::new()) {
            if let Step::Make(id) = step {
                self.make(id).await;
            }
        }
    }

    async fn make(&self, id: ContainerId) -> bool {
        let Some(door) = self.services.get(id) else {
            return true;
        };
        let DoorSocket::Lost(dir) = door.socket else {
            return true;
        };
        let made = tokio::task::spawn_blocking(move || -> Result<OwnedFd, String> {
            let namespaces = Namespaces::open(&dir).map_err(|e| exit::chain(&e))?;
            super::listen(namespaces.net_fd()).map_err(|e| exit::chain(&e))
        });
        match made.await {
            Ok(Ok(socket)) => {
                info!(container = %id, "made the service socket of a running container anew");
                self.services.found(id, door.attachment.token, socket);
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
        Err(_elapsed) => Err(Lost::Silent),
    }
}

#[cfg(test)]
mod tests;
