//! Finds inconsistencies in a scan of the tree. Pure.

use std::collections::BTreeSet;

use bismuth_base::now_ms;
use bismuth_coord::{Op, path};
use bismuth_model::{
    Backend, ContainerRecord, ContainerStatus, FunctionId, FunctionRecord, NodeRecord, Revision,
};
use bytes::Bytes;

use super::scan::{Entry, Scan, Stray};
use super::{Finding, Inconsistency, Repair};
use crate::codec::Record;
use crate::derive::listed;
use crate::transaction::{check as unchanged, create, delete, set};
use crate::{Layout, ZnodeKind};

/// Finds inconsistencies. Slots created after `grace_begin_ms` may be unlisted.
pub(super) fn check(layout: &Layout, scan: &Scan, grace_begin_ms: u64) -> Vec<Finding> {
    let mut audit = Audit {
        layout,
        scan,
        grace_begin_ms,
        findings: Vec::new(),
    };
    audit.directories();
    audit.strays();
    audit.nodes();
    audit.election();
    let mut found = BTreeSet::new();
    for (id, function) in &scan.functions {
        let before = audit.findings.len();
        audit.function(*id, function);
        found.extend((audit.findings.len() > before).then_some(*id));
    }
    for (slot, container) in &scan.containers {
        let before = audit.findings.len();
        audit.container(*slot, container);
        if audit.findings.len() > before {
            let function = match &container.record {
                Ok(record) => Some(record.function_id),
                Err(_) => audit.lister(*slot).map(|(id, _)| id),
            };
            found.extend(function);
        }
    }
    audit.slots(&found);
    audit.routes();
    audit.findings
}

pub(super) struct Audit<'a> {
    pub(super) layout: &'a Layout,
    pub(super) scan: &'a Scan,
    grace_begin_ms: u64,
    findings: Vec<Finding>,
}

impl Audit<'_> {
    /// Adds a finding; `ops` that could not be made (a record too large) leave it without a repair.
    pub(super) fn find(
        &mut self,
        what: Inconsistency,
        how_to_repair: impl Into<String>,
        ops: Option<Vec<Op>>,
    ) {
        let repair = ops.map(|ops| Repair { ops });
        self.findings.push(Finding {
            what,
            how_to_repair: how_to_repair.into(),
            repair,
        });
    }

    fn directories(&mut self) {
        for path in self.layout.base() {
            if !self.scan.directories.contains(&path) {
                let ops = vec![create(path.clone(), Bytes::new())];
                self.find(
                    Inconsistency::DirectoryMissing { path },
                    "create it (bootstrap does)",
                    Some(ops),
                );
            }
        }
    }

    fn strays(&mut self) {
        for Stray {
            path,
            version,
            has_children,
        } in &self.scan.strays
        {
            // In these directories every name is an id, an address or a hostname, in every version of Bismuth.
            let parent = path::parent(path).and_then(|parent| self.layout.znode_kind(parent));
            let misnamed = matches!(
                parent,
                Some(
                    ZnodeKind::Functions
                        | ZnodeKind::Nodes
                        | ZnodeKind::Containers(_)
                        | ZnodeKind::Revisions(_)
                        | ZnodeKind::Routes
                )
            );
            let ops = (misnamed && !has_children).then(|| vec![delete(path.clone(), *version)]);
            let what = Inconsistency::Misplaced { path: path.clone() };
            self.find(
                what,
                "delete it, unless another program keeps it there",
                ops,
            );
        }
    }

    fn nodes(&mut self) {
        for (ip, node) in &self.scan.nodes {
            if let Err(reason) = &node.record {
                let data = encoded(&NodeRecord { schedulable: false });
                let ops = data.map(|data| vec![set(node.path.clone(), data, node.version)]);
                self.find(
                    undecodable(node, reason),
                    "make it not schedulable, and undrain the node if it is to be",
                    ops,
                );
            }
            let directory = self.layout.containers(*ip);
            if !self.scan.directories.contains(&directory) {
                let ops = vec![create(directory, Bytes::new())];
                let what = Inconsistency::NodeWithoutDirectory { ip: *ip };
                self.find(
                    what,
                    "create it (provisioning the node again does)",
                    Some(ops),
                );
            }
        }
        for (ip, alive) in &self.scan.alive {
            let ops = || Some(vec![delete(alive.path.clone(), alive.version)]);
            if !alive.ephemeral {
                let what = Inconsistency::AlivePersistent { ip: *ip };
                self.find(
                    what,
                    "delete it; the node's bismuthd registers again",
                    ops(),
                );
            } else if let Err(reason) = &alive.record {
                self.find(
                    undecodable(alive, reason),
                    "delete it; the node's bismuthd registers again",
                    ops(),
                );
            }
        }
    }

    fn election(&mut self) {
        if let Some(leader) = &self.scan.leader {
            if !leader.ephemeral {
                let what = Inconsistency::LeaderPersistent {
                    path: leader.path.clone(),
                };
                let ops = vec![delete(leader.path.clone(), leader.version)];
                self.find(
                    what,
                    "delete it, and what is below it; a bismuth-api leads then",
                    (!self.scan.leader_has_children).then_some(ops),
                );
            } else if let Err(reason) = &leader.record {
                self.find(
                    undecodable(leader, reason),
                    "update bismuthctl if a later bismuth-api leads, else end the program whose session holds it",
                    None,
                );
            }
        }
        if let Some((term, reason)) = self
            .scan
            .term
            .as_ref()
            .and_then(|term| Some((term, term.record.as_ref().err()?)))
        {
            self.find(
                undecodable(term, reason),
                "leave it: only its version counts, and the next leader writes it anew",
                None,
            );
        }
    }

    fn function(&mut self, id: FunctionId, function: &Entry<FunctionRecord>) {
        if let Err(reason) = &function.record {
            self.find(
                undecodable(function, reason),
                "delete the function and create it again",
                None,
            );
        }
        let rebuild = || encoded(&self.assigned_to(id, function));
        match self.scan.lists.get(&id) {
            None => {
                let ops = rebuild().map(|data| {
                    vec![
                        unchanged(function.path.clone(), function.version),
                        create(self.layout.backends(id), data),
                    ]
                });
                let what = Inconsistency::ListMissing { function: id };
                self.find(
                    what,
                    "make it of the slots, or of what is assigned for the current revision",
                    ops,
                );
            }
            Some(list) => match &list.record {
                Err(reason) => {
                    let ops =
                        rebuild().map(|data| vec![set(list.path.clone(), data, list.version)]);
                    let how =
                        "make it of the slots, or of what is assigned for the current revision";
                    self.find(undecodable(list, reason), how, ops);
                }
                Ok(backends) => self.backends(id, function, list, backends),
            },
        }
    }

    /// The backend list as it should be: what the slots say; without them, what is assigned for the current revision.
    fn assigned_to(&self, id: FunctionId, function: &Entry<FunctionRecord>) -> Vec<Backend> {
        let slots = self.scan.slots.get(&id);
        let slots = slots.and_then(|slots| slots.record.as_ref().ok());
        let serving = self.scan.serving.get(&id);
        let serving = serving.and_then(|serving| serving.record.as_ref().ok());
        if let (Some(slots), Some(serving)) = (slots, serving) {
            return listed(serving, slots);
        }
        let Ok(function) = &function.record else {
            return Vec::new();
        };
        let serves = |container: &&Entry<ContainerRecord>| {
            container
                .record
                .as_ref()
                .is_ok_and(|r| r.function_id == id && r.revision == function.revision)
        };
        self.scan
            .containers
            .iter()
            .filter(|(_, container)| serves(container))
            .map(|(slot, _)| *slot)
            .collect()
    }

    fn backends(
        &mut self,
        id: FunctionId,
        function: &Entry<FunctionRecord>,
        list: &Entry<Vec<Backend>>,
        backends: &[Backend],
    ) {
        let mut seen = BTreeSet::new();
        for (index, backend) in backends.iter().enumerate() {
            let without = || {
                let mut rest = backends.to_vec();
                rest.remove(index);
                encoded(&rest).map(|data| vec![set(list.path.clone(), data, list.version)])
            };
            let backend = *backend;
            if !seen.insert(backend) {
                self.find(
                    Inconsistency::BackendTwice {
                        function: id,
                        backend,
                    },
                    "list it once",
                    without(),
                );
                continue;
            }
            if !self.scan.nodes.contains_key(&backend.ip) {
                let what = Inconsistency::BackendOnUnknownNode {
                    function: id,
                    backend,
                };
                self.find(
                    what,
                    "take it off the list, or provision the node",
                    without(),
                );
                continue;
            }
            match self
                .scan
                .containers
                .get(&backend)
                .map(|container| &container.record)
            {
                None => {
                    let ops = function.record.as_ref().ok().and_then(|record| {
                        let revision = self.revision_of(id, backend).unwrap_or(record.revision);
                        let assignment = assigned(id, revision)?;
                        Some(vec![
                            unchanged(function.path.clone(), function.version),
                            unchanged(list.path.clone(), list.version),
                            create(
                                self.layout.container(backend.ip, backend.container_id),
                                assignment,
                            ),
                        ])
                    });
                    let what = Inconsistency::BackendUnassigned {
                        function: id,
                        backend,
                    };
                    self.find(what, "assign it to the node, or take it off the list", ops);
                }
                Some(Ok(record)) if record.function_id != id => {
                    let what = Inconsistency::BackendOfOther {
                        function: id,
                        backend,
                        serves: record.function_id,
                    };
                    self.find(what, "take it off the list", without());
                }
                // What cannot be decoded is found with the containers.
                Some(_) => {}
            }
        }
    }

    fn container(&mut self, slot: Backend, container: &Entry<ContainerRecord>) {
        let remove = || vec![delete(container.path.clone(), container.version)];
        let record = match &container.record {
            Ok(record) => record,
            Err(reason) => {
                let ops = match self.lister(slot) {
                    Some((id, revision)) => assigned(id, revision)
                        .map(|data| vec![set(container.path.clone(), data, container.version)]),
                    None => Some(remove()),
                };
                self.find(
                    undecodable(container, reason),
                    "assign it anew if a function lists it, else remove it",
                    ops,
                );
                return;
            }
        };
        let id = record.function_id;
        let Some(function) = self.scan.functions.get(&id) else {
            let what = Inconsistency::ContainerOfMissingFunction {
                container: slot,
                function: id,
            };
            self.find(
                what,
                "remove the assignment; the node then removes the container",
                Some(remove()),
            );
            return;
        };
        // Nothing can be said about the containers of what cannot be decoded.
        let Ok(current) = function.record.as_ref().map(|record| record.revision) else {
            return;
        };
        let Some(list) = self.scan.lists.get(&id) else {
            return;
        };
        let Ok(listed) = list.record.as_ref().map(|list| list.contains(&slot)) else {
            return;
        };
        if record.revision > current {
            let ops = if listed {
                let data = encoded(&ContainerRecord {
                    revision: current,
                    ..record.clone()
                });
                data.map(|data| {
                    vec![
                        unchanged(function.path.clone(), function.version),
                        set(container.path.clone(), data, container.version),
                    ]
                })
            } else {
                Some(remove())
            };
            let revision = record.revision;
            let what = Inconsistency::ContainerOfFutureRevision {
                container: slot,
                function: id,
                revision,
                current,
            };
            self.find(
                what,
                "assign it for the current revision if the function lists it, else remove it",
                ops,
            );
        } else if !listed && container.created_ms <= self.grace_begin_ms {
            let mut ops = vec![unchanged(list.path.clone(), list.version)];
            ops.extend(remove());
            let what = Inconsistency::ContainerUnlisted {
                container: slot,
                function: id,
            };
            self.find(
                what,
                "remove the assignment, unless a deployment is under way",
                Some(ops),
            );
        }
    }

    /// The one function that lists a slot, with its revision.
    fn lister(&self, slot: Backend) -> Option<(FunctionId, Revision)> {
        let lists = |(_, list): &(&FunctionId, &Entry<Vec<Backend>>)| {
            list.record.as_ref().is_ok_and(|list| list.contains(&slot))
        };
        let mut listers = self.scan.lists.iter().filter(lists);
        let (id, _) = listers.next()?;
        let record = self.scan.functions.get(id)?.record.as_ref().ok()?;
        let revision = self.revision_of(*id, slot).unwrap_or(record.revision);
        listers.next().is_none().then_some((*id, revision))
    }

    /// The revision that a function's list of slots says of a slot.
    fn revision_of(&self, id: FunctionId, backend: Backend) -> Option<Revision> {
        let slots = self.scan.slots.get(&id)?.record.as_ref().ok()?;
        let slot = slots.iter().find(|slot| slot.backend == backend)?;
        Some(slot.revision)
    }
}

pub(super) fn undecodable<R>(entry: &Entry<R>, reason: &str) -> Inconsistency {
    Inconsistency::Undecodable {
        path: entry.path.clone(),
        reason: reason.to_owned(),
    }
}

pub(super) fn encoded(record: &impl Record) -> Option<Bytes> {
    record.encode().ok()
}

/// A new assignment.
fn assigned(function_id: FunctionId, revision: Revision) -> Option<Bytes> {
    encoded(&ContainerRecord {
        function_id,
        revision,
        status: ContainerStatus::assigned(now_ms()),
    })
}
