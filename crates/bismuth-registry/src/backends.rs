//! Changes backend lists (where requests go) and assignments of slots (what nodes run).
//!
//! ```text
//!   add_backend ─► assigned and listed ─► remove_backend                   (both at once)
//!   replace_definition ─► assigned ─► switch_backends ─► listed ─► switch_backends ─► release_container
//! ```
//!
//! A listed slot is always assigned: whoever lists a slot checks in the same transaction that it is assigned, and
//! whoever takes an assignment away checks that it is not listed.

use std::net::Ipv4Addr;

use bismuth_base::now_ms;
use bismuth_coord::{Op, Version};
use bismuth_model::{Backend, ContainerId, ContainerRecord, FunctionId, FunctionRecord};
use bytes::Bytes;

use crate::Registry;
use crate::error::{Error, Result};
use crate::functions::check_list;
use crate::transaction::{Attempts, Outcome, Proof, Stored, check, create, encode, set};

/// A backend list and the version to expect; no version if the node is missing.
struct List {
    backends: Vec<Backend>,
    version: Option<Version>,
}

impl Registry {
    /// Sends the requests of a function to these backends, in this order. Those that are new in the list must be
    /// assigned; those that are no longer in it stay assigned until [`Self::release_container`].
    ///
    /// # Errors
    /// [`Error::FunctionUnknown`], [`Error::ContainerUnknown`] or [`Error::ContainerOfOther`] for a backend that
    /// does not serve this function, [`Error::TooManyBackends`], [`Error::BackendTwice`], and what every change may
    /// end in.
    pub async fn switch_backends(&self, id: FunctionId, backends: &[Backend]) -> Result<()> {
        check_list(id, backends)?;
        let path = self.layout.backends(id);
        let data = encode(&path, &backends.to_vec())?;
        let proof = Proof::Holds(path, data.clone());
        let mut attempts = Attempts::new(format!("switch the backends of function {id}"));
        loop {
            let current = self.list(id).await?;
            let new: Vec<Backend> = backends
                .iter()
                .filter(|b| !current.backends.contains(b))
                .copied()
                .collect();
            let mut ops = self.check_assigned(id, &new).await?;
            ops.push(self.put_list(id, data.clone(), current.version));
            match self.commit(attempts.act(), ops, &proof).await? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) => self.retry_on_conflict(error)?,
            }
            attempts.next().await?;
        }
    }

    /// Assigns one more slot of the current revision to a node and lists it last.
    ///
    /// # Errors
    /// [`Error::FunctionUnknown`], [`Error::NodeUnknown`], [`Error::TooManyBackends`], and what every change may end
    /// in.
    pub async fn add_backend(&self, id: FunctionId, ip: Ipv4Addr) -> Result<Backend> {
        let slot = Backend {
            ip,
            container_id: ContainerId::new_random(),
        };
        let proof = Proof::Exists(self.layout.container(ip, slot.container_id));
        let mut attempts = Attempts::new(format!("add a backend on node {ip} to function {id}"));
        loop {
            let function = self.stored_function(id).await?;
            let mut list = self.list(id).await?;
            list.backends.push(slot);
            check_list(id, &list.backends)?;
            if self
                .tree
                .exists(&self.layout.containers(ip))
                .await?
                .is_none()
            {
                return Err(Error::NodeUnknown { ip });
            }
            let ops = vec![
                check(self.layout.function(id), function.version),
                self.put_list(
                    id,
                    encode(&self.layout.backends(id), &list.backends)?,
                    list.version,
                ),
                self.create_container(&slot, id, function.record.revision, now_ms())?,
            ];
            match self.commit(attempts.act(), ops, &proof).await? {
                Outcome::Committed => return Ok(slot),
                Outcome::Refused(error) => self.retry_on_conflict(error)?,
            }
            attempts.next().await?;
        }
    }

    /// Takes a backend off the list together with its assignment. The node drains the container and removes it.
    ///
    /// # Errors
    /// [`Error::FunctionUnknown`], [`Error::BackendUnknown`], and what every change may end in.
    pub async fn remove_backend(
        &self,
        id: FunctionId,
        ip: Ipv4Addr,
        container: ContainerId,
    ) -> Result<()> {
        let backend = Backend {
            ip,
            container_id: container,
        };
        let path = self.layout.container(ip, container);
        let mut attempts = Attempts::new(format!("remove backend {backend} of function {id}"));
        loop {
            let mut list = self.list(id).await?;
            let before = list.backends.len();
            list.backends.retain(|listed| *listed != backend);
            if list.backends.len() == before {
                return Err(Error::BackendUnknown {
                    ip,
                    container,
                    function: id,
                });
            }
            let data = encode(&self.layout.backends(id), &list.backends)?;
            let mut ops = vec![self.put_list(id, data.clone(), list.version)];
            let proof = match self.tree.exists(&path).await? {
                // The node may change its status at any moment, so no version is expected.
                Some(_) => {
                    ops.push(Op::Delete {
                        path: path.clone(),
                        expected: None,
                    });
                    Proof::Gone(path.clone())
                }
                None => Proof::Holds(self.layout.backends(id), data),
            };
            match self.commit(attempts.act(), ops, &proof).await? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) => self.retry_on_conflict(error)?,
            }
            attempts.next().await?;
        }
    }

    /// Takes away the assignment of a slot that is not listed (any more). The node drains the container and
    /// removes it.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::StillRouted`], and what every change may end in.
    pub async fn release_container(&self, ip: Ipv4Addr, container: ContainerId) -> Result<()> {
        let backend = Backend {
            ip,
            container_id: container,
        };
        let path = self.layout.container(ip, container);
        let proof = Proof::Gone(path.clone());
        let mut attempts = Attempts::new(format!("release container {container} on node {ip}"));
        loop {
            let record = self.read::<ContainerRecord>(&path).await?;
            let function = record
                .ok_or(Error::ContainerUnknown { ip, container })?
                .record
                .function_id;
            let mut ops = Vec::new();
            let list = self.layout.backends(function);
            if let Some(listed) = self.read::<Vec<Backend>>(&list).await? {
                if listed.record.contains(&backend) {
                    return Err(Error::StillRouted {
                        ip,
                        container,
                        function,
                    });
                }
                ops.push(check(list, listed.version));
            }
            ops.push(Op::Delete {
                path: path.clone(),
                expected: None,
            });
            match self.commit(attempts.act(), ops, &proof).await? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) => self.retry_on_conflict(error)?,
            }
            attempts.next().await?;
        }
    }

    async fn stored_function(&self, id: FunctionId) -> Result<Stored<FunctionRecord>> {
        self.read(&self.layout.function(id))
            .await?
            .ok_or(Error::FunctionUnknown { id })
    }

    /// The list of a function that is there. That the list itself is missing is an inconsistency, which the next
    /// change repairs.
    async fn list(&self, id: FunctionId) -> Result<List> {
        match self.read::<Vec<Backend>>(&self.layout.backends(id)).await? {
            Some(list) => Ok(List {
                backends: list.record,
                version: Some(list.version),
            }),
            None if self.tree.exists(&self.layout.function(id)).await?.is_some() => Ok(List {
                backends: Vec::new(),
                version: None,
            }),
            None => Err(Error::FunctionUnknown { id }),
        }
    }

    fn put_list(&self, id: FunctionId, data: Bytes, version: Option<Version>) -> Op {
        let path = self.layout.backends(id);
        match version {
            Some(version) => set(path, data, version),
            None => create(path, data),
        }
    }

    /// The checks that these slots are assigned to this function and stay so.
    async fn check_assigned(&self, id: FunctionId, slots: &[Backend]) -> Result<Vec<Op>> {
        let paths: Vec<String> = slots
            .iter()
            .map(|slot| self.layout.container(slot.ip, slot.container_id))
            .collect();
        let records = self.read_many::<ContainerRecord>(&paths).await;
        let mut ops = Vec::with_capacity(slots.len());
        for ((slot, path), record) in slots.iter().zip(paths).zip(records) {
            let (ip, container) = (slot.ip, slot.container_id);
            let record = record?.ok_or(Error::ContainerUnknown { ip, container })?;
            if record.record.function_id != id {
                return Err(Error::ContainerOfOther {
                    ip,
                    container,
                    owner: record.record.function_id,
                });
            }
            ops.push(check(path, record.version));
        }
        Ok(ops)
    }

    /// `Ok` if a transaction was refused because something changed since it was read, so that reading again tells.
    fn retry_on_conflict(&self, error: bismuth_coord::Error) -> Result<()> {
        if error.is_conflict() || error.is_not_found() {
            Ok(())
        } else {
            Err(error.into())
        }
    }
}
