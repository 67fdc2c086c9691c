//! One function as all its znodes say together, and the one transaction that changes them.
//!
//! ```text
//!  read ─► Deployment ─► a changed copy ─► steps from one to the other (pure) ─► one transaction
//!   ▲                                                                                │ overtaken
//!   └────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The backend list is derived: the active slots of each revision that serves, then its standbys. A function written
//! by a version that had no slot list is read by looking at every node, and gets its list with the first change.

mod steps;

use std::collections::BTreeSet;

use bismuth_coord::{Op, Version};
use bismuth_model::{
    Backend, ContainerRecord, FunctionId, FunctionRecord, Hostname, Revision, Serving, Slot,
    SlotRole,
};
use futures_util::future::BoxFuture;

use crate::Registry;
use crate::derive::{count_slots, derive, group, listed, newest_listed};
use crate::error::Result;
use crate::layout::canonical;
use crate::transaction::{Outcome, Proof, Stored, encode};
use steps::{added, check_slots, steps};

pub(crate) use steps::steps_to_create;

/// Earlier revisions that are kept, to go back to.
const KEPT_REVISIONS: usize = 10;

/// How often the parts are read again because they are not of one transaction. Each is a few round trips, and
/// somebody who writes in between each time is not to be expected.
const READS: usize = 4;

/// A function: what is wanted of it, what serves, and its slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Its name.
    pub id: FunctionId,
    /// What the deployer wants.
    pub wanted: FunctionRecord,
    /// What frontends are told.
    pub serving: Serving,
    /// Every container, in the order of preference.
    pub slots: Vec<Slot>,
    /// The deployed definitions that are kept.
    pub revisions: BTreeSet<Revision>,
    stored: StoredParts,
}

/// The parts as they were read, to find out what changed, and whether it may be changed.
#[derive(Clone, Debug, PartialEq)]
struct StoredParts {
    function: Version,
    backends: Option<Stored<Vec<Backend>>>,
    serving: Option<Stored<Serving>>,
    slots: Option<Stored<Vec<Slot>>>,
    /// `None` if there is no directory.
    revisions: Option<BTreeSet<Revision>>,
    /// Revisions without a record of their own of which a container has run.
    proven: BTreeSet<Revision>,
}

impl StoredParts {
    /// Whether it has a list of slots and what serves.
    fn are_listed(&self) -> bool {
        self.serving.is_some() && self.slots.is_some()
    }

    /// What serves and the slots, if they are of one transaction with the backend list. A list that a hand deleted is what
    /// the slots say.
    fn whole(&self) -> Option<(Serving, Vec<Slot>)> {
        let (serving, slots) = (self.serving.as_ref()?, self.slots.as_ref()?);
        let version = serving.record.backends_version;
        let list = self.backends.as_ref();
        list.is_none_or(|list| list.version.0 == version)
            .then(|| (serving.record.clone(), slots.record.clone()))
    }
}

impl Deployment {
    /// Where requests go, in the order of preference.
    #[must_use]
    pub fn backends(&self) -> Vec<Backend> {
        listed(&self.serving, &self.slots)
    }

    /// Whether requests go to this slot.
    #[must_use]
    pub fn routes_to(&self, backend: Backend) -> bool {
        self.backends().contains(&backend)
    }

    /// The version of the wanted definition, to expect in [`Registry::replace_definition`].
    #[must_use]
    pub fn version(&self) -> Version {
        self.stored.function
    }

    /// The hostnames that are claimed for it: those that route, and those that are wanted.
    pub(crate) fn claims(&self) -> BTreeSet<Hostname> {
        let wanted = self.wanted.definition.routes.iter();
        let wanted = wanted.map(|route| &route.hostname);
        wanted.chain(&self.serving.hostnames).cloned().collect()
    }

    /// Whether it was written by a version without slot lists, or by a hand, in part.
    #[must_use]
    pub fn needs_migration(&self) -> bool {
        let parts = &self.stored;
        parts.slots.is_none()
            || parts.serving.is_none()
            || !self.revisions.contains(&self.wanted.revision)
    }

    /// Counts the groups' slots anew, and drops the revisions that nothing needs.
    fn settle(&mut self) {
        count_slots(&mut self.serving, &self.slots);
        self.revisions.insert(self.wanted.revision);
        let newest: BTreeSet<Revision> = self
            .revisions
            .iter()
            .rev()
            .take(KEPT_REVISIONS + 1)
            .copied()
            .collect();
        let serving = self.serving.groups.iter().map(|group| group.revision);
        let needed: BTreeSet<Revision> = serving
            .chain(self.slots.iter().map(|slot| slot.revision))
            .collect();
        self.revisions
            .retain(|revision| newest.contains(revision) || needed.contains(revision));
    }
}

impl Registry {
    /// Reads all that is known of a function, as of one transaction.
    ///
    /// # Errors
    /// [`crate::Error::Record`] if a part cannot be decoded, [`crate::Error::Contended`], [`crate::Error::Tree`].
    pub async fn deployment(&self, id: FunctionId) -> Result<Option<Deployment>> {
        let mut reads = 1;
        let (wanted, parts) = loop {
            let Some((wanted, parts)) = Box::pin(self.read_parts(id)).await? else {
                return Ok(None);
            };
            if let Some((serving, slots)) = parts.whole() {
                return Ok(Some(Deployment::new(id, wanted, serving, slots, parts)));
            }
            // Read in the middle of a change; or changed by a version that knows only the list, which stays so.
            if !parts.are_listed() || reads == READS {
                break (wanted, parts);
            }
            reads += 1;
        };
        // The nodes after the parts: a slot that is assigned meanwhile comes with another version of them, so that what
        // is derived from both cannot be written.
        let assigned = self.assigned_containers(id).await?;
        self.derived(id, wanted, parts, &assigned).await.map(Some)
    }

    /// A function to be migrated, by what nodes are to run of it: `assigned`, read before. One that has its list of slots
    /// by now is as that says.
    pub(crate) async fn unmigrated_deployment(
        &self,
        id: FunctionId,
        assigned: &[(Backend, ContainerRecord)],
    ) -> Result<Option<Deployment>> {
        match Box::pin(self.read_parts(id)).await? {
            Some((_, parts)) if parts.are_listed() => self.deployment(id).await,
            Some((wanted, parts)) => self.derived(id, wanted, parts, assigned).await.map(Some),
            None => Ok(None),
        }
    }

    async fn read_parts(&self, id: FunctionId) -> Result<Option<(FunctionRecord, StoredParts)>> {
        let layout = &self.layout;
        let (function, backends, serving, slots, revisions) = (
            layout.function(id),
            layout.backends(id),
            layout.serving(id),
            layout.slots(id),
            layout.revisions(id),
        );
        let (function, backends, serving, slots, revisions) = tokio::join!(
            self.read::<FunctionRecord>(&function),
            self.read::<Vec<Backend>>(&backends),
            self.read::<Serving>(&serving),
            self.read::<Vec<Slot>>(&slots),
            self.names(&revisions),
        );
        let Some(function) = function? else {
            return Ok(None);
        };
        let numbers =
            |names: Vec<String>| names.iter().filter_map(|name| canonical(name)).collect();
        let parts = StoredParts {
            function: function.version,
            backends: backends?,
            serving: serving?,
            slots: slots?,
            revisions: revisions?.map(numbers),
            proven: BTreeSet::new(),
        };
        Ok(Some((function.record, parts)))
    }

    /// The function as the backend list and the nodes say.
    async fn derived(
        &self,
        id: FunctionId,
        wanted: FunctionRecord,
        mut parts: StoredParts,
        assigned: &[(Backend, ContainerRecord)],
    ) -> Result<Deployment> {
        let ran = assigned
            .iter()
            .filter(|(_, record)| record.status.state.has_run());
        parts.proven = ran.map(|(_, record)| record.revision).collect();
        let assigned: Vec<(Backend, Revision)> = assigned
            .iter()
            .map(|(backend, record)| (*backend, record.revision))
            .collect();
        let list = parts.backends.as_ref();
        let backends = list.map_or(&[][..], |list| &list.record);
        let slots = parts.slots.as_ref();
        let slots = slots.map_or(&[][..], |slots| &slots.record);
        let serving = parts.serving.as_ref().map(|serving| &serving.record);
        let newest = newest_listed(backends, &assigned, slots);
        let kept = match newest.filter(|newest| *newest != wanted.revision) {
            Some(newest) => self.revision(id, newest).await?,
            None => None,
        };
        let served = kept.map(|kept| kept.definition);
        let stored = (slots, serving);
        let (slots, serving) = derive(&wanted, served.as_ref(), backends, &assigned, stored);
        Ok(Deployment::new(id, wanted, serving, slots, parts))
    }

    /// Makes one transaction of the steps from `before` to `after`. Boxed, because it is part of every change.
    pub(crate) fn commit_deployment<'a>(
        &'a self,
        act: &'a str,
        before: &'a Deployment,
        after: Deployment,
        proof: impl FnOnce(&Deployment) -> Result<Proof> + Send + 'a,
    ) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(self.commit_steps(act, before, after, proof))
    }

    async fn commit_steps(
        &self,
        act: &str,
        before: &Deployment,
        mut after: Deployment,
        proof: impl FnOnce(&Deployment) -> Result<Proof>,
    ) -> Result<Outcome> {
        check_slots(after.id, &after.slots)?;
        let mut ops = steps(&self.layout, before, &mut after)?;
        self.leave_out_missing(before, &after, &mut ops).await?;
        if ops.iter().all(|op| matches!(op, Op::Check { .. })) {
            return Ok(Outcome::Committed);
        }
        if before.wanted != after.wanted || before.serving.hostnames != after.serving.hostnames {
            let claims = self.claim_changes(after.id, before.claims(), after.claims());
            ops.extend(claims.await?);
        }
        let proof = proof(&after)?;
        self.commit(act, ops, &proof).await
    }

    /// The proof that `after` was written: what serves if that changes, else the list of slots.
    pub(crate) fn written(&self, before: &Deployment, after: &Deployment) -> Result<Proof> {
        let stored = before.stored.serving.as_ref();
        let (path, data);
        if stored.is_none_or(|stored| stored.record != after.serving) {
            path = self.layout.serving(after.id);
            data = encode(&path, &after.serving)?;
        } else {
            path = self.layout.slots(after.id);
            data = encode(&path, &after.slots)?;
        }
        Ok(Proof::Holds(path, data))
    }

    /// Takes out the deletions of assignments that are gone already, by a hand.
    async fn leave_out_missing(
        &self,
        before: &Deployment,
        after: &Deployment,
        ops: &mut Vec<Op>,
    ) -> Result<()> {
        let gone = added(&after.slots, &before.slots).into_iter();
        let path = |slot: &Slot| {
            let Backend { ip, container_id } = slot.backend;
            self.layout.container(ip, container_id)
        };
        let paths: Vec<String> = gone.map(path).collect();
        for (path, read) in paths.iter().zip(self.get_many(&paths).await) {
            match read {
                Ok(_) => {}
                Err(error) if error.is_not_found() => ops.retain(|op| op.path() != path),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Deployment {
    fn new(
        id: FunctionId,
        wanted: FunctionRecord,
        serving: Serving,
        slots: Vec<Slot>,
        stored: StoredParts,
    ) -> Self {
        Self {
            id,
            wanted,
            serving,
            slots,
            revisions: stored.revisions.clone().unwrap_or_default(),
            stored,
        }
    }

    /// A function that is not stored yet, all of whose slots take requests.
    pub(crate) fn first(
        id: FunctionId,
        wanted: FunctionRecord,
        backends: &[Backend],
    ) -> Result<Self> {
        let slots: Vec<Slot> = backends
            .iter()
            .map(|backend| new_slot(*backend, wanted.revision))
            .collect();
        check_slots(id, &slots)?;
        let mut serving = Serving::default();
        serving.set_definition(&wanted.definition);
        // Also without slots: the first revision serves from the beginning.
        serving.groups = vec![group(wanted.revision)];
        let nothing = StoredParts {
            function: Version(0),
            backends: None,
            serving: None,
            slots: None,
            revisions: None,
            proven: BTreeSet::new(),
        };
        Ok(Self::new(id, wanted, serving, slots, nothing))
    }
}

/// A slot that takes requests once its revision does.
pub(crate) fn new_slot(backend: Backend, revision: Revision) -> Slot {
    Slot {
        backend,
        revision,
        role: SlotRole::Active,
        pinned: false,
    }
}
