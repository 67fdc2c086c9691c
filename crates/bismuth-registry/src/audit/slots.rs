//! Finds slot lists and serving records that do not match the backends and assignments. Pure.

use std::collections::BTreeSet;

use bismuth_coord::Op;
use bismuth_model::{Backend, FunctionId, FunctionRecord, Revision, RevisionRecord, Serving, Slot};
use bytes::Bytes;

use super::Inconsistency;
use super::check::{Audit, encoded, undecodable};
use super::scan::Entry;
use crate::codec::Record;
use crate::derive::{count_slots, derive, listed, newest_listed};
use crate::transaction::{check as unchanged, create, delete, set};

impl Audit<'_> {
    /// Looks at the slots of functions about which nothing else was found: what else is repaired may mend them too.
    pub(super) fn slots(&mut self, found: &BTreeSet<FunctionId>) {
        let scan = self.scan;
        for (id, function) in scan.functions.iter().filter(|(id, _)| !found.contains(id)) {
            let (Ok(record), Some(list)) = (&function.record, scan.lists.get(id)) else {
                continue;
            };
            if let Ok(backends) = &list.record {
                self.slots_of(*id, (function, record), (list, backends));
            }
        }
        self.revisions();
    }

    fn slots_of(
        &mut self,
        id: FunctionId,
        (function, record): (&Entry<FunctionRecord>, &FunctionRecord),
        (list, backends): (&Entry<Vec<Backend>>, &[Backend]),
    ) {
        let (slots, serving) = (self.scan.slots.get(&id), self.scan.serving.get(&id));
        let assigned = self.assigned_for(id);
        let stored = (
            slots.and_then(|entry| entry.record.as_deref().ok()),
            serving.and_then(|entry| entry.record.as_ref().ok()),
        );
        let current = self.scan.revisions.contains_key(&(id, record.revision));
        if let (Some(slots), Some(serving), true) = (stored.0, stored.1, current)
            && serving.backends_version == list.version.0
            && listed(serving, slots) == backends
            && same_slots(slots, &assigned)
        {
            return;
        }
        let newest = newest_listed(backends, &assigned, stored.0.unwrap_or_default());
        let served = newest
            .and_then(|newest| self.scan.revisions.get(&(id, newest)))
            .and_then(|entry| entry.record.as_ref().ok());
        let (new_slots, mut new_serving) = derive(
            record,
            served.map(|served| &served.definition),
            backends,
            &assigned,
            (stored.0.unwrap_or_default(), stored.1),
        );
        count_slots(&mut new_serving, &new_slots);
        new_serving.backends_version = list.version.0;
        let ops = self.rewrite(id, record, slots, &new_slots, serving, &new_serving);
        let ops = ops.map(|mut ops| {
            ops.push(unchanged(function.path.clone(), function.version));
            ops.push(unchanged(list.path.clone(), list.version));
            ops
        });
        let unreadable = [
            slots.and_then(|entry| Some(undecodable(entry, entry.record.as_ref().err()?))),
            serving.and_then(|entry| Some(undecodable(entry, entry.record.as_ref().err()?))),
        ];
        let what = unreadable.into_iter().flatten().next();
        self.find(
            what.unwrap_or(Inconsistency::SlotsOutdated { function: id }),
            "make them of its backends and assignments",
            ops,
        );
    }

    /// What nodes are to run of a function, in the order of the backends.
    fn assigned_for(&self, id: FunctionId) -> Vec<(Backend, Revision)> {
        let containers = self.scan.containers.iter();
        containers
            .filter_map(|(slot, entry)| {
                let record = entry.record.as_ref().ok()?;
                (record.function_id == id).then_some((*slot, record.revision))
            })
            .collect()
    }

    /// The steps that write slots, what serves, and the newest revision if it is missing.
    fn rewrite(
        &self,
        id: FunctionId,
        record: &FunctionRecord,
        slots: Option<&Entry<Vec<Slot>>>,
        new_slots: &Vec<Slot>,
        serving: Option<&Entry<Serving>>,
        new_serving: &Serving,
    ) -> Option<Vec<Op>> {
        let mut ops = vec![
            put(slots, self.layout.slots(id), new_slots)?,
            put(serving, self.layout.serving(id), new_serving)?,
        ];
        let directory = self.layout.revisions(id);
        if !self.scan.directories.contains(&directory) {
            ops.push(create(directory, Bytes::new()));
        }
        if !self.scan.revisions.contains_key(&(id, record.revision)) {
            let path = self.layout.revision(id, record.revision);
            ops.push(create(
                path,
                encoded(&RevisionRecord::first_written(record))?,
            ));
        }
        Some(ops)
    }

    /// Deployed definitions that cannot be decoded.
    fn revisions(&mut self) {
        let scan = self.scan;
        for ((id, revision), entry) in &scan.revisions {
            let Err(reason) = &entry.record else {
                continue;
            };
            let function = scan.functions.get(id);
            let newest = function
                .and_then(|function| function.record.as_ref().ok())
                .filter(|record| record.revision == *revision);
            let ops = match newest {
                Some(record) => encoded(&RevisionRecord::first_written(record))
                    .map(|data| vec![set(entry.path.clone(), data, entry.version)]),
                None => Some(vec![delete(entry.path.clone(), entry.version)]),
            };
            self.find(
                undecodable(entry, reason),
                "write it anew if it is the newest, else remove it: nothing can go back to it",
                ops,
            );
        }
    }
}

fn same_slots(slots: &[Slot], assigned: &[(Backend, Revision)]) -> bool {
    let slots: BTreeSet<(Backend, Revision)> = slots
        .iter()
        .map(|slot| (slot.backend, slot.revision))
        .collect();
    slots == assigned.iter().copied().collect()
}

fn put<R: Record>(entry: Option<&Entry<R>>, path: String, record: &R) -> Option<Op> {
    let data = encoded(record)?;
    Some(match entry {
        Some(entry) => set(path, data, entry.version),
        None => create(path, data),
    })
}
