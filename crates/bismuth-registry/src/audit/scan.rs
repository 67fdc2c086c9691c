//! Reads the whole tree into tables, for the audit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bismuth_coord::{Error as TreeError, Version, Versioned, path};
use bismuth_model::{
    Backend, ContainerId, ContainerRecord, FunctionId, FunctionRecord, Hostname, LeaderRecord,
    NodeFacts, NodeRecord, Revision, RevisionRecord, Serving, Slot, TermRecord,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::codec::Record;
use crate::error::Result;
use crate::{Layout, Registry, ZnodeKind};

/// How many directories are listed at a time: enough to hide the round trips, few enough that an audit does not
/// push the traffic of others aside.
const LISTED_AT_A_TIME: usize = 64;

/// A record with where and when it was read.
#[derive(Debug)]
pub(super) struct Entry<R> {
    pub(super) path: String,
    pub(super) version: Version,
    pub(super) created_ms: u64,
    pub(super) ephemeral: bool,
    /// Or why it cannot be decoded.
    pub(super) record: Result<R, String>,
}

impl<R: Record> Entry<R> {
    fn new(path: String, node: &Versioned) -> Self {
        Self {
            path,
            version: node.version,
            created_ms: node.created_ms,
            ephemeral: node.ephemeral,
            record: R::decode(&node.data).map_err(|error| error.to_string()),
        }
    }
}

/// Everything that is in the tree.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) functions: BTreeMap<FunctionId, Entry<FunctionRecord>>,
    pub(super) lists: BTreeMap<FunctionId, Entry<Vec<Backend>>>,
    pub(super) serving: BTreeMap<FunctionId, Entry<Serving>>,
    pub(super) slots: BTreeMap<FunctionId, Entry<Vec<Slot>>>,
    pub(super) revisions: BTreeMap<(FunctionId, Revision), Entry<RevisionRecord>>,
    pub(super) nodes: BTreeMap<Ipv4Addr, Entry<NodeRecord>>,
    pub(super) alive: BTreeMap<Ipv4Addr, Entry<NodeFacts>>,
    pub(super) containers: BTreeMap<Backend, Entry<ContainerRecord>>,
    pub(super) routes: BTreeMap<Hostname, Entry<FunctionId>>,
    pub(super) leader: Option<Entry<LeaderRecord>>,
    /// Whether there is anything below `leader`, which nothing of ours could be.
    pub(super) leader_has_children: bool,
    pub(super) term: Option<Entry<TermRecord>>,
    /// Directories that are there.
    pub(super) directories: BTreeSet<String>,
    /// What is nothing of ours, without what is below it.
    pub(super) strays: Vec<Stray>,
}

/// Something in the wrong place.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) path: String,
    pub(super) version: Version,
    pub(super) has_children: bool,
}

impl Scan {
    fn add(&mut self, layout: &Layout, path: String, node: &Versioned, has_children: bool) {
        match layout.znode_kind(&path) {
            Some(ZnodeKind::Function(id)) => {
                drop(self.functions.insert(id, Entry::new(path, node)))
            }
            Some(ZnodeKind::Backends(id)) => drop(self.lists.insert(id, Entry::new(path, node))),
            Some(ZnodeKind::Serving(id)) => drop(self.serving.insert(id, Entry::new(path, node))),
            Some(ZnodeKind::Slots(id)) => drop(self.slots.insert(id, Entry::new(path, node))),
            Some(ZnodeKind::Revision(id, revision)) => drop(
                self.revisions
                    .insert((id, revision), Entry::new(path, node)),
            ),
            Some(ZnodeKind::Node(ip)) => drop(self.nodes.insert(ip, Entry::new(path, node))),
            Some(ZnodeKind::Alive(ip)) => drop(self.alive.insert(ip, Entry::new(path, node))),
            Some(ZnodeKind::Container(ip, container)) => {
                drop(
                    self.containers
                        .insert(slot(ip, container), Entry::new(path, node)),
                );
            }
            Some(ZnodeKind::Route(hostname)) => {
                drop(self.routes.insert(hostname, Entry::new(path, node)))
            }
            Some(ZnodeKind::Leader) => {
                self.leader = Some(Entry::new(path, node));
                self.leader_has_children = has_children;
            }
            Some(ZnodeKind::Term) => self.term = Some(Entry::new(path, node)),
            Some(_) => drop(self.directories.insert(path)),
            None => self.strays.push(Stray {
                path,
                version: node.version,
                has_children,
            }),
        }
    }
}

fn slot(ip: Ipv4Addr, container_id: ContainerId) -> Backend {
    Backend { ip, container_id }
}

impl Registry {
    /// Reads everything.
    pub(super) async fn scan(&self) -> Result<Scan> {
        let found = self.walk().await?;
        let paths: Vec<String> = found.keys().cloned().collect();
        let mut scan = Scan::default();
        for ((path, has_children), node) in found.into_iter().zip(self.get_many(&paths).await) {
            match node {
                Ok(node) => scan.add(&self.layout, path, &node, has_children),
                // Deleted since it was listed.
                Err(TreeError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(scan)
    }

    /// All paths, and whether there is anything below them. Goes neither below strays nor below what is in the
    /// directory of the election.
    async fn walk(&self) -> Result<BTreeMap<String, bool>> {
        let mut found = BTreeMap::new();
        let root = self.layout.root().to_owned();
        if self.tree.exists(&root).await?.is_none() {
            return Err(self.not_bootstrapped());
        }
        let mut level = vec![root];
        while !level.is_empty() {
            let listed: Vec<(String, Vec<String>)> =
                stream::iter(level.into_iter().map(|path| self.list_below(path)))
                    .buffer_unordered(LISTED_AT_A_TIME)
                    .try_collect()
                    .await?;
            level = Vec::new();
            for (parent, names) in listed {
                if self.is_entered(&parent) {
                    level.extend(names.iter().map(|name| path::join(&parent, name)));
                }
                found.insert(parent, !names.is_empty());
            }
        }
        Ok(found)
    }

    async fn list_below(&self, path: String) -> Result<(String, Vec<String>)> {
        let names = self.names(&path).await?.unwrap_or_default();
        Ok((path, names))
    }

    fn is_entered(&self, path: &str) -> bool {
        match self.layout.znode_kind(path) {
            None | Some(ZnodeKind::Leader | ZnodeKind::Term) => false,
            Some(ZnodeKind::Election) => path == self.layout.election(),
            Some(_) => true,
        }
    }
}
