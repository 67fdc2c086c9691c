//! The frontend service: the routing-table updater, one worker per core, and the admin endpoints.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bismuth_daemon::listen::CoreListener;
use bismuth_daemon::{Admin, Policy, Shutdown, Tasks, admin, run_per_core};
use bismuth_registry::RoutingSnapshot;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::COMPONENT;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::retry::RetryBudget;
use crate::table_updater::TableUpdater;
use crate::worker::Worker;

/// What the other tasks may take to end once the workers have.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// A frontend that is not running yet.
pub struct Service {
    config: Arc<Config>,
    updater: TableUpdater,
    metrics: Metrics,
    admin: Admin,
}

impl Service {
    /// Builds it. `routing` is what it follows: the registry's watch, or a fixed table. Reads the snapshot file.
    pub fn build(config: Config, routing: watch::Receiver<Arc<RoutingSnapshot>>) -> Self {
        let mut registry = Registry::with_prefix(COMPONENT);
        let metrics = Metrics::new(&mut registry);
        let admin = Admin::new(registry);
        let known = admin.condition("routing");
        let file = config.snapshot.clone();
        let updater = TableUpdater::start(config.node_port, file, routing, metrics.clone(), known);
        Service {
            config: Arc::new(config),
            updater,
            metrics,
            admin,
        }
    }

    /// Serves until the shutdown, and drains: new connections are refused, requests in flight end.
    ///
    /// # Errors
    /// When a part without which it cannot live fails, or the drain's time was not enough.
    pub async fn run(
        self,
        listeners: Vec<CoreListener>,
        admin_listener: TcpListener,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        // Monitoring sees the drain: the admin endpoints end after it.
        let last = Shutdown::new();
        let tasks = Tasks::new(&last);
        let drain = self.config.drain;
        let table = self.updater.table();
        let admin = self.admin.clone().unready_on(&shutdown);
        tasks.spawn(
            "admin",
            Policy::EndsProcess,
            admin::serve(admin_listener, admin, last.clone()),
        );
        tasks.spawn(
            "follow routing",
            Policy::EndsProcess,
            self.updater.run(last.clone()),
        );

        let (config, metrics) = (self.config, self.metrics);
        let count = listeners.len();
        let listeners: Vec<_> = listeners.into_iter().map(|l| Mutex::new(Some(l))).collect();
        let stop = shutdown.clone();
        let budget = Arc::new(RetryBudget::default());
        let cores = run_per_core(count, "fe", move |core| {
            let listener = listeners[core.index()]
                .lock()
                .ok()
                .and_then(|mut l| l.take());
            let proxy = Proxy::new(
                config.clone(),
                table.clone(),
                metrics.clone(),
                budget.clone(),
            );
            let worker = Worker {
                config: config.clone(),
                proxy,
                metrics: metrics.clone(),
                shutdown: stop.clone(),
            };
            run_worker(worker, listener)
        })?;
        let served = tokio::select! {
            served = cores.finished() => served,
            () = last.cancelled() => {
                shutdown.fail("a part of the frontend ended");
                Ok(())
            }
        };
        tracing::info!(drain_ms = drain.as_millis(), "drained");
        let ended = tasks.drain(LAST_TASKS).await;
        last.outcome()?;
        shutdown.outcome()?;
        served?;
        Ok(ended?)
    }
}

async fn run_worker(worker: Worker, listener: Option<CoreListener>) -> anyhow::Result<()> {
    let Some(listener) = listener else {
        anyhow::bail!("a worker was started twice");
    };
    Ok(worker.run(listener.into_tokio()?).await?)
}
