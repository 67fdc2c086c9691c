//! Garbage collection: old logs of removed containers, and unused images.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bismuth_containerd::images::{DiskPolicy, GarbagePolicy, Images};
use bismuth_daemon::Shutdown;
use bismuth_model::ContainerId;
use tracing::{info, warn};

use crate::logs::rotate::file_path;
use crate::node::reconcile::SlotTable;
use crate::node::state_dir::StateDir;

/// Retention is a matter of days; this is how far it may be off.
const MAX_INTERVAL: Duration = Duration::from_secs(600);
/// For a retention of seconds, in tests and on tiny disks.
const MIN_INTERVAL: Duration = Duration::from_millis(500);
/// The first round comes when a restarted node has found its containers again.
const FIRST_DELAY: Duration = Duration::from_secs(60);
/// containerd needs room to unpack the next image; kubelet collects between the same watermarks.
const DISK_WATERMARKS: (f64, f64) = (0.85, 0.80);
/// Somebody may be about to start a container from an image touched within this time.
const IMAGE_GRACE: Duration = Duration::from_secs(300);

fn interval(retention: Duration) -> Duration {
    (retention / 10).clamp(MIN_INTERVAL, MAX_INTERVAL)
}

/// Removes logs whose container is gone and which nobody wrote to for `retention`.
pub async fn collect_logs(
    state: Arc<StateDir>,
    table: Arc<SlotTable>,
    retention: Duration,
    shutdown: Shutdown,
) {
    let mut first = FIRST_DELAY.min(interval(retention));
    while !pause(
        std::mem::replace(&mut first, interval(retention)),
        &shutdown,
    )
    .await
    {
        let (state, table) = (Arc::clone(&state), Arc::clone(&table));
        let swept =
            tokio::task::spawn_blocking(move || sweep_logs(&state, &table, retention)).await;
        if swept.is_err() {
            return;
        }
    }
}

fn sweep_logs(state: &StateDir, table: &SlotTable, retention: Duration) {
    let logs = match state.logs() {
        Ok(logs) => logs,
        Err(error) => {
            return warn!(error = bismuth_base::chain(&error), "cannot list the logs");
        }
    };
    let present = table.load();
    for id in logs.into_iter().filter(|id| !present.contains_key(id)) {
        if !is_older(state, id, retention) || state.container_dir(id).exists() {
            continue;
        }
        match state.delete_log(id) {
            Ok(()) => info!(container = %id, "log removed, its retention has ended"),
            Err(error) => warn!(error = bismuth_base::chain(&error), "cannot remove a log"),
        }
    }
}

fn is_older(state: &StateDir, id: ContainerId, retention: Duration) -> bool {
    let dir = state.log_dir(id);
    let newest = std::fs::metadata(file_path(&dir, 0)).or_else(|_| std::fs::metadata(&dir));
    let modified = newest.and_then(|m| m.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= retention))
}

/// Removes images that no slot of this node uses, by age and when the disk fills up.
pub async fn collect_images(
    images: Arc<dyn Images>,
    table: Arc<SlotTable>,
    containerd_root: PathBuf,
    retention: Duration,
    shutdown: Shutdown,
) {
    if !containerd_root.is_dir() {
        warn!(
            directory = %containerd_root.display(),
            "containerd's root is not there, so images are not removed when its disk fills up; --containerd-root says where it is"
        );
    }
    let mut first = FIRST_DELAY.min(interval(retention));
    while !pause(
        std::mem::replace(&mut first, interval(retention)),
        &shutdown,
    )
    .await
    {
        let policy = GarbagePolicy {
            max_unused_age: Some(retention),
            disk: containerd_root.is_dir().then(|| DiskPolicy {
                path: containerd_root.clone(),
                high_watermark: DISK_WATERMARKS.0,
                low_watermark: DISK_WATERMARKS.1,
            }),
            in_use: in_use(&table),
            grace: IMAGE_GRACE.min(retention),
        };
        match images.collect_garbage(&policy).await {
            Ok(report) => {
                for image in &report.removed {
                    info!(names = ?image.names, digest = %image.digest, "image removed");
                }
                for (digest, error) in &report.failed {
                    warn!(%digest, error = bismuth_base::chain(error), "cannot remove an image");
                }
            }
            Err(error) => warn!(error = bismuth_base::chain(&error), "cannot collect images"),
        }
    }
}

/// Stopped slots too keep their image: their next start must not need the registry.
fn in_use(table: &SlotTable) -> HashSet<String> {
    let slots = table.load();
    let named = slots.values().map(|slot| slot.definition.image.to_string());
    let running = slots.values().filter_map(|slot| {
        slot.endpoint()
            .map(|endpoint| endpoint.image_digest.clone())
    });
    named.chain(running).collect()
}

/// Whether the shutdown came first.
async fn pause(time: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => false,
        () = shutdown.cancelled() => true,
    }
}
