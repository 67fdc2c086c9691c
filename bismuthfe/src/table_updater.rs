//! Builds a new routing table from each registry snapshot, swaps it in, and saves the snapshot to disk.
//!
//! ```text
//! file ──► watch, first table        (ZooKeeper may be down)
//!            └─► build beside ─► swap whole ─► file, half a second later at most
//! ```
//!
//! A snapshot that is not complete never replaces one that is: readers never see an empty middle.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bismuth_daemon::{Condition, Shutdown};
use bismuth_registry::RoutingSnapshot;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::metrics::Metrics;
use crate::snapshot;
use crate::table::RoutingTable;

/// Changes come in bursts (a deployment is several); one write covers a burst.
const SAVE_AFTER: Duration = Duration::from_millis(500);

/// The current table; every worker keeps a cached handle to it.
pub type SharedTable = Arc<ArcSwap<RoutingTable>>;

/// Keeps the table current. One task runs it.
pub struct TableUpdater {
    table: SharedTable,
    node_port: u16,
    file: Option<PathBuf>,
    routing: watch::Receiver<Arc<RoutingSnapshot>>,
    metrics: Metrics,
    known: Condition,
}

impl TableUpdater {
    /// Starts from what `routing` holds now, which may be what an earlier process saved in `file`.
    pub fn start(
        node_port: u16,
        file: Option<PathBuf>,
        routing: watch::Receiver<Arc<RoutingSnapshot>>,
        metrics: Metrics,
        known: Condition,
    ) -> Self {
        let mut updater = TableUpdater {
            table: SharedTable::default(),
            node_port,
            file,
            routing,
            metrics,
            known,
        };
        updater.take();
        updater
    }

    pub fn table(&self) -> SharedTable {
        self.table.clone()
    }

    /// Follows the registry until the shutdown, or for ever if the registry's watcher ends first.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut save_at = None;
        loop {
            // Every arm is safe to cancel: what was not taken is still there.
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = self.routing.changed() => match changed {
                    Ok(()) if self.take() => {
                        save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
                    }
                    Ok(()) => {}
                    Err(_ended) => {
                        shutdown.cancelled().await;
                        break;
                    }
                },
                () = sleep_until(save_at.unwrap_or_else(Instant::now)), if save_at.is_some() => {
                    save_at = None;
                    self.save().await;
                }
            }
        }
        if save_at.is_some() {
            self.save().await;
        }
    }

    /// Takes the newest snapshot; whether it is to be saved.
    fn take(&mut self) -> bool {
        let snapshot = self.routing.borrow_and_update().clone();
        if !snapshot.complete && self.table.load().complete {
            return false;
        }
        let table = RoutingTable::build(&snapshot, self.node_port, &self.table.load());
        if table.complete {
            self.known.met();
        }
        let (functions, routes) = table.size();
        self.metrics.table(functions, routes);
        tracing::debug!(
            functions,
            routes,
            complete = table.complete,
            "routing table swapped"
        );
        self.table.store(Arc::new(table));
        snapshot.complete
    }

    async fn save(&self) {
        let Some(file) = self.file.clone() else {
            return;
        };
        let snapshot = self.routing.borrow().clone();
        let saved = tokio::task::spawn_blocking(move || save(&file, &snapshot)).await;
        if let Err(error) = saved {
            tracing::error!(%error, "save the routing snapshot");
        }
    }
}

fn save(file: &Path, routing: &RoutingSnapshot) {
    if let Err(error) = snapshot::save(file, routing) {
        let error: &dyn std::error::Error = &error;
        tracing::error!(error, "a restart would not know this routing");
    }
}
