//! The steps of one transaction: what makes a new function, and what leads from one deployment to another. Pure.

use std::collections::BTreeSet;

use bismuth_base::now_ms;
use bismuth_coord::Op;
use bismuth_model::{
    Backend, ContainerRecord, ContainerStatus, FunctionId, RevisionFate, RevisionRecord, Slot,
};
use bytes::Bytes;

use super::Deployment;
use crate::codec::Record;
use crate::error::{Error, Result};
use crate::transaction::{Stored, check, create, encode, set};
use crate::{Layout, MAX_SLOTS};

/// The steps that make a new function.
pub(crate) fn steps_to_create(layout: &Layout, new: &mut Deployment) -> Result<Vec<Op>> {
    new.settle();
    let path = layout.function(new.id);
    let data = encode(&path, &new.wanted)?;
    let mut ops = vec![create(path, data)];
    ops.extend(steps_below(layout, None, new)?);
    Ok(ops)
}

/// The steps from one to the other, but for routes; each with the version that it builds on.
pub(super) fn steps(
    layout: &Layout,
    before: &Deployment,
    after: &mut Deployment,
) -> Result<Vec<Op>> {
    // What was wanted so far is kept also where an earlier version wrote it.
    after.revisions.insert(before.wanted.revision);
    after.settle();
    let path = layout.function(after.id);
    let version = before.stored.function;
    let mut ops = vec![if before.wanted == after.wanted {
        check(path, version)
    } else {
        let data = encode(&path, &after.wanted)?;
        set(path, data, version)
    }];
    ops.extend(steps_below(layout, Some(before), after)?);
    Ok(ops)
}

/// The steps for all that is below a function or assigned for it.
fn steps_below(
    layout: &Layout,
    before: Option<&Deployment>,
    after: &mut Deployment,
) -> Result<Vec<Op>> {
    let id = after.id;
    let parts = before.map(|before| &before.stored);
    let (list, backends) = (layout.backends(id), after.backends());
    let stored = parts.and_then(|parts| parts.backends.as_ref());
    after.serving.backends_version = match stored {
        Some(stored) if stored.record == backends => stored.version.0,
        Some(stored) => stored.version.0.wrapping_add(1),
        None => 0,
    };
    let mut ops = vec![step(list, stored, &backends)?];
    let stored = parts.and_then(|parts| parts.serving.as_ref());
    ops.push(step(layout.serving(id), stored, &after.serving)?);
    let stored = parts.and_then(|parts| parts.slots.as_ref());
    ops.push(step(layout.slots(id), stored, &after.slots)?);
    ops.extend(revision_steps(layout, before, after)?);
    let no_slots = Vec::new();
    let old = before.map_or(&no_slots, |before| &before.slots);
    for slot in added(old, &after.slots) {
        ops.push(assign(layout, id, slot)?);
    }
    for slot in added(&after.slots, old) {
        // The node may change its status at any moment, so no version is expected.
        ops.push(Op::Delete {
            path: layout.container(slot.backend.ip, slot.backend.container_id),
            expected: None,
        });
    }
    Ok(ops)
}

/// The step that makes a record what it is to be, or checks that it is that still.
fn step<R: Record + PartialEq>(path: String, stored: Option<&Stored<R>>, record: &R) -> Result<Op> {
    Ok(match stored {
        Some(stored) if stored.record == *record => check(path, stored.version),
        Some(stored) => {
            let data = encode(&path, record)?;
            set(path, data, stored.version)
        }
        None => {
            let data = encode(&path, record)?;
            create(path, data)
        }
    })
}

fn revision_steps(
    layout: &Layout,
    before: Option<&Deployment>,
    after: &Deployment,
) -> Result<Vec<Op>> {
    let (id, mut ops) = (after.id, Vec::new());
    let stored = before.and_then(|before| before.stored.revisions.as_ref());
    if stored.is_none() {
        ops.push(create(layout.revisions(id), Bytes::new()));
    }
    let earlier = before.map(|before| &before.wanted);
    let earlier = earlier.filter(|earlier| earlier.revision != after.wanted.revision);
    for function in earlier.into_iter().chain([&after.wanted]) {
        let revision = function.revision;
        let kept = stored.is_some_and(|stored| stored.contains(&revision));
        if kept || !after.revisions.contains(&revision) {
            continue;
        }
        let path = layout.revision(id, revision);
        let mut record = RevisionRecord::first_written(function);
        if after.stored.proven.contains(&revision) {
            record.fate = RevisionFate::Proven;
        }
        let data = encode(&path, &record)?;
        ops.push(create(path, data));
    }
    let gone = stored
        .iter()
        .flat_map(|before| before.difference(&after.revisions));
    ops.extend(gone.map(|revision| Op::Delete {
        path: layout.revision(id, *revision),
        expected: None,
    }));
    Ok(ops)
}

/// The slots of `new` that are not in `old`.
pub(super) fn added<'a>(old: &[Slot], new: &'a [Slot]) -> Vec<&'a Slot> {
    let known: BTreeSet<Backend> = old.iter().map(|slot| slot.backend).collect();
    new.iter()
        .filter(|slot| !known.contains(&slot.backend))
        .collect()
}

/// The step that assigns a slot to its node.
fn assign(layout: &Layout, id: FunctionId, slot: &Slot) -> Result<Op> {
    let path = layout.container(slot.backend.ip, slot.backend.container_id);
    let record = ContainerRecord {
        function_id: id,
        revision: slot.revision,
        status: ContainerStatus::assigned(now_ms()),
    };
    let data = encode(&path, &record)?;
    Ok(create(path, data))
}

/// A list of slots that can be stored.
pub(super) fn check_slots(id: FunctionId, slots: &[Slot]) -> Result<()> {
    if slots.len() > MAX_SLOTS {
        return Err(Error::TooManyBackends {
            id,
            count: slots.len(),
            limit: MAX_SLOTS,
        });
    }
    let mut seen = BTreeSet::new();
    let twice = slots
        .iter()
        .find(|slot| !seen.insert(slot.backend.container_id));
    match twice {
        Some(twice) => Err(Error::BackendTwice {
            container: twice.backend.container_id,
        }),
        None => Ok(()),
    }
}
