//! Builds the API from its flags and runs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_daemon::listen::{self, BindError};
use bismuth_daemon::{Admin, Policy, Shutdown, Tasks};
use bismuth_operator::{CallError, OperatorClient};
use bismuth_registry::Registry;
use tokio::net::TcpListener;
use tracing::info;

use crate::config::Args;
use crate::http_server;
use crate::leader::{self, Leadership};
use crate::logs::client::LogClient;
use crate::metrics::Metrics;
use crate::origin_check::OriginCheck;
use crate::readiness;
use crate::router::router;
use crate::scheduler::Scheduler;
use crate::state::AppState;
use crate::svcprovider::SvcproviderClient;

/// Why the API does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Svcprovider(#[from] CallError),
}

/// Part of the time that one call may take; svcprovider is on this machine or on the same network.
const CONNECT_SVCPROVIDER: Duration = Duration::from_millis(500);

/// The API, ready to run.
pub struct Service {
    args: Args,
    listener: TcpListener,
    registry: Registry,
    svcprovider: SvcproviderClient,
}

impl Service {
    /// Claims the address. Waits for nobody: ZooKeeper may come later. Call it in a tokio runtime.
    ///
    /// # Errors
    /// When it cannot listen, or a URL is none.
    pub fn build(args: Args) -> Result<Self, StartError> {
        let tree = ZkTree::connect_lazy(&args.zookeeper.servers, ConnectOptions::default());
        let registry = Registry::new(Arc::new(tree), args.zookeeper.environment.clone());
        Self::with_registry(args, registry)
    }

    /// The same on a registry that the caller made.
    ///
    /// # Errors
    /// When it cannot listen, or a URL is none.
    pub fn with_registry(args: Args, registry: Registry) -> Result<Self, StartError> {
        let token_file = args.svcprovider_token_file.clone();
        let surface = OperatorClient::new(&args.svcprovider, token_file, CONNECT_SVCPROVIDER)?;
        let svcprovider = SvcproviderClient::new(surface, args.answer_within);
        let listener = listen::bind(args.listen)?;
        Ok(Self {
            args,
            listener,
            registry,
            svcprovider,
        })
    }

    /// Where calls are taken.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Runs until the shutdown, and then lets calls in flight end.
    ///
    /// # Errors
    /// When a part without which it cannot live has ended, or calls did not end in time.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut metrics = prometheus_client::registry::Registry::with_prefix("bismuth_api");
        let counted = Metrics::register(&mut metrics);
        let admin = Admin::new(metrics).unready_on(&shutdown);
        let zookeeper = admin.condition("zookeeper");
        let tasks = Tasks::new(&shutdown);
        info!(address = ?self.address(), environment = %self.args.zookeeper.environment, "bismuth-api listens");

        let leadership = Leadership {
            name: leader::replica_name(self.address()),
            metrics: counted.clone(),
            settle: self.args.settle,
        };
        let api = AppState {
            registry: self.registry.clone(),
            scheduler: Arc::new(Scheduler::new(self.registry.clone())),
            logs: LogClient::new(self.args.node_port),
            svcprovider: self.svcprovider,
            metrics: counted,
            shutdown: shutdown.clone(),
            answer_within: self.args.answer_within,
            origin_check: Arc::new(OriginCheck::new(self.args.listen, self.args.hostname)),
        };
        let drain = self.args.drain;
        let served = http_server::serve(self.listener, router(api), admin, shutdown.clone(), drain);
        tasks.spawn("http", Policy::EndsProcess, served);
        tasks.spawn(
            "readiness",
            Policy::EndsProcess,
            readiness::watch(self.registry.clone(), zookeeper, shutdown.clone()),
        );
        tasks.spawn(
            "leader",
            Policy::EndsProcess,
            leader::run(self.registry, leadership, shutdown.clone()),
        );

        shutdown.cancelled().await;
        info!("ending");
        let drained = tasks.drain(drain + Duration::from_secs(2)).await;
        shutdown.outcome()?;
        Ok(drained?)
    }
}
