//! Derives a backend list from slots, and slots from what a version without them wrote. Pure.

use std::collections::BTreeSet;

use bismuth_model::{
    Backend, FunctionDefinition, FunctionRecord, Revision, Serving, ServingGroup, Slot, SlotRole,
};

/// The backend list: of each group the active slots, then the standbys.
pub(crate) fn listed(serving: &Serving, slots: &[Slot]) -> Vec<Backend> {
    let of_group = |group: &ServingGroup| {
        let revision = group.revision;
        let of_role = move |role| {
            slots
                .iter()
                .filter(move |s| (s.revision, s.role) == (revision, role))
        };
        of_role(SlotRole::Active).chain(of_role(SlotRole::Standby))
    };
    let groups = serving.groups.iter();
    groups.flat_map(of_group).map(|slot| slot.backend).collect()
}

/// Writes into each group how many slots it has.
pub(crate) fn count_slots(serving: &mut Serving, slots: &[Slot]) {
    for group in &mut serving.groups {
        let count = |role| {
            let of_role = slots
                .iter()
                .filter(|s| (s.revision, s.role) == (group.revision, role));
            u32::try_from(of_role.count()).unwrap_or(u32::MAX)
        };
        (group.active, group.standby) = (count(SlotRole::Active), count(SlotRole::Standby));
    }
}

/// The newest revision that is listed, by the nodes or else by what was stored.
pub(crate) fn newest_listed(
    backends: &[Backend],
    assigned: &[(Backend, Revision)],
    stored: &[Slot],
) -> Option<Revision> {
    let revision = |listed: &Backend| {
        let assigned = assigned.iter().find(|(backend, _)| backend == listed);
        let stored = stored.iter().find(|slot| slot.backend == *listed);
        assigned
            .map(|(_, revision)| *revision)
            .or(stored.map(|slot| slot.revision))
    };
    backends.iter().filter_map(revision).max()
}

/// The slots of a function and what serves, by its backend list and by what the nodes are to run. Where `stored` says the
/// same, its roles, limits and weights stay; otherwise a listed slot is active, and one that is not and no newer is
/// leaving. A listed backend that no node has stays a slot: it is for the audit. `served` is the definition of the newest
/// listed revision, if it is kept.
pub(crate) fn derive(
    wanted: &FunctionRecord,
    served: Option<&FunctionDefinition>,
    backends: &[Backend],
    assigned: &[(Backend, Revision)],
    stored: (&[Slot], Option<&Serving>),
) -> (Vec<Slot>, Serving) {
    let place = |backend: Backend| backends.iter().position(|listed| *listed == backend);
    let known = |backend: Backend| stored.0.iter().find(|slot| slot.backend == backend);
    let newest = newest_listed(backends, assigned, stored.0);
    let slot = |(backend, revision): (Backend, Revision)| {
        let known = known(backend);
        let role = match (place(backend), known.map(|slot| slot.role)) {
            (Some(_), Some(SlotRole::Standby)) => SlotRole::Standby,
            (Some(_), _) => SlotRole::Active,
            (None, _) if newest.is_some_and(|newest| revision <= newest) => SlotRole::Leaving,
            (None, _) if revision < wanted.revision => SlotRole::Leaving,
            (None, _) => SlotRole::Active,
        };
        Slot {
            backend,
            revision,
            role,
            pinned: known.is_some_and(|slot| slot.pinned),
        }
    };
    let unassigned = backends
        .iter()
        .filter(|listed| !assigned.iter().any(|(backend, _)| backend == *listed))
        .map(|listed| {
            let revision = known(*listed).map(|slot| slot.revision).or(newest);
            (*listed, revision.unwrap_or(wanted.revision))
        });
    let mut slots: Vec<Slot> = assigned
        .iter()
        .copied()
        .chain(unassigned)
        .map(slot)
        .collect();
    slots.sort_by_key(|slot| place(slot.backend).unwrap_or(usize::MAX));
    let mut groups = groups_of(slots.iter().filter(|slot| place(slot.backend).is_some()));
    if slots.is_empty() {
        groups.push(group(wanted.revision));
    }
    let mut serving = match stored.1 {
        Some(serving) if newest.is_none() || serving.revision() == newest => serving.clone(),
        _ => {
            let mut serving = Serving::default();
            serving.set_definition(served.unwrap_or(&wanted.definition));
            serving
        }
    };
    let revisions = |groups: &[ServingGroup]| -> BTreeSet<Revision> {
        groups.iter().map(|group| group.revision).collect()
    };
    // Where nothing is listed, what served goes on serving, from nowhere.
    let lists = !groups.is_empty() || stored.1.is_none();
    if lists && revisions(&serving.groups) != revisions(&groups) {
        serving.groups = groups;
    }
    (slots, serving)
}

/// A revision that serves alone, before its slots are counted.
pub(crate) fn group(revision: Revision) -> ServingGroup {
    ServingGroup {
        revision,
        weight: 1,
        active: 0,
        standby: 0,
    }
}

/// The revisions of these slots, each with the weight of its number of slots.
pub(crate) fn groups_of<'a>(slots: impl Iterator<Item = &'a Slot>) -> Vec<ServingGroup> {
    let mut groups: Vec<ServingGroup> = Vec::new();
    for slot in slots {
        match groups
            .iter_mut()
            .find(|group| group.revision == slot.revision)
        {
            Some(group) => group.weight += 1,
            None => groups.push(group(slot.revision)),
        }
    }
    groups
}
