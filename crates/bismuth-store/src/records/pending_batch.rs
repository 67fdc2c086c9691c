//! One batch applied to the records it touches, before any of it is stored. Pure, and the same for every engine.
//!
//! ```text
//!   load the records and counters that the batch names ─► PendingBatch ─► run: decide() one after the other ─► changes, counters, answers
//!                                                                    └ the first refusal ends it, and nothing was changed
//! ```
//!
//! A later write of a batch sees what an earlier one did, because both are in the pending batch.

use std::collections::BTreeMap;

use super::decide::decide;
use super::{Keyspace, Record, RecordKey, Refused, Revision, Usage, Write, Written};

/// What is counted for one keyspace of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// What is used.
    pub usage: Usage,
    /// The last revision that was given.
    pub revision: u64,
}

impl Counter {
    /// The counter of a keyspace that was never written to. Revisions begin at the time, in microseconds, so that a group that was
    /// forgotten and made again does not repeat one: nobody writes a million times a second for as long as it was there.
    #[must_use]
    pub fn begin(now_ms: u64) -> Self {
        Self {
            usage: Usage::default(),
            revision: now_ms.saturating_mul(1000),
        }
    }
}

/// Whose counter it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The keyspace, first, because engines keep it first.
    pub keyspace: Keyspace,
    /// The group.
    pub group: String,
}

impl Owner {
    /// Who owns a key.
    #[must_use]
    pub fn of(record_key: &RecordKey) -> Self {
        Self {
            keyspace: record_key.keyspace,
            group: record_key.group.clone(),
        }
    }
}

/// The owners that a batch touches, each once, in an order that is the same everywhere: who locks in it does not deadlock.
#[must_use]
pub fn owners(batch: &[Write]) -> Vec<Owner> {
    let owners = batch.iter().map(|write| Owner::of(&write.record_key));
    let owners: std::collections::BTreeSet<Owner> = owners.collect();
    owners.into_iter().collect()
}

/// The part of a store that one batch reads and changes.
#[derive(Clone, Debug, Default)]
pub struct PendingBatch {
    entries: BTreeMap<RecordKey, Entry>,
    counters: BTreeMap<Owner, Counter>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    stored: Option<Record>,
    changed: bool,
}

impl PendingBatch {
    /// Puts in what is stored at a key, also if its time has come. Its value may be any that is longer than
    /// [`MAX_NUMBER_BYTES`](super::decide::MAX_NUMBER_BYTES) if it is: a batch that replaces a hundred large values has none of them in memory.
    pub fn load(&mut self, record_key: RecordKey, stored: Option<Record>) {
        let changed = false;
        self.entries.insert(record_key, Entry { stored, changed });
    }

    /// Puts in a counter.
    pub fn load_counter(&mut self, owner: Owner, counter: Counter) {
        self.counters.insert(owner, counter);
    }

    /// Whether a key was put in.
    #[must_use]
    pub fn has(&self, record_key: &RecordKey) -> bool {
        self.entries.contains_key(record_key)
    }

    /// Makes all writes, or says which was refused; the pending batch is of no use then. What a batch names and was not put in is absent.
    ///
    /// # Errors
    /// The place in the batch of the first write that was refused, and why.
    pub fn run(&mut self, batch: &[Write], now_ms: u64) -> Result<Vec<Written>, (usize, Refused)> {
        let written = batch
            .iter()
            .enumerate()
            .map(|(index, write)| self.make(write, now_ms).map_err(|refused| (index, refused)));
        written.collect()
    }

    /// What is to be stored: a record, or `None` where there is none any more.
    pub fn changes(&self) -> impl Iterator<Item = (&RecordKey, Option<&Record>)> {
        let changed = self.entries.iter().filter(|(_, entry)| entry.changed);
        changed.map(|(record_key, entry)| (record_key, entry.stored.as_ref()))
    }

    /// The counters, all of which the batch has changed.
    pub fn counters(&self) -> impl Iterator<Item = (&Owner, &Counter)> {
        self.counters.iter()
    }

    fn make(&mut self, write: &Write, now_ms: u64) -> Result<Written, Refused> {
        let counter = self
            .counters
            .entry(Owner::of(&write.record_key))
            .or_insert_with(|| Counter::begin(now_ms));
        let entry = self.entries.entry(write.record_key.clone()).or_default();
        let revision = Revision(counter.revision + 1);
        let decision = decide(
            entry.stored.as_ref(),
            counter.usage,
            now_ms,
            revision,
            write,
        )?;
        *counter = Counter {
            usage: decision.usage,
            revision: revision.0,
        };
        *entry = Entry {
            stored: decision.after,
            changed: true,
        };
        Ok(Written {
            revision,
            modified_ms: now_ms,
            before: decision.before,
            sum: decision.sum,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::records::{Change, Condition, Limits};

    fn record_key(key: u8) -> RecordKey {
        RecordKey::new("g", Keyspace::Kv, key.to_string())
    }

    fn changes() -> impl Strategy<Value = Change> {
        let ttl = prop::option::of(0_u64..40);
        prop_oneof![
            3 => (0_u64..50, "[0-9]{0,3}", ttl.clone()).prop_map(|(charge, value, ttl_ms)| Change::Put {
                value: Bytes::from(value),
                content_type: None,
                ttl_ms,
                charge,
            }),
            2 => Just(Change::Delete),
            1 => (-5_i64..5, ttl).prop_map(|(delta, ttl_ms)| Change::Add { delta, ttl_ms }),
        ]
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        prop_oneof![
            4 => Just(Condition::Always),
            1 => Just(Condition::Absent),
            1 => Just(Condition::Present),
        ]
    }

    prop_compose! {
        fn writes()(
            key in 0_u8..4, change in changes(), condition in conditions(),
            bytes in prop::option::of(0_u64..120), count in prop::option::of(0_u64..4),
        ) -> Write {
            Write { record_key: record_key(key), condition, change, limits: Limits { bytes, count } }
        }
    }

    fn summed(pending: &PendingBatch) -> Usage {
        let stored = pending
            .entries
            .values()
            .filter_map(|entry| entry.stored.as_ref());
        stored.fold(Usage::default(), |sum, record| Usage {
            bytes: sum.bytes + record.meta.charge,
            count: sum.count + 1,
        })
    }

    fn used(pending: &PendingBatch) -> Usage {
        let counter = pending.counters.values().next();
        counter.map_or(Usage::default(), |counter| counter.usage)
    }

    proptest! {
        #[test]
        fn usage_is_always_the_sum_over_the_records(
            batches in prop::collection::vec(prop::collection::vec(writes(), 1..4), 1..40),
        ) {
            let mut pending = PendingBatch::default();
            for (now_ms, batch) in batches.iter().enumerate() {
                let mut next = pending.clone();
                if next.run(batch, now_ms as u64).is_ok() {
                    pending = next;
                }
                prop_assert_eq!(used(&pending), summed(&pending));
            }
        }

        #[test]
        fn a_write_that_does_not_grow_is_never_refused_by_a_limit(
            before in prop::collection::vec(writes(), 0..20), last in writes(), now_ms in 0_u64..40,
        ) {
            let mut pending = PendingBatch::default();
            for write in before {
                let unlimited = Write { limits: Limits::default(), ..write };
                let _ = pending.run(&[unlimited], 0);
            }
            let usage = used(&pending);
            let mut limited = pending.clone();
            let refused = limited.run(std::slice::from_ref(&last), now_ms);
            let unlimited = Write { limits: Limits::default(), ..last };
            if pending.run(&[unlimited], now_ms).is_ok() {
                let after = used(&pending);
                if after.bytes <= usage.bytes && after.count <= usage.count {
                    prop_assert!(refused.is_ok(), "{refused:?} from {usage:?} to {after:?}");
                }
            }
        }

        #[test]
        fn revisions_only_grow_also_over_deletions(batch in prop::collection::vec(writes(), 1..30)) {
            let mut pending = PendingBatch::default();
            let mut last = 0;
            for write in batch {
                if let Ok(written) = pending.run(&[write], 7) {
                    prop_assert!(written[0].revision.0 > last);
                    last = written[0].revision.0;
                }
            }
        }
    }

    #[test]
    fn owners_come_once_and_in_one_order() {
        let at = |keyspace, group: &str| {
            let record_key = RecordKey::new(group, keyspace, "k");
            Write::new(record_key, Condition::Always, Change::Delete)
        };
        let batch = [
            at(Keyspace::Object, ""),
            at(Keyspace::Kv, "b"),
            at(Keyspace::Kv, "a"),
            at(Keyspace::Kv, "b"),
        ];
        let listed: Vec<_> = owners(&batch)
            .into_iter()
            .map(|owner| (owner.keyspace, owner.group))
            .collect();
        let expected = [
            (Keyspace::Kv, "a"),
            (Keyspace::Kv, "b"),
            (Keyspace::Object, ""),
        ];
        assert_eq!(
            listed,
            expected.map(|(keyspace, group)| (keyspace, group.into()))
        );
    }
}
