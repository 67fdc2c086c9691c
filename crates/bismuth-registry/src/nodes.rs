//! Provisions, lists and cordons worker nodes. Their registration as alive is in `node_registration.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bismuth_coord::{Error as TreeError, Op};
use bismuth_model::{ContainerId, ContainerRecord, NodeFacts, NodeRecord};
use bytes::Bytes;
use futures_util::future::try_join_all;

use crate::Registry;
use crate::containers::readable;
use crate::error::{Error, Result};
use crate::layout::canonical;
use crate::transaction::{Attempts, Outcome, Proof, create, encode, set};

/// A worker node as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Whether new slots may be placed on it.
    pub schedulable: bool,
    /// What its bismuthd says of it, while that is alive.
    pub facts: Option<NodeFacts>,
    /// What is assigned to it, sorted by id.
    pub containers: Vec<(ContainerId, ContainerRecord)>,
    /// Assignments whose records cannot be decoded; the audit says what is wrong with them.
    pub unreadable: Vec<ContainerId>,
}

impl Node {
    /// Whether its bismuthd is there.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.facts.is_some()
    }
}

impl Registry {
    /// Makes a machine a node of this environment, schedulable. `false` if it was one already, which is left as it
    /// is.
    ///
    /// # Errors
    /// [`Error::NotBootstrapped`], and what every change may end in.
    pub async fn provision_node(&self, ip: Ipv4Addr) -> Result<bool> {
        let (path, directory) = (
            self.layout.node(ip),
            create(self.layout.containers(ip), Bytes::new()),
        );
        let node = create(
            path.clone(),
            encode(&path, &NodeRecord { schedulable: true })?,
        );
        let proof = Proof::Exists(path);
        let mut attempts = Attempts::new(format!("provision node {ip}"));
        loop {
            match self
                .commit(
                    attempts.act(),
                    vec![node.clone(), directory.clone()],
                    &proof,
                )
                .await?
            {
                Outcome::Committed => return Ok(true),
                Outcome::Refused(error) if error.is_not_found() => {
                    return Err(self.not_bootstrapped());
                }
                Outcome::Refused(error) if !error.is_conflict() => return Err(error.into()),
                Outcome::Refused(_) => {}
            }
            // It is there; its directory may not be, where a hand made only half of it. Not together with the node:
            // that may be taken out of the environment at this moment.
            match self
                .commit(attempts.act(), vec![directory.clone()], &proof)
                .await?
            {
                Outcome::Committed => return Ok(false),
                Outcome::Refused(TreeError::AlreadyExists { .. }) => return Ok(false),
                Outcome::Refused(error) if error.is_not_found() => attempts.next().await?,
                Outcome::Refused(error) => return Err(error.into()),
            }
        }
    }

    /// Takes a node that has nothing assigned out of the environment.
    ///
    /// # Errors
    /// [`Error::NodeUnknown`], [`Error::NodeInUse`], and what every change may end in.
    pub async fn deprovision_node(&self, ip: Ipv4Addr) -> Result<()> {
        let path = self.layout.node(ip);
        let proof = Proof::Gone(path.clone());
        let mut attempts = Attempts::new(format!("deprovision node {ip}"));
        loop {
            if self.tree.exists(&path).await?.is_none() {
                return Err(Error::NodeUnknown { ip });
            }
            let directory = self.layout.containers(ip);
            let assigned = self.names(&directory).await?;
            if let Some(names) = assigned.as_ref().filter(|names| !names.is_empty()) {
                return Err(Error::NodeInUse {
                    ip,
                    containers: names.len(),
                });
            }
            let mut ops = Vec::new();
            if self.tree.exists(&self.layout.alive(ip)).await?.is_some() {
                ops.push(Op::Delete {
                    path: self.layout.alive(ip),
                    expected: None,
                });
            }
            if assigned.is_some() {
                // Fails if something was assigned meanwhile.
                ops.push(Op::Delete {
                    path: directory,
                    expected: None,
                });
            }
            ops.push(Op::Delete {
                path: path.clone(),
                expected: None,
            });
            match self.commit(attempts.act(), ops, &proof).await? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) if error.is_conflict() || error.is_not_found() => {
                    attempts.next().await?
                }
                Outcome::Refused(error) => return Err(error.into()),
            }
        }
    }

    /// Says whether new slots may be placed on a node.
    ///
    /// # Errors
    /// [`Error::NodeUnknown`], and what every change may end in.
    pub async fn set_schedulable(&self, ip: Ipv4Addr, schedulable: bool) -> Result<()> {
        let path = self.layout.node(ip);
        let data = encode(&path, &NodeRecord { schedulable })?;
        let proof = Proof::Holds(path.clone(), data.clone());
        let mut attempts = Attempts::new(format!("set whether node {ip} is schedulable"));
        loop {
            let version = self
                .tree
                .exists(&path)
                .await?
                .ok_or(Error::NodeUnknown { ip })?;
            let ops = vec![set(path.clone(), data.clone(), version)];
            match self.commit(attempts.act(), ops, &proof).await? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) if error.is_conflict() || error.is_not_found() => {
                    attempts.next().await?
                }
                Outcome::Refused(error) => return Err(error.into()),
            }
        }
    }

    /// Reads all nodes with what is assigned to them, sorted by address.
    ///
    /// # Errors
    /// [`Error::NotBootstrapped`], [`Error::Tree`].
    pub async fn list_nodes(&self) -> Result<Vec<Node>> {
        let ips = self.node_ips().await?;
        let nodes = try_join_all(ips.into_iter().map(|ip| self.node(ip))).await?;
        // Those that went since they were listed are left out.
        Ok(nodes.into_iter().flatten().collect())
    }

    /// Reads one node; `None` if it is not provisioned. A node whose own record cannot be decoded counts as not
    /// schedulable, and one whose facts cannot as not alive.
    ///
    /// # Errors
    /// [`Error::Tree`].
    pub async fn node(&self, ip: Ipv4Addr) -> Result<Option<Node>> {
        let (node, alive) = (self.layout.node(ip), self.layout.alive(ip));
        let (record, facts, containers) = tokio::join!(
            self.read::<NodeRecord>(&node),
            self.read::<NodeFacts>(&alive),
            self.node_containers(ip)
        );
        let schedulable = match readable(record)? {
            Some(None) => return Ok(None),
            Some(Some(record)) => record.record.schedulable,
            None => false,
        };
        let facts = readable(facts)?.flatten().map(|stored| stored.record);
        let (containers, unreadable) = containers?;
        Ok(Some(Node {
            ip,
            schedulable,
            facts,
            containers,
            unreadable,
        }))
    }

    /// What the bismuthd of each of these nodes says of it; a node is missing that is not alive, or whose facts cannot be
    /// decoded.
    ///
    /// # Errors
    /// [`Error::Tree`].
    pub async fn facts_of(
        &self,
        ips: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Result<BTreeMap<Ipv4Addr, NodeFacts>> {
        let ips: BTreeSet<Ipv4Addr> = ips.into_iter().collect();
        let paths: Vec<String> = ips.iter().map(|ip| self.layout.alive(*ip)).collect();
        let mut alive = BTreeMap::new();
        let facts = self.read_many::<NodeFacts>(&paths).await;
        for (ip, facts) in ips.into_iter().zip(facts) {
            let facts = readable(facts)?.flatten();
            alive.extend(facts.map(|facts| (ip, facts.record)));
        }
        Ok(alive)
    }

    /// The addresses of all nodes, sorted.
    ///
    /// # Errors
    /// [`Error::NotBootstrapped`], [`Error::Tree`].
    pub async fn node_ips(&self) -> Result<Vec<Ipv4Addr>> {
        let names = self
            .names(&self.layout.nodes())
            .await?
            .ok_or_else(|| self.not_bootstrapped())?;
        let mut ips: Vec<Ipv4Addr> = names.iter().filter_map(|name| canonical(name)).collect();
        ips.sort_unstable();
        Ok(ips)
    }
}
