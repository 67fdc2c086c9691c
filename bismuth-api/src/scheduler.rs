//! Reads the nodes' capacity and what is assigned to them, for `placement`.
//!
//! An assignment names its function and not what it may use. That is in the definitions, so they are
//! read, and the two numbers cached until a newer revision is seen.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bismuth_model::{
    Backend, ContainerId, ContainerRecord, FunctionDefinition, FunctionId, Revision,
};
use bismuth_registry::{Error, Node, Registry};
use futures_util::{StreamExt as _, stream};
use http::StatusCode;

use crate::placement::{Candidate, Capacity, Resources, place};
use crate::problem::Problem;

/// Definitions being read at a time; they share one connection, so this bounds memory only.
const READS: usize = 64;

/// Places slots on the nodes of one environment. Caches what each function may use.
#[derive(Debug)]
pub(crate) struct Scheduler {
    registry: Registry,
    resources: Mutex<HashMap<FunctionId, (Revision, Resources)>>,
}

impl Scheduler {
    pub(crate) fn new(registry: Registry) -> Self {
        Self {
            registry,
            resources: Mutex::default(),
        }
    }

    fn resources(&self) -> MutexGuard<'_, HashMap<FunctionId, (Revision, Resources)>> {
        self.resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// New slots for all instances of a function.
    pub(crate) async fn slots_for(
        &self,
        definition: &FunctionDefinition,
    ) -> Result<Vec<Backend>, Problem> {
        let nodes = self.registry.list_nodes().await?;
        self.evict_all_but(&nodes);
        let assigned = self.assigned(&nodes).await?;
        let candidates: Vec<Candidate> = nodes
            .iter()
            .zip(assigned)
            .map(|(node, assigned)| candidate(node, assigned))
            .collect();
        let ips = place(
            &candidates,
            resources_of(definition),
            definition.max_instances,
        )
        // A node may come back, or be provisioned, within seconds.
        .map_err(|none| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_node", none.to_string())
                .retry_after(5)
        })?;
        Ok(ips.into_iter().map(new_slot).collect())
    }

    /// What the slots of each node may use, in the order of the nodes.
    pub(crate) async fn assigned(&self, nodes: &[Node]) -> Result<Vec<Resources>, Error> {
        self.read_definitions(nodes).await?;
        let resources = self.resources();
        let of = |(_, record): &(ContainerId, ContainerRecord)| {
            resources
                .get(&record.function_id)
                .map(|(_, resources)| *resources)
        };
        Ok(nodes
            .iter()
            .map(|node| sum(node.containers.iter().filter_map(of)))
            .collect())
    }

    /// Evicts the functions that have no slot on any of these nodes, which are all there are.
    fn evict_all_but(&self, nodes: &[Node]) {
        let containers = nodes.iter().flat_map(|node| &node.containers);
        let seen: HashSet<FunctionId> = containers.map(|(_, record)| record.function_id).collect();
        self.resources().retain(|id, _| seen.contains(id));
    }

    /// Reads the definitions that are not known yet.
    async fn read_definitions(&self, nodes: &[Node]) -> Result<(), Error> {
        let mut seen: HashMap<FunctionId, Revision> = HashMap::new();
        for (_, record) in nodes.iter().flat_map(|node| &node.containers) {
            let newest = seen.entry(record.function_id).or_insert(record.revision);
            *newest = record.revision.max(*newest);
        }
        let unknown: HashSet<FunctionId> = {
            let resources = self.resources();
            let known = |id: &FunctionId, seen: &Revision| {
                resources
                    .get(id)
                    .is_some_and(|(revision, _)| revision >= seen)
            };
            seen.iter()
                .filter(|(id, revision)| !known(id, revision))
                .map(|(id, _)| *id)
                .collect()
        };
        let read =
            stream::iter(unknown).map(|id| async move { (id, self.registry.function(id).await) });
        let mut read = std::pin::pin!(read.buffer_unordered(READS));
        while let Some((id, function)) = read.next().await {
            let record = match function {
                Ok(Some(function)) => function.record,
                // Deleted meanwhile, or not readable: what its slots use is not known.
                Ok(None) | Err(Error::Record { .. }) => continue,
                Err(error) => return Err(error),
            };
            let mut resources = self.resources();
            resources.insert(id, (record.revision, resources_of(&record.definition)));
        }
        Ok(())
    }
}

fn resources_of(definition: &FunctionDefinition) -> Resources {
    Resources {
        cpu: definition.cpu,
        memory: definition.memory,
    }
}

fn sum(all: impl Iterator<Item = Resources>) -> Resources {
    all.fold(Resources::default(), |sum, one| Resources {
        cpu: sum.cpu + one.cpu,
        memory: sum.memory.saturating_add(one.memory),
    })
}

fn candidate(node: &Node, assigned: Resources) -> Candidate {
    let capacity = node.facts.as_ref().map(|facts| Capacity {
        cores: facts.cores.into(),
        memory: facts.memory,
    });
    Candidate {
        ip: node.ip,
        schedulable: node.schedulable,
        capacity,
        assigned,
    }
}

fn new_slot(ip: Ipv4Addr) -> Backend {
    Backend {
        ip,
        container_id: ContainerId::new_random(),
    }
}
