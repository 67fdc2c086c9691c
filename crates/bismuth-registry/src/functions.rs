//! Creates, reads, replaces and deletes functions, each with its routes and slots in one transaction.

use bismuth_base::now_ms;
use bismuth_coord::{Error as TreeError, Op, Version, path};
use bismuth_model::{Backend, FunctionDefinition, FunctionId, FunctionRecord, Revision, SlotRole};

use crate::deployment::{Deployment, new_slot, steps_to_create};
use crate::error::{Error, Result};
use crate::layout::canonical;
use crate::transaction::{Attempts, Outcome, Proof, delete, encode};
use crate::{Registry, ZnodeKind};

/// A function as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub id: FunctionId,
    /// What it is.
    pub record: FunctionRecord,
    /// The version of the record, to expect in [`Registry::replace_definition`].
    pub version: Version,
    /// Where requests for it go, in the order of the list.
    pub backends: Vec<Backend>,
}

/// Some functions, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FunctionPage {
    /// Those that could be read.
    pub functions: Vec<Function>,
    /// Those of this page whose records could not; the audit says what is wrong with them.
    pub unreadable: Vec<FunctionId>,
    /// Where the next page begins: after this one. `None` on the last page.
    pub next: Option<FunctionId>,
}

impl Registry {
    /// Creates a function with its routes, and assigns one slot per placement, which is also its backend list.
    ///
    /// # Errors
    /// [`Error::FunctionExists`], [`Error::RouteTaken`], [`Error::NodeUnknown`], [`Error::TooManyBackends`],
    /// [`Error::Record`] (too large), [`Error::NotBootstrapped`], and what every change may end in.
    pub async fn create_function(
        &self,
        id: FunctionId,
        definition: &FunctionDefinition,
        placements: &[Backend],
    ) -> Result<FunctionRecord> {
        let now = now_ms();
        let record = FunctionRecord {
            revision: Revision::FIRST,
            definition: definition.clone(),
            created_ms: now,
            updated_ms: now,
        };
        let mut deployment = Deployment::first(id, record.clone(), placements)?;
        let mut ops = steps_to_create(&self.layout, &mut deployment)?;
        for route in &definition.routes {
            ops.push(self.create_route(id, &route.hostname)?);
        }
        let path = self.layout.function(id);
        let data = encode(&path, &record)?;
        let proof = Proof::Holds(path, data);
        let mut attempts = Attempts::new(format!("create function {id}"));
        loop {
            match self.commit(attempts.act(), ops.clone(), &proof).await? {
                Outcome::Committed => return Ok(record),
                // A route that was taken a moment ago and is free now.
                Outcome::Refused(error) => self.explain_refusal(id, error).await?,
            }
            attempts.next().await?;
        }
    }

    /// Reads one function.
    ///
    /// # Errors
    /// [`Error::Record`] if it cannot be decoded, [`Error::Tree`].
    pub async fn function(&self, id: FunctionId) -> Result<Option<Function>> {
        let Some(record) = self
            .read::<FunctionRecord>(&self.layout.function(id))
            .await?
        else {
            return Ok(None);
        };
        let backends = self.read::<Vec<Backend>>(&self.layout.backends(id)).await?;
        Ok(Some(Function {
            id,
            record: record.record,
            version: record.version,
            backends: backends.map(|list| list.record).unwrap_or_default(),
        }))
    }

    /// Reads at most `limit` functions whose ids come after `after`.
    ///
    /// # Errors
    /// [`Error::NotBootstrapped`], [`Error::Tree`].
    pub async fn list_functions(
        &self,
        after: Option<FunctionId>,
        limit: usize,
    ) -> Result<FunctionPage> {
        let mut ids = self.function_ids().await?;
        ids.retain(|id| after.is_none_or(|after| *id > after));
        let more = ids.len() > limit;
        ids.truncate(limit);
        let records: Vec<String> = ids.iter().map(|id| self.layout.function(*id)).collect();
        let lists: Vec<String> = ids.iter().map(|id| self.layout.backends(*id)).collect();
        let records = self.read_many::<FunctionRecord>(&records).await;
        let lists = self.read_many::<Vec<Backend>>(&lists).await;
        let mut page = FunctionPage {
            next: ids.last().copied().filter(|_| more),
            ..FunctionPage::default()
        };
        for ((id, record), list) in ids.into_iter().zip(records).zip(lists) {
            match (record, list) {
                (Ok(Some(record)), Ok(list)) => page.functions.push(Function {
                    id,
                    record: record.record,
                    version: record.version,
                    backends: list.map(|list| list.record).unwrap_or_default(),
                }),
                // Deleted since it was listed.
                (Ok(None), _) => {}
                (Err(Error::Record { .. }), _) | (_, Err(Error::Record { .. })) => {
                    page.unreadable.push(id)
                }
                (Err(error), _) | (_, Err(error)) => return Err(error),
            }
        }
        Ok(page)
    }

    /// The ids of all functions, sorted.
    ///
    /// # Errors
    /// [`Error::NotBootstrapped`], [`Error::Tree`].
    pub async fn function_ids(&self) -> Result<Vec<FunctionId>> {
        let names = self
            .names(&self.layout.functions())
            .await?
            .ok_or_else(|| self.not_bootstrapped())?;
        let mut ids: Vec<FunctionId> = names.iter().filter_map(|name| canonical(name)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Writes the next revision of a function and assigns its slots. Its new hostnames are claimed at once; what serves
    /// (slots, limits, hostnames) stays until [`Self::switch_backends`].
    ///
    /// # Errors
    /// [`Error::FunctionUnknown`], [`Error::FunctionChanged`] if it is not of version `expected`,
    /// [`Error::RouteTaken`], [`Error::NodeUnknown`], [`Error::TooManyBackends`], [`Error::Record`] (too large), and
    /// what every change may end in.
    pub async fn replace_definition(
        &self,
        id: FunctionId,
        definition: &FunctionDefinition,
        expected: Version,
        new_slots: &[Backend],
    ) -> Result<FunctionRecord> {
        let mut attempts = Attempts::new(format!("replace the definition of function {id}"));
        loop {
            let before = self.known_deployment(id).await?;
            if before.version() != expected {
                return Err(Error::FunctionChanged { id });
            }
            let mut after = before.clone();
            after.wanted.revision = before.wanted.revision.next();
            after.wanted.definition = definition.clone();
            after.wanted.updated_ms = now_ms();
            let (record, revision) = (after.wanted.clone(), after.wanted.revision);
            // What an earlier revision was given for its proof, and never took a request.
            let groups = &after.serving.groups;
            let serving: Vec<Revision> = groups.iter().map(|group| group.revision).collect();
            after
                .slots
                .retain(|slot| serving.contains(&slot.revision) || slot.role == SlotRole::Leaving);
            after
                .slots
                .extend(new_slots.iter().map(|slot| new_slot(*slot, revision)));
            // A new slot has an id that nobody else uses, so it is the better proof.
            let proof = |after: &Deployment| match new_slots.first() {
                Some(slot) => Ok(Proof::Exists(
                    self.layout.container(slot.ip, slot.container_id),
                )),
                None => {
                    let path = self.layout.function(id);
                    let data = encode(&path, &after.wanted)?;
                    Ok(Proof::Holds(path, data))
                }
            };
            let done = self.commit_deployment(attempts.act(), &before, after, proof);
            match done.await? {
                Outcome::Committed => return Ok(record),
                Outcome::Refused(error) => self.explain_refusal(id, error).await?,
            }
            attempts.next().await?;
        }
    }

    /// Removes a function with its routes, its backend list and all its assignments. The nodes see their
    /// assignments go, drain the containers and remove them. Works for a record that cannot be decoded too.
    ///
    /// # Errors
    /// [`Error::FunctionUnknown`], and what every change may end in.
    pub async fn delete_function(&self, id: FunctionId) -> Result<()> {
        let path = self.layout.function(id);
        let proof = Proof::Gone(path.clone());
        let mut attempts = Attempts::new(format!("delete function {id}"));
        loop {
            let Some(version) = self.tree.exists(&path).await? else {
                return Err(Error::FunctionUnknown { id });
            };
            // Its parts are listed before its slots are read: whoever assigns another one changes the list of slots.
            let parts = self.parts_of(id).await?;
            let mut ops = self.delete_routes(id).await?;
            // The node may change a status at any moment, so no version is expected.
            let assigned = self.assigned_paths(id).await?.into_iter();
            ops.extend(assigned.map(|path| Op::Delete {
                path,
                expected: None,
            }));
            ops.extend(
                parts
                    .into_iter()
                    .map(|(path, version)| delete(path, version)),
            );
            ops.push(delete(path.clone(), version));
            match self.commit(attempts.act(), ops, &proof).await? {
                Outcome::Committed => return Ok(()),
                Outcome::Refused(error) if error.is_conflict() || error.is_not_found() => {
                    attempts.next().await?
                }
                Outcome::Refused(error) => return Err(error.into()),
            }
        }
    }

    /// The paths of everything below a function, children before their parents, with their versions.
    async fn parts_of(&self, id: FunctionId) -> Result<Vec<(String, Version)>> {
        let function = self.layout.function(id);
        let mut paths = Vec::new();
        for name in self.names(&function).await?.unwrap_or_default() {
            let part = path::join(&function, &name);
            let below = self.names(&part).await?.unwrap_or_default();
            paths.extend(below.iter().map(|name| path::join(&part, name)));
            paths.push(part);
        }
        let mut parts = Vec::with_capacity(paths.len());
        for (read, path) in self.get_many(&paths).await.into_iter().zip(paths) {
            match read {
                Ok(node) => parts.push((path, node.version)),
                // Gone since it was listed.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(parts)
    }

    /// A function that must be there.
    pub(crate) async fn known_deployment(&self, id: FunctionId) -> Result<Deployment> {
        let deployment = self.deployment(id).await?;
        deployment.ok_or(Error::FunctionUnknown { id })
    }

    /// Turns the refusal of a transaction about a function into words; `Ok` if it is worth trying again.
    pub(crate) async fn explain_refusal(&self, id: FunctionId, error: TreeError) -> Result<()> {
        let kind = error.path().and_then(|path| self.layout.znode_kind(path));
        match (&error, kind) {
            (TreeError::AlreadyExists { .. }, Some(ZnodeKind::Function(id))) => {
                Err(Error::FunctionExists { id })
            }
            (TreeError::AlreadyExists { .. }, Some(ZnodeKind::Container(ip, container))) => {
                Err(Error::ContainerExists { ip, container })
            }
            (TreeError::AlreadyExists { path }, Some(ZnodeKind::Route(hostname))) => {
                match self.read::<FunctionId>(path).await? {
                    Some(route) if route.record != id => Err(Error::RouteTaken {
                        hostname,
                        owner: route.record,
                    }),
                    _ => Ok(()),
                }
            }
            (
                TreeError::NotFound { act: "create", .. },
                Some(ZnodeKind::Function(_) | ZnodeKind::Route(_)),
            ) => Err(self.not_bootstrapped()),
            (
                TreeError::NotFound { .. },
                Some(ZnodeKind::Function(id) | ZnodeKind::Backends(id)),
            ) => Err(Error::FunctionUnknown { id }),
            (TreeError::NotFound { act: "create", .. }, Some(ZnodeKind::Container(ip, _))) => {
                Err(Error::NodeUnknown { ip })
            }
            _ if error.is_conflict() || error.is_not_found() => Ok(()),
            _ => Err(error.into()),
        }
    }
}
