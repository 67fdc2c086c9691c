//! Watches the containers assigned to one node, for its bismuthd.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bismuth_coord::Event;
use bismuth_model::{
    ContainerId, ContainerRecord, ContainerStatus, FunctionDefinition, FunctionId, FunctionRecord,
    Revision, RevisionRecord,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::mass_deletion_guard::Source;
use super::mirror::Mirror;
use super::{
    Found, Refreshed, StaleCounts, Undecodable, View, canonical_names, find_many, run_view,
};
use crate::Registry;
use crate::error::{Error, Result};
use crate::layout::ZnodeKind;

/// Everything that is assigned to one node at one time, immutable.
///
/// A container that is in neither map is not assigned, provided the snapshot is [complete](Self::complete).
/// Serialisable, so that a node can keep it on disk and start with it when ZooKeeper is down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The slots to serve.
    pub containers: BTreeMap<ContainerId, AssignedContainer>,
    /// Slots that are assigned and cannot be started, because their definition is not to be had. What runs of them
    /// is to be left running.
    pub unresolved: BTreeMap<ContainerId, Unresolved>,
    /// Whether everything was read at least once since this process began. Before that, nothing is to be removed
    /// for not being here.
    #[serde(skip)]
    pub complete: bool,
    /// Counts of entries that are out of date.
    #[serde(skip)]
    pub stale: StaleCounts,
}

/// A slot to serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssignedContainer {
    /// The function it serves.
    pub function_id: FunctionId,
    /// The revision of the definition.
    pub revision: Revision,
    /// The definition of that revision.
    pub definition: Arc<FunctionDefinition>,
    /// The status when the slot was first seen. It is not followed: the node alone changes it.
    pub status_at_list: ContainerStatus,
}

/// A slot whose definition is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unresolved {
    /// The function and revision, unless the assignment itself cannot be decoded.
    pub function: Option<(FunctionId, Revision)>,
    /// Why.
    pub reason: UnresolvedReason,
}

/// Why a slot's definition is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum UnresolvedReason {
    /// The assignment cannot be decoded.
    #[error("the assignment cannot be decoded: {0}")]
    AssignmentUndecodable(String),
    /// The function cannot be decoded.
    #[error("the function's record cannot be decoded: {0}")]
    FunctionUndecodable(String),
    /// There is no such function.
    #[error("the function does not exist")]
    FunctionMissing,
    /// Its definition is not kept, and the newest is another.
    #[error("the function is at revision {current}")]
    OtherRevision {
        /// The newest revision.
        current: Revision,
    },
}

impl Registry {
    /// Watches what is assigned to a node in a task that the caller runs. Begins with what was known earlier, not
    /// [complete](Assignment::complete): definitions of revisions that are no longer kept are taken from it, and it is not given up for
    /// a tree that is suddenly empty. The task ends with `shutdown`, or when all receivers are dropped.
    pub fn watch_assignment(
        &self,
        ip: Ipv4Addr,
        earlier: Assignment,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> (
        watch::Receiver<Arc<Assignment>>,
        impl Future<Output = ()> + Send + 'static,
    ) {
        let earlier = Assignment {
            complete: false,
            stale: StaleCounts::default(),
            ..earlier
        };
        let view = Assigned::new(ip, &earlier);
        let (sender, receiver) = watch::channel(Arc::new(earlier));
        (receiver, run_view(self.clone(), view, sender, shutdown))
    }
}

/// An assigned slot.
#[derive(Clone, Debug)]
enum Slot {
    Resolved(AssignedContainer),
    Unresolved(Unresolved),
}

struct Assigned {
    ip: Ipv4Addr,
    slots: Mirror<ContainerId, Slot>,
    undecodable: Undecodable,
    complete: bool,
}

impl Assigned {
    fn new(ip: Ipv4Addr, earlier: &Assignment) -> Self {
        let mut slots = Mirror::new("assigned containers", |_| true);
        let resolved = earlier
            .containers
            .iter()
            .map(|(id, container)| (*id, Slot::Resolved(container.clone())));
        let unresolved = earlier
            .unresolved
            .iter()
            .map(|(id, slot)| (*id, Slot::Unresolved(slot.clone())));
        slots.seed(resolved.chain(unresolved).collect());
        Self {
            ip,
            slots,
            undecodable: Undecodable::default(),
            complete: false,
        }
    }

    /// Reads assignments and the definitions that are not known yet.
    async fn read(
        &mut self,
        registry: &Registry,
        ids: &[ContainerId],
    ) -> Result<Vec<Option<Slot>>> {
        let paths: Vec<String> = ids
            .iter()
            .map(|id| registry.layout.container(self.ip, *id))
            .collect();
        let found = find_many::<ContainerRecord>(registry, &paths).await?;
        for (path, found) in paths.iter().zip(&found) {
            self.undecodable.update(path, found);
        }
        let wanted = ids
            .iter()
            .zip(&found)
            .filter_map(|(id, found)| match found {
                Found::Good(record) if self.known(*id, record).is_none() => {
                    Some((record.function_id, record.revision))
                }
                _ => None,
            });
        let definitions = self.read_definitions(registry, wanted.collect()).await?;
        let slots = ids.iter().zip(found).map(|(id, found)| match found {
            Found::Missing => None,
            Found::Good(record) => Some(
                self.known(*id, &record)
                    .unwrap_or_else(|| resolve(record, &definitions)),
            ),
            Found::Undecodable(error) => Some(self.slots.last(id).cloned().unwrap_or_else(|| {
                Slot::Unresolved(Unresolved {
                    function: None,
                    reason: UnresolvedReason::AssignmentUndecodable(error.to_string()),
                })
            })),
        });
        Ok(slots.collect())
    }

    /// Reads the definitions of revisions. One that is not kept by itself, written by an earlier version, is the
    /// function's newest or lost.
    async fn read_definitions(
        &mut self,
        registry: &Registry,
        wanted: BTreeSet<(FunctionId, Revision)>,
    ) -> Result<Definitions> {
        let wanted: Vec<(FunctionId, Revision)> = wanted.into_iter().collect();
        let kept: Vec<String> = wanted
            .iter()
            .map(|(id, revision)| registry.layout.revision(*id, *revision))
            .collect();
        let newest: Vec<String> = wanted
            .iter()
            .map(|(id, _)| registry.layout.function(*id))
            .collect();
        let kept = find_many::<RevisionRecord>(registry, &kept).await?;
        let newest = find_many::<FunctionRecord>(registry, &newest).await?;
        let found = wanted.into_iter().zip(kept).zip(newest);
        let definitions = found.map(|((wanted, kept), newest)| {
            let definition = match (kept, newest) {
                (Found::Good(kept), _) => Ok(kept.definition.into()),
                (_, Found::Good(newest)) if newest.revision == wanted.1 => {
                    Ok(newest.definition.into())
                }
                (_, Found::Good(newest)) => Err(UnresolvedReason::OtherRevision {
                    current: newest.revision,
                }),
                (_, Found::Undecodable(error)) => {
                    Err(UnresolvedReason::FunctionUndecodable(error.to_string()))
                }
                (_, Found::Missing) => Err(UnresolvedReason::FunctionMissing),
            };
            (wanted, definition)
        });
        Ok(definitions.collect())
    }

    /// The slot as it is known, if that is all there is to know: the definition of a revision never changes.
    fn known(&self, id: ContainerId, record: &ContainerRecord) -> Option<Slot> {
        match self.slots.last(&id)? {
            Slot::Resolved(known)
                if known.function_id == record.function_id && known.revision == record.revision =>
            {
                Some(Slot::Resolved(known.clone()))
            }
            _ => None,
        }
    }

    fn stale_counts(&self) -> StaleCounts {
        StaleCounts {
            held_back: self.slots.held_back(),
            undecodable: self.undecodable.paths.len(),
        }
    }
}

/// Definitions of revisions, or why they are not to be had.
type Definitions =
    HashMap<(FunctionId, Revision), Result<Arc<FunctionDefinition>, UnresolvedReason>>;

fn resolve(record: ContainerRecord, definitions: &Definitions) -> Slot {
    let ContainerRecord {
        function_id,
        revision,
        status,
    } = record;
    let definition = definitions.get(&(function_id, revision)).cloned();
    match definition.unwrap_or(Err(UnresolvedReason::FunctionMissing)) {
        Ok(definition) => Slot::Resolved(AssignedContainer {
            function_id,
            revision,
            definition,
            status_at_list: status,
        }),
        Err(reason) => Slot::Unresolved(Unresolved {
            function: Some((function_id, revision)),
            reason,
        }),
    }
}

impl View for Assigned {
    type Snapshot = Assignment;

    const NAME: &'static str = "assignment";

    fn roots(&self, registry: &Registry) -> Vec<String> {
        vec![registry.layout.containers(self.ip)]
    }

    fn concerns(&self, registry: &Registry, event: &Event) -> bool {
        let kind = event
            .path()
            .and_then(|path| registry.layout.znode_kind(path));
        match (event, kind) {
            // The echo of this node's own status.
            (Event::Changed { .. }, Some(ZnodeKind::Container(_, id))) => {
                !matches!(self.slots.last(&id), Some(Slot::Resolved(_)))
            }
            (_, kind) => kind.is_some(),
        }
    }

    async fn list(&mut self, registry: &Registry) -> Result<()> {
        let begun = Instant::now();
        let directory = registry.layout.containers(self.ip);
        // Deprovisioning needs an empty directory, so a missing one does not say that nothing is assigned.
        let names = registry
            .names(&directory)
            .await?
            .ok_or(Error::NodeUnknown { ip: self.ip })?;
        self.undecodable
            .retain_below(&directory, &names.iter().map(String::as_str).collect());
        let ids: Vec<ContainerId> = canonical_names(&names);
        let slots = self.read(registry, &ids).await?;
        let slots = ids
            .into_iter()
            .zip(slots)
            .filter_map(|(id, slot)| Some((id, slot?)));
        self.slots.replace(slots.collect());
        self.slots
            .update_published(Instant::now(), Source::Listing(begun));
        self.complete = true;
        Ok(())
    }

    async fn refresh(
        &mut self,
        registry: &Registry,
        paths: &BTreeSet<String>,
    ) -> Result<Refreshed> {
        let mut ids = Vec::with_capacity(paths.len());
        for path in paths {
            match registry.layout.znode_kind(path) {
                Some(ZnodeKind::Container(_, id)) => ids.push(id),
                _ => return Ok(Refreshed::NeedsList),
            }
        }
        let slots = self.read(registry, &ids).await?;
        for (id, slot) in ids.into_iter().zip(slots) {
            self.slots.put(id, slot);
        }
        self.slots.update_published(Instant::now(), Source::Hint);
        Ok(Refreshed::Done)
    }

    fn len(&self) -> usize {
        self.slots.published().len()
    }

    fn confirm_at(&self) -> Option<Instant> {
        self.slots.confirm_at()
    }

    fn snapshot(&self) -> Assignment {
        let mut assignment = Assignment {
            complete: self.complete,
            stale: self.stale_counts(),
            ..Assignment::default()
        };
        for (id, slot) in self.slots.published() {
            match slot {
                Slot::Resolved(container) => {
                    drop(assignment.containers.insert(*id, container.clone()))
                }
                Slot::Unresolved(slot) => drop(assignment.unresolved.insert(*id, slot.clone())),
            }
        }
        assignment
    }
}
