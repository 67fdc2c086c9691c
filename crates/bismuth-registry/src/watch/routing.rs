//! Watches functions, backends and routes, for frontends.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bismuth_coord::Event;
use bismuth_model::{Affinity, Backend, FunctionId, FunctionRecord, Hostname, Serving};
use tokio::sync::watch;
use tokio::time::Instant;

use super::mass_deletion_guard::Source;
use super::mirror::Mirror;
use super::{
    Found, Refreshed, StaleCounts, Undecodable, View, canonical_names, find_many, find_versions,
    run_view,
};
use crate::error::Result;
use crate::layout::ZnodeKind;
use crate::{Layout, Registry};

/// How often a function is read again whose parts are not of one transaction. With the last of them what was found is
/// published: a version that writes the list alone leaves it so.
const READS: usize = 3;

/// All functions and routes at one time, immutable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutingSnapshot {
    /// The functions, by id.
    pub functions: HashMap<FunctionId, RoutedFunction>,
    /// The functions that hostnames lead to. One may be missing in `functions`, for a moment or by an inconsistency.
    pub routes: HashMap<Hostname, FunctionId>,
    /// Whether everything was read at least once. Before that, what is not here may well exist.
    pub complete: bool,
    /// Counts of entries that are out of date.
    pub stale: StaleCounts,
}

/// What a frontend needs to know of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutedFunction {
    /// Where requests may go, in the order of the list.
    pub backends: Arc<[Backend]>,
    /// Requests one container handles at a time.
    pub concurrency: u32,
    /// The longest time to the head of the response.
    pub timeout: Duration,
    /// The longest that starting its program may take.
    pub startup_timeout: Duration,
    /// The longest silence in a stream.
    pub idle_timeout: Duration,
    /// What keeps a client on one container.
    pub affinity: Option<Affinity>,
    /// The claimed hostnames that route; all of them if `None`, where a version without this knowledge wrote it.
    pub hostnames: Option<Arc<[Hostname]>>,
}

impl RoutedFunction {
    fn serving(serving: Serving, backends: Arc<[Backend]>) -> Self {
        Self {
            backends,
            concurrency: serving.concurrency,
            timeout: Duration::from_millis(serving.timeout_ms),
            startup_timeout: Duration::from_millis(serving.startup_timeout_ms),
            idle_timeout: Duration::from_millis(serving.idle_timeout_ms),
            affinity: serving.affinity,
            hostnames: Some(serving.hostnames.into()),
        }
    }

    /// Of a function without a serving record: its definition is what serves.
    fn new(record: FunctionRecord, backends: Arc<[Backend]>) -> Self {
        let definition = record.definition;
        Self {
            backends,
            concurrency: definition.concurrency,
            timeout: Duration::from_millis(definition.timeout_ms),
            startup_timeout: Duration::from_millis(definition.startup_timeout_ms),
            idle_timeout: Duration::from_millis(definition.idle_timeout_ms),
            affinity: definition.affinity,
            hostnames: None,
        }
    }
}

impl Registry {
    /// Watches the routing in a task that the caller runs. Begins with what was known earlier: that is the first snapshot, and it is
    /// not given up for a tree that is suddenly empty. The task ends with `shutdown`, or when all receivers are dropped.
    pub fn watch_routing(
        &self,
        earlier: RoutingSnapshot,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> (
        watch::Receiver<Arc<RoutingSnapshot>>,
        impl Future<Output = ()> + Send + 'static,
    ) {
        let view = Routing::new(&earlier);
        let (sender, receiver) = watch::channel(Arc::new(earlier));
        (receiver, run_view(self.clone(), view, sender, shutdown))
    }
}

struct Routing {
    functions: Mirror<FunctionId, RoutedFunction>,
    routes: Mirror<Hostname, FunctionId>,
    undecodable: Undecodable,
    complete: bool,
}

impl Routing {
    fn new(earlier: &RoutingSnapshot) -> Self {
        let mut functions = Mirror::new("functions with backends", |function: &RoutedFunction| {
            !function.backends.is_empty()
        });
        functions.seed(earlier.functions.clone());
        let mut routes = Mirror::new("routes", |_| true);
        routes.seed(earlier.routes.clone());
        Self {
            functions,
            routes,
            undecodable: Undecodable::default(),
            complete: false,
        }
    }

    /// Reads functions. What cannot be decoded is answered as it was last.
    async fn read_functions(
        &mut self,
        registry: &Registry,
        ids: &[FunctionId],
    ) -> Result<Vec<Option<RoutedFunction>>> {
        let mut functions = vec![None; ids.len()];
        let mut left: Vec<usize> = (0..ids.len()).collect();
        for again in (0..READS).rev() {
            let some: Vec<FunctionId> = left.iter().map(|index| ids[*index]).collect();
            let read = self.read_once(registry, &some).await?;
            let mut torn = Vec::new();
            for (index, (function, whole)) in left.into_iter().zip(read) {
                functions[index] = function;
                torn.extend((!whole && again > 0).then_some(index));
            }
            left = torn;
            if left.is_empty() {
                break;
            }
        }
        Ok(functions)
    }

    /// Reads functions once, and says of each whether its parts are of one transaction.
    async fn read_once(
        &mut self,
        registry: &Registry,
        ids: &[FunctionId],
    ) -> Result<Vec<(Option<RoutedFunction>, bool)>> {
        let paths = |path: fn(&Layout, FunctionId) -> String| -> Vec<String> {
            ids.iter().map(|id| path(&registry.layout, *id)).collect()
        };
        let records = paths(Layout::function);
        let serving = paths(Layout::serving);
        let lists = paths(Layout::backends);
        let found_records = find_many::<FunctionRecord>(registry, &records).await?;
        let found_serving = find_many::<Serving>(registry, &serving).await?;
        let found_lists = find_versions::<Vec<Backend>>(registry, &lists).await?;
        let mut functions = Vec::with_capacity(ids.len());
        let found = found_records
            .into_iter()
            .zip(found_serving)
            .zip(found_lists);
        for (index, ((record, served), (list, version))) in found.enumerate() {
            self.undecodable.update(&records[index], &record);
            self.undecodable.update(&serving[index], &served);
            self.undecodable.update(&lists[index], &list);
            let whole = match (&served, version) {
                (Found::Good(served), Some(version)) => served.backends_version == version.0,
                _ => true,
            };
            let function = merge(record, served, list, self.functions.last(&ids[index]));
            functions.push((function, whole));
        }
        Ok(functions)
    }

    /// Reads routes. What cannot be decoded is answered as it was last.
    async fn read_routes(
        &mut self,
        registry: &Registry,
        hostnames: &[Hostname],
    ) -> Result<Vec<Option<FunctionId>>> {
        let paths: Vec<String> = hostnames
            .iter()
            .map(|hostname| registry.layout.route(hostname))
            .collect();
        let found = find_many::<FunctionId>(registry, &paths).await?;
        let mut targets = Vec::with_capacity(hostnames.len());
        for ((hostname, path), found) in hostnames.iter().zip(&paths).zip(found) {
            self.undecodable.update(path, &found);
            targets.push(match found {
                Found::Good(id) => Some(id),
                Found::Missing => None,
                Found::Undecodable(_) => self.routes.last(hostname).copied(),
            });
        }
        Ok(targets)
    }

    fn update_published(&mut self, source: Source) {
        let now = Instant::now();
        self.functions.update_published(now, source);
        self.routes.update_published(now, source);
    }
}

/// A function from what was found of it; from the last good value where it cannot be decoded.
fn merge(
    record: Found<FunctionRecord>,
    serving: Found<Serving>,
    list: Found<Vec<Backend>>,
    last: Option<&RoutedFunction>,
) -> Option<RoutedFunction> {
    let backends: Arc<[Backend]> = match list {
        Found::Good(list) => list.into(),
        // A function without a list is an inconsistency that the audit finds; it has nowhere to go.
        Found::Missing => Arc::default(),
        Found::Undecodable(_) => last.map(|last| last.backends.clone()).unwrap_or_default(),
    };
    let from_last = |backends| {
        last.map(|last| RoutedFunction {
            backends,
            ..last.clone()
        })
    };
    match (record, serving) {
        (Found::Missing, _) => None,
        (_, Found::Good(serving)) if serving.withdrawn => None,
        (_, Found::Good(serving)) => Some(RoutedFunction::serving(serving, backends)),
        (_, Found::Undecodable(_)) if last.is_some() => from_last(backends),
        (Found::Good(record), _) => Some(RoutedFunction::new(record, backends)),
        (Found::Undecodable(_), _) => from_last(backends),
    }
}

impl View for Routing {
    type Snapshot = RoutingSnapshot;

    const NAME: &'static str = "routing";

    fn roots(&self, registry: &Registry) -> Vec<String> {
        vec![registry.layout.functions(), registry.layout.routes()]
    }

    fn concerns(&self, registry: &Registry, event: &Event) -> bool {
        let kind = event
            .path()
            .and_then(|path| registry.layout.znode_kind(path));
        match kind {
            // What nodes and the control plane need, and frontends do not.
            Some(ZnodeKind::Slots(_) | ZnodeKind::Revisions(_) | ZnodeKind::Revision(..)) => false,
            Some(_) => true,
            // Misplaced nodes are the audit's business.
            None => false,
        }
    }

    async fn list(&mut self, registry: &Registry) -> Result<()> {
        let begun = Instant::now();
        let (functions, routes) = (registry.layout.functions(), registry.layout.routes());
        // No operation of ours removes the directories: if one is missing, nothing is known, rather than nothing there.
        let function_names = registry
            .names(&functions)
            .await?
            .ok_or_else(|| registry.not_bootstrapped())?;
        let route_names = registry
            .names(&routes)
            .await?
            .ok_or_else(|| registry.not_bootstrapped())?;
        self.undecodable.retain_below(
            &functions,
            &function_names.iter().map(String::as_str).collect(),
        );
        self.undecodable
            .retain_below(&routes, &route_names.iter().map(String::as_str).collect());
        let ids: Vec<FunctionId> = canonical_names(&function_names);
        let hostnames: Vec<Hostname> = canonical_names(&route_names);
        let read_functions = self.read_functions(registry, &ids).await?;
        let read_routes = self.read_routes(registry, &hostnames).await?;
        self.functions.replace(present(ids, read_functions));
        self.routes.replace(present(hostnames, read_routes));
        self.update_published(Source::Listing(begun));
        self.complete = true;
        Ok(())
    }

    async fn refresh(
        &mut self,
        registry: &Registry,
        paths: &BTreeSet<String>,
    ) -> Result<Refreshed> {
        let (mut ids, mut hostnames) = (BTreeSet::new(), BTreeSet::new());
        for path in paths {
            match registry.layout.znode_kind(path) {
                Some(
                    ZnodeKind::Function(id) | ZnodeKind::Serving(id) | ZnodeKind::Backends(id),
                ) => drop(ids.insert(id)),
                Some(ZnodeKind::Route(hostname)) => drop(hostnames.insert(hostname)),
                _ => return Ok(Refreshed::NeedsList),
            }
        }
        let ids: Vec<FunctionId> = ids.into_iter().collect();
        let hostnames: Vec<Hostname> = hostnames.into_iter().collect();
        let functions = self.read_functions(registry, &ids).await?;
        let routes = self.read_routes(registry, &hostnames).await?;
        for (id, function) in ids.into_iter().zip(functions) {
            self.functions.put(id, function);
        }
        for (hostname, target) in hostnames.into_iter().zip(routes) {
            self.routes.put(hostname, target);
        }
        self.update_published(Source::Hint);
        Ok(Refreshed::Done)
    }

    fn len(&self) -> usize {
        // A function is three nodes.
        self.functions.published().len() * 3 + self.routes.published().len()
    }

    fn confirm_at(&self) -> Option<Instant> {
        [self.functions.confirm_at(), self.routes.confirm_at()]
            .into_iter()
            .flatten()
            .min()
    }

    fn snapshot(&self) -> RoutingSnapshot {
        RoutingSnapshot {
            functions: self.functions.published().clone(),
            routes: self.routes.published().clone(),
            complete: self.complete,
            stale: StaleCounts {
                held_back: self.functions.held_back() + self.routes.held_back(),
                undecodable: self.undecodable.paths.len(),
            },
        }
    }
}

/// The entries that were found.
fn present<K: Eq + std::hash::Hash, V>(keys: Vec<K>, values: Vec<Option<V>>) -> HashMap<K, V> {
    keys.into_iter()
        .zip(values)
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
}
