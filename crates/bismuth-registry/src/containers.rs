//! Reads container records, and updates the status that a node reports for its containers.

use std::net::Ipv4Addr;

use bismuth_model::{Backend, ContainerId, ContainerRecord, ContainerStatus, FunctionId, Slot};

use crate::Registry;
use crate::error::{Error, Result};
use crate::layout::canonical;
use crate::transaction::{Attempts, Outcome, Proof, encode, set};

impl Registry {
    /// Reads one assignment; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::Record`] if it cannot be decoded, [`Error::Tree`].
    pub async fn container(
        &self,
        ip: Ipv4Addr,
        container: ContainerId,
    ) -> Result<Option<ContainerRecord>> {
        let record = self.read(&self.layout.container(ip, container)).await?;
        Ok(record.map(|stored| stored.record))
    }

    /// Reads the assignments behind these backends, in their order. `None` stands for one that does not exist or
    /// cannot be decoded (which is logged, and found by the audit).
    ///
    /// # Errors
    /// [`Error::Tree`].
    pub async fn container_statuses(
        &self,
        backends: &[Backend],
    ) -> Result<Vec<Option<ContainerRecord>>> {
        let paths: Vec<String> = backends
            .iter()
            .map(|b| self.layout.container(b.ip, b.container_id))
            .collect();
        let records = self.read_many::<ContainerRecord>(&paths).await;
        records
            .into_iter()
            .map(|record| Ok(readable(record)?.flatten().map(|stored| stored.record)))
            .collect()
    }

    /// Every slot of a function, listed as a backend or not, with its record, newest revision first. Reads what is of
    /// this function only, unless it was written by a version without slot lists.
    ///
    /// # Errors
    /// [`Error::NotBootstrapped`], [`Error::Record`] if its list of slots cannot be decoded, [`Error::Tree`].
    pub async fn function_containers(
        &self,
        id: FunctionId,
    ) -> Result<Vec<(Backend, ContainerRecord)>> {
        let Some(slots) = self.read::<Vec<Slot>>(&self.layout.slots(id)).await? else {
            return self.assigned_containers(id).await;
        };
        let backends: Vec<Backend> = slots.record.iter().map(|slot| slot.backend).collect();
        let records = self.container_statuses(&backends).await?;
        let mut found: Vec<(Backend, ContainerRecord)> = backends
            .into_iter()
            .zip(records)
            .filter_map(|(backend, record)| Some((backend, record?)))
            .collect();
        sort_by_revision(&mut found);
        Ok(found)
    }

    /// The assignments that are to be removed with a function: those of its slots that are there, readable or not; what
    /// the nodes say if there is no list of slots that can be read.
    pub(crate) async fn assigned_paths(&self, id: FunctionId) -> Result<Vec<String>> {
        let path = |slot: &Backend| self.layout.container(slot.ip, slot.container_id);
        match self.read::<Vec<Slot>>(&self.layout.slots(id)).await {
            Ok(Some(slots)) => {
                let slots = slots.record.iter();
                let paths: Vec<String> = slots.map(|slot| path(&slot.backend)).collect();
                let records = self.read_many::<ContainerRecord>(&paths).await;
                let mut there = Vec::with_capacity(paths.len());
                for (record, path) in records.into_iter().zip(paths) {
                    match readable(record)? {
                        // One that a hand listed and that is another function's stays.
                        Some(Some(stored)) if stored.record.function_id != id => {}
                        Some(Some(_)) | None => there.push(path),
                        Some(None) => {}
                    }
                }
                Ok(there)
            }
            Ok(None) | Err(Error::Record { .. }) => {
                let assigned = self.assigned_containers(id).await?;
                Ok(assigned.iter().map(|(slot, _)| path(slot)).collect())
            }
            Err(error) => Err(error),
        }
    }

    /// What nodes are to run of a function, newest revision first. Looks at every node.
    pub(crate) async fn assigned_containers(
        &self,
        id: FunctionId,
    ) -> Result<Vec<(Backend, ContainerRecord)>> {
        let mut found = Vec::new();
        for ip in self.node_ips().await? {
            let containers = self.node_containers(ip).await?.0.into_iter();
            found.extend(
                containers
                    .filter(|(_, record)| record.function_id == id)
                    .map(|(container_id, record)| (Backend { ip, container_id }, record)),
            );
        }
        sort_by_revision(&mut found);
        Ok(found)
    }

    /// Writes what became of a container. For the node that it is assigned to; creates nothing.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`] if it is not assigned (any more), [`Error::Record`] (too large), and what every
    /// change may end in.
    pub async fn update_container_status(
        &self,
        ip: Ipv4Addr,
        container: ContainerId,
        status: &ContainerStatus,
    ) -> Result<()> {
        let path = self.layout.container(ip, container);
        let mut attempts = Attempts::new(format!(
            "update the status of container {container} on node {ip}"
        ));
        loop {
            let stored = self.read::<ContainerRecord>(&path).await?;
            let stored = stored.ok_or(Error::ContainerUnknown { ip, container })?;
            if stored.record.status == *status {
                return Ok(());
            }
            let data = encode(
                &path,
                &ContainerRecord {
                    status: status.clone(),
                    ..stored.record
                },
            )?;
            let ops = vec![set(path.clone(), data.clone(), stored.version)];
            match self
                .commit(attempts.act(), ops, &Proof::Holds(path.clone(), data))
                .await?
            {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) if error.is_conflict() || error.is_not_found() => {
                    attempts.next().await?
                }
                Outcome::Refused(error) => return Err(error.into()),
            }
        }
    }

    /// The assignments of a node, sorted by id, and the ids of those that cannot be decoded. Empty for a node that
    /// does not exist.
    pub(crate) async fn node_containers(
        &self,
        ip: Ipv4Addr,
    ) -> Result<(Vec<(ContainerId, ContainerRecord)>, Vec<ContainerId>)> {
        let names = self
            .names(&self.layout.containers(ip))
            .await?
            .unwrap_or_default();
        let ids: Vec<ContainerId> = names.iter().filter_map(|name| canonical(name)).collect();
        let paths: Vec<String> = ids
            .iter()
            .map(|id| self.layout.container(ip, *id))
            .collect();
        let (mut containers, mut unreadable) = (Vec::with_capacity(ids.len()), Vec::new());
        for (id, record) in ids
            .into_iter()
            .zip(self.read_many::<ContainerRecord>(&paths).await)
        {
            match readable(record)? {
                Some(Some(stored)) => containers.push((id, stored.record)),
                // Released since it was listed.
                Some(None) => {}
                None => unreadable.push(id),
            }
        }
        Ok((containers, unreadable))
    }
}

/// Takes a record that cannot be decoded out of the errors: `Ok(None)`. One bad record hides no other.
pub(crate) fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error @ Error::Record { .. }) => {
            tracing::warn!(%error, "a record is skipped because it cannot be decoded");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Newest revision first, and within it in the order of assignment.
fn sort_by_revision(containers: &mut [(Backend, ContainerRecord)]) {
    containers.sort_by_key(|(slot, record)| {
        (
            std::cmp::Reverse(record.revision),
            record.status.created_ms,
            *slot,
        )
    });
}
