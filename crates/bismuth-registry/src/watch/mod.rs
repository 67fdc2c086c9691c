//! Snapshots of parts of the tree, kept up to date by list and watch, and replaced whole.
//!
//! ```text
//!            ┌────────────── events lost, or a minute is over ─────────────────┐
//!            ▼                                                                 │
//!  watch ─► list everything ─► guard ──► publish ─► wait ─► read what the events name
//!    ▲          │                 │                                            │
//!    │          │                 └ what is suddenly gone is held back         └─► guard ─► publish
//!    └── an error: back off; the last snapshot stays
//! ```
//!
//! Readers hold an immutable snapshot that is replaced whole; they never see an empty middle. The watch is in place
//! before the list is made, so nothing falls between them. A hint only says where to look; what is published is
//! what was read. A record that cannot be decoded is logged, counted, and kept at its last good value.

mod assignment;
mod mass_deletion_guard;
mod mirror;
mod routing;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bismuth_base::backoff::{Backoff, Delays, jittered};
use bismuth_coord::{Event, SessionState, Version, Watch};
use futures_util::future::select_all;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::codec::{self, Record};
use crate::error::{Error, Result};
use crate::{Registry, layout};

pub use assignment::{AssignedContainer, Assignment, Unresolved, UnresolvedReason};
pub use routing::{RoutedFunction, RoutingSnapshot};

/// How often everything is listed although no hint asked for it.
const RELIST: Duration = Duration::from_secs(60);

/// How much of that time one entry is worth: a hundred entries per second at most, so that many readers of a large
/// table do not keep ZooKeeper busy with what almost never finds anything.
const RELIST_PER_ENTRY: Duration = Duration::from_millis(10);

/// The waits between attempts to list while ZooKeeper does not answer: soon enough after it is back, and rare enough
/// for many readers that all wait.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Counts of entries in a snapshot that are out of date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleCounts {
    /// Entries that are gone from the tree and still published, because too many went at once.
    pub held_back: usize,
    /// Records that cannot be decoded.
    pub undecodable: usize,
}

/// What one snapshot is made of, and how it is read.
trait View: Send + 'static {
    /// What readers hold.
    type Snapshot: PartialEq + Send + Sync + 'static;

    /// What it shows, for the log.
    const NAME: &'static str;

    /// The paths to watch, with everything below them.
    fn roots(&self, registry: &Registry) -> Vec<String>;

    /// Whether an event can change the snapshot.
    fn concerns(&self, registry: &Registry, event: &Event) -> bool;

    /// Reads everything.
    fn list(&mut self, registry: &Registry) -> impl Future<Output = Result<()>> + Send;

    /// Reads again what these paths name; [`Refreshed::NeedsList`] if only a whole list can tell.
    fn refresh(
        &mut self,
        registry: &Registry,
        paths: &BTreeSet<String>,
    ) -> impl Future<Output = Result<Refreshed>> + Send;

    /// How many entries it has.
    fn len(&self) -> usize;

    /// When everything is to be listed to confirm that what is gone is gone.
    fn confirm_at(&self) -> Option<Instant>;

    /// The snapshot now.
    fn snapshot(&self) -> Self::Snapshot;
}

/// Whether hints were enough.
enum Refreshed {
    Done,
    NeedsList,
}

/// Keeps a view up to date until `shutdown`, or until nobody looks any more.
async fn run_view<V: View>(
    registry: Registry,
    mut view: V,
    snapshots: watch::Sender<Arc<V::Snapshot>>,
    shutdown: impl Future<Output = ()>,
) {
    tokio::select! {
        () = shutdown => {}
        () = snapshots.closed() => {}
        () = list_and_watch(&registry, &mut view, &snapshots) => {}
    }
}

/// Never ends.
async fn list_and_watch<V: View>(
    registry: &Registry,
    view: &mut V,
    snapshots: &watch::Sender<Arc<V::Snapshot>>,
) {
    let mut session = registry.tree.session();
    let mut delays = RETRY.delays();
    loop {
        let Err(error) = watch_and_list_once(registry, view, snapshots, &mut delays).await;
        let wait = delays.next_delay();
        let message = "the last snapshot stays until everything can be listed again";
        // Once is enough for the operator; the attempts that follow are for whoever looks closer.
        if delays.attempts() == 1 {
            tracing::warn!(view = V::NAME, %error, ?wait, "{message}");
        } else {
            tracing::debug!(view = V::NAME, %error, ?wait, "{message}");
        }
        session.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Connected again is worth an attempt at once; a closed channel is waited out by the other arm.
            Ok(_) = async {
                session.changed().await?;
                session.wait_for(|state| *state == SessionState::Connected).await.map(drop)
            } => {}
        }
    }
}

/// Ends with the first error; dropping the watches, so that nothing stale is left in them.
async fn watch_and_list_once<V: View>(
    registry: &Registry,
    view: &mut V,
    snapshots: &watch::Sender<Arc<V::Snapshot>>,
    delays: &mut Delays,
) -> Result<std::convert::Infallible> {
    let mut watches = Vec::new();
    for root in view.roots(registry) {
        watches.push(registry.tree.watch(&root).await?);
    }
    loop {
        view.list(registry).await?;
        publish(view, snapshots);
        delays.reset();
        let due = Instant::now() + relist_interval(view.len());
        while let Some(paths) = hints_until(registry, view, &mut watches, due).await {
            match view.refresh(registry, &paths).await? {
                Refreshed::Done => publish(view, snapshots),
                Refreshed::NeedsList => break,
            }
        }
    }
}

fn relist_interval(entries: usize) -> Duration {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    jittered(RELIST.max(RELIST_PER_ENTRY.saturating_mul(entries)))
}

fn publish<V: View>(view: &V, snapshots: &watch::Sender<Arc<V::Snapshot>>) {
    let snapshot = view.snapshot();
    snapshots.send_if_modified(|current| {
        let changed = **current != snapshot;
        if changed {
            *current = Arc::new(snapshot);
        }
        changed
    });
}

/// Waits for hints that concern the view, and takes all that are there; `None` when everything is to be listed.
async fn hints_until<V: View>(
    registry: &Registry,
    view: &V,
    watches: &mut [Watch],
    due: Instant,
) -> Option<BTreeSet<String>> {
    let due = view.confirm_at().map_or(due, |at| at.min(due));
    let mut paths = BTreeSet::new();
    while paths.is_empty() {
        let next = select_all(watches.iter_mut().map(|watch| Box::pin(watch.next())));
        let event = tokio::select! {
            (event, ..) = next => event,
            () = tokio::time::sleep_until(due) => return None,
        };
        add_hint(registry, view, &mut paths, event)?;
        for watch in watches.iter_mut() {
            while let Some(event) = watch.try_next() {
                add_hint(registry, view, &mut paths, event)?;
            }
        }
    }
    Some(paths)
}

/// Adds what an event names; `None` if events were lost.
fn add_hint<V: View>(
    registry: &Registry,
    view: &V,
    paths: &mut BTreeSet<String>,
    event: Event,
) -> Option<()> {
    if view.concerns(registry, &event) {
        paths.insert(event.path()?.to_owned());
    } else {
        // Lost names no path, and concerns everything.
        event.path()?;
    }
    Some(())
}

/// A record as a view reads it.
enum Found<R> {
    Good(R),
    Missing,
    /// It is there and cannot be decoded.
    Undecodable(codec::Error),
}

/// Reads records for a view; an error is one of the connection.
async fn find_many<R: Record>(registry: &Registry, paths: &[String]) -> Result<Vec<Found<R>>> {
    let found = find_versions(registry, paths).await?.into_iter();
    Ok(found.map(|(found, _)| found).collect())
}

/// As [`find_many`], each with its version if it is there and can be decoded.
async fn find_versions<R: Record>(
    registry: &Registry,
    paths: &[String],
) -> Result<Vec<(Found<R>, Option<Version>)>> {
    let mut found = Vec::with_capacity(paths.len());
    for read in registry.read_many::<R>(paths).await {
        found.push(match read {
            Ok(Some(stored)) => (Found::Good(stored.record), Some(stored.version)),
            Ok(None) => (Found::Missing, None),
            Err(Error::Record { source, .. }) => (Found::Undecodable(source), None),
            Err(error) => return Err(error),
        });
    }
    Ok(found)
}

/// Which records cannot be decoded, so that each is logged once.
#[derive(Debug, Default)]
struct Undecodable {
    paths: BTreeSet<String>,
}

impl Undecodable {
    fn update<R>(&mut self, path: &str, found: &Found<R>) {
        match found {
            Found::Undecodable(error) => {
                if self.paths.insert(path.to_owned()) {
                    tracing::error!(path, %error, "a record cannot be decoded; its last good value stays");
                }
            }
            Found::Good(_) | Found::Missing => {
                if self.paths.remove(path) {
                    tracing::info!(path, "the record can be decoded again, or is gone");
                }
            }
        }
    }

    /// Forgets those that a whole list did not find.
    fn retain_below(&mut self, directory: &str, names: &BTreeSet<&str>) {
        self.paths.retain(|path| {
            match path
                .strip_prefix(directory)
                .and_then(|rest| rest.strip_prefix('/'))
            {
                Some(below) => names.contains(below.split('/').next().unwrap_or(below)),
                None => true,
            }
        });
    }
}

/// The names in a directory that are ids, addresses or hostnames in the one spelling that this program writes.
fn canonical_names<T: std::str::FromStr + ToString>(names: &[String]) -> Vec<T> {
    names
        .iter()
        .filter_map(|name| layout::canonical(name))
        .collect()
}
