//! Changes what serves (where requests go) and the slots (what nodes run).
//!
//! ```text
//!   add_backend ─► assigned and listed ─► remove_backend                   (both at once)
//!   replace_definition ─► assigned ─► switch_backends ─► listed ─► switch_backends ─► release_container
//! ```
//!
//! A listed slot is always assigned: slots, backend list and assignments change in one transaction.

use std::net::Ipv4Addr;

use bismuth_model::{Backend, ContainerId, FunctionId, Revision, RevisionFate, Slot, SlotRole};

use crate::Registry;
use crate::deployment::{Deployment, new_slot};
use crate::derive::{group, groups_of};
use crate::error::{Error, Result};
use crate::transaction::{Attempts, Outcome, Proof};

impl Registry {
    /// Sends the requests of a function to these backends, in this order, with the limits and hostnames of their newest
    /// revision. Its other slots that took requests are leaving: assigned until [`Self::release_container`]. Whether the
    /// revision has run is the caller's to know, and to [record](Self::record_fate).
    ///
    /// # Errors
    /// [`Error::FunctionUnknown`], [`Error::ContainerUnknown`] or [`Error::ContainerOfOther`] for a backend that
    /// does not serve this function, [`Error::TooManyBackends`], [`Error::BackendTwice`], and what every change may
    /// end in.
    pub async fn switch_backends(&self, id: FunctionId, backends: &[Backend]) -> Result<()> {
        let mut attempts = Attempts::new(format!("switch the backends of function {id}"));
        loop {
            let before = self.known_deployment(id).await?;
            let after = self.switched(&before, backends).await?;
            let written = |after: &Deployment| self.written(&before, after);
            let done = self.commit_deployment(attempts.act(), &before, after, written);
            match done.await? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) => self.explain_refusal(id, error).await?,
            }
            attempts.next().await?;
        }
    }

    /// The function with its requests sent to these backends.
    async fn switched(&self, before: &Deployment, backends: &[Backend]) -> Result<Deployment> {
        let id = before.id;
        let mut after = before.clone();
        let mut listed = Vec::with_capacity(backends.len());
        for backend in backends {
            match after.slots.iter().position(|slot| slot.backend == *backend) {
                Some(index) => listed.push(after.slots.remove(index)),
                None if listed.iter().any(|slot: &Slot| slot.backend == *backend) => {
                    let container = backend.container_id;
                    return Err(Error::BackendTwice { container });
                }
                None => return Err(self.not_of_function(id, *backend).await),
            }
        }
        for slot in listed
            .iter_mut()
            .filter(|slot| slot.role == SlotRole::Leaving)
        {
            slot.role = SlotRole::Active;
        }
        let groups = groups_of(listed.iter());
        let newest = groups.iter().map(|group| group.revision).max();
        for slot in &mut after.slots {
            if newest.is_none_or(|newest| slot.revision <= newest) {
                slot.role = SlotRole::Leaving;
            }
        }
        listed.append(&mut after.slots);
        after.slots = listed;
        // Without backends the revision that served goes on serving, from nowhere.
        if let Some(newest) = newest {
            after.serving.groups = groups;
            self.serve(&mut after, newest).await?;
        }
        Ok(after)
    }

    /// Lets a revision's limits and hostnames be those that serve.
    async fn serve(&self, after: &mut Deployment, revision: Revision) -> Result<()> {
        if revision == after.wanted.revision {
            after.serving.set_definition(&after.wanted.definition);
        } else if let Some(kept) = self.revision(after.id, revision).await? {
            after.serving.set_definition(&kept.definition);
        }
        Ok(())
    }

    /// Why a backend cannot serve a function.
    async fn not_of_function(&self, id: FunctionId, backend: Backend) -> Error {
        let (ip, container) = (backend.ip, backend.container_id);
        match self.container(ip, container).await {
            Ok(Some(record)) if record.function_id != id => Error::ContainerOfOther {
                ip,
                container,
                owner: record.function_id,
            },
            Ok(_) => Error::ContainerUnknown { ip, container },
            Err(error) => error,
        }
    }

    /// Assigns one more slot of [`Self::revision_to_add`] to a node, by hand, and lists it.
    ///
    /// # Errors
    /// [`Error::FunctionUnknown`], [`Error::NodeUnknown`], [`Error::TooManyBackends`], and what every change may end
    /// in.
    pub async fn add_backend(&self, id: FunctionId, ip: Ipv4Addr) -> Result<Backend> {
        let backend = Backend {
            ip,
            container_id: ContainerId::new_random(),
        };
        let assigned = self.layout.container(ip, backend.container_id);
        let mut attempts = Attempts::new(format!("add a backend on node {ip} to function {id}"));
        loop {
            let before = self.known_deployment(id).await?;
            let mut after = before.clone();
            let revision = self.revision_to_add(&before).await?;
            let mut slot = new_slot(backend, revision);
            slot.pinned = true;
            if before.serving.revision() != Some(revision) {
                after.serving.groups = vec![group(revision)];
                self.serve(&mut after, revision).await?;
            }
            after.slots.push(slot);
            let proof = |_: &Deployment| Ok(Proof::Exists(assigned.clone()));
            let done = self.commit_deployment(attempts.act(), &before, after, proof);
            match done.await? {
                Outcome::Committed => return Ok(backend),
                Outcome::Refused(error) => self.explain_refusal(id, error).await?,
            }
            attempts.next().await?;
        }
    }

    /// The revision of a backend that is added by hand: the one that serves; where no request goes anywhere the wanted one,
    /// unless that failed.
    ///
    /// # Errors
    /// [`Error::Record`], [`Error::Tree`].
    pub async fn revision_to_add(&self, deployment: &Deployment) -> Result<Revision> {
        let wanted = deployment.wanted.revision;
        let Some(serving) = deployment.serving.revision() else {
            return Ok(wanted);
        };
        if serving == wanted || !deployment.backends().is_empty() {
            return Ok(serving);
        }
        let kept = self.revision(deployment.id, wanted).await?;
        let failed = kept.is_some_and(|kept| matches!(kept.fate, RevisionFate::Failed { .. }));
        Ok(if failed { serving } else { wanted })
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
        let act = format!("remove backend {backend} of function {id}");
        let listed = |before: &Deployment| {
            if before.routes_to(backend) {
                Ok(())
            } else {
                Err(Error::BackendUnknown {
                    ip,
                    container,
                    function: id,
                })
            }
        };
        self.release(act, id, backend, listed).await
    }

    /// Takes away the assignment of a slot that is not listed (any more). The node drains the container and
    /// removes it.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::StillRouted`], and what every change may end in.
    pub async fn release_container(&self, ip: Ipv4Addr, container: ContainerId) -> Result<()> {
        let unknown = Error::ContainerUnknown { ip, container };
        let record = self.container(ip, container).await?.ok_or(unknown)?;
        let function = record.function_id;
        let backend = Backend {
            ip,
            container_id: container,
        };
        let act = format!("release container {container} on node {ip}");
        let unlisted = |before: &Deployment| {
            if before.routes_to(backend) {
                Err(Error::StillRouted {
                    ip,
                    container,
                    function,
                })
            } else {
                Ok(())
            }
        };
        self.release(act, function, backend, unlisted).await
    }

    /// Takes a slot away with its assignment, if `allowed`.
    async fn release(
        &self,
        act: String,
        id: FunctionId,
        backend: Backend,
        allowed: impl Fn(&Deployment) -> Result<()>,
    ) -> Result<()> {
        let (ip, container) = (backend.ip, backend.container_id);
        let assigned = self.layout.container(ip, container);
        let mut attempts = Attempts::new(act);
        loop {
            let before = self.known_deployment(id).await?;
            allowed(&before)?;
            let mut after = before.clone();
            after.slots.retain(|slot| slot.backend != backend);
            if after.slots.len() == before.slots.len() {
                return Err(Error::ContainerUnknown { ip, container });
            }
            // A hand may have taken the assignment away already, which proves nothing.
            let is_assigned = self.tree.exists(&assigned).await?.is_some();
            let proof = |after: &Deployment| {
                if is_assigned {
                    Ok(Proof::Gone(assigned.clone()))
                } else {
                    self.written(&before, after)
                }
            };
            let done = self.commit_deployment(attempts.act(), &before, after, proof);
            match done.await? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) => self.explain_refusal(id, error).await?,
            }
            attempts.next().await?;
        }
    }
}
