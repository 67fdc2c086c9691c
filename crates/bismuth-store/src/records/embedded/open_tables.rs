//! The tables opened in one write transaction: applies batches and sweeps to them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use redb::{ReadableTable as _, Table, WriteTransaction};

use super::tables::{self, COUNTER, EXPIRY, RECORD, VALUE};
use crate::records::decide::MAX_NUMBER_BYTES;
use crate::records::pending_batch::{self, Counter, Owner, PendingBatch};
use crate::records::{Record, RecordKey, Refused, Usage, Write, Written};

/// Entries that the sweeps of one transaction look at, their owners' or not: some milliseconds. What is due is swept every few seconds,
/// so that there are not many.
const LOOKED_AT: usize = 20_000;
/// Stands for a value that is apart from its record: it is no number, and nothing else matters to a batch.
static NOT_READ: [u8; MAX_NUMBER_BYTES + 1] = [b'?'; MAX_NUMBER_BYTES + 1];
const _: () = assert!(tables::INLINE > MAX_NUMBER_BYTES);

/// What is changed in one transaction.
pub(super) struct OpenTables<'a> {
    record: Table<'a, &'static [u8], &'static [u8]>,
    value: Table<'a, &'static [u8], &'static [u8]>,
    counter: Table<'a, &'static [u8], (u64, u64, u64)>,
    expiry: Table<'a, &'static [u8], ()>,
    /// Counters that were changed and not yet stored: many batches of one commit change the same.
    counters: BTreeMap<Owner, Counter>,
    now_ms: u64,
    /// Entries that sweeps may still look at.
    looks: usize,
    /// Whose were swept.
    swept: BTreeSet<Owner>,
}

impl<'a> OpenTables<'a> {
    pub(super) fn begin(
        transaction: &'a WriteTransaction,
        now_ms: u64,
    ) -> Result<Self, redb::Error> {
        Ok(Self {
            record: transaction.open_table(RECORD)?,
            value: transaction.open_table(VALUE)?,
            counter: transaction.open_table(COUNTER)?,
            expiry: transaction.open_table(EXPIRY)?,
            counters: BTreeMap::new(),
            now_ms,
            looks: LOOKED_AT,
            swept: BTreeSet::new(),
        })
    }

    /// Stores the counters; whether anything was changed.
    pub(super) fn end(mut self) -> Result<bool, redb::Error> {
        for (owner, counter) in &self.counters {
            let key = tables::owner_key(owner.keyspace, &owner.group);
            self.counter
                .insert(key.as_slice(), tables::counter_row(counter))?;
        }
        Ok(!self.counters.is_empty())
    }

    /// Makes a batch, or says which of its writes was refused, and has changed nothing then.
    pub(super) fn apply(
        &mut self,
        batch: &[Write],
    ) -> Result<Result<Vec<Written>, (usize, Refused)>, redb::Error> {
        let mut pending = PendingBatch::default();
        for owner in pending_batch::owners(batch) {
            if let Some(counter) = self.counter_of(&owner)? {
                pending.load_counter(owner, counter);
            }
        }
        for write in batch {
            if !pending.has(&write.record_key) {
                let stored = self.stored(&write.record_key)?;
                pending.load(write.record_key.clone(), stored);
            }
        }
        let written = match pending.run(batch, self.now_ms) {
            Ok(written) => written,
            Err(refused) => return Ok(Err(refused)),
        };
        for (record_key, after) in pending.changes() {
            self.replace(&tables::row_key(record_key), after)?;
        }
        let counters = pending.counters();
        self.counters
            .extend(counters.map(|(owner, counter)| (owner.clone(), *counter)));
        Ok(Ok(written))
    }

    /// Removes up to `limit` records whose time has come, of one owner or of all; returns how many.
    pub(super) fn sweep(&mut self, of: Option<&Owner>, limit: usize) -> Result<usize, redb::Error> {
        // Many who found no room ask in one transaction; once is enough.
        if of.is_some_and(|owner| !self.swept.insert(owner.clone())) {
            return Ok(0);
        }
        let due = tables::expiry_key(self.now_ms + 1, &[]);
        let of = of.map(|owner| tables::owner_key(owner.keyspace, &owner.group));
        let mut keys = Vec::new();
        for entry in self.expiry.range(..due.as_slice())?.take(self.looks) {
            self.looks -= 1;
            let key = entry?.0.value().to_vec();
            let (_, row_key) = tables::split_expiry_key(&key).ok_or_else(|| unreadable(&key))?;
            if of.as_ref().is_none_or(|owner| row_key.starts_with(owner)) {
                keys.push(key);
            }
            if keys.len() == limit {
                break;
            }
        }
        for key in &keys {
            let (_, row_key) = tables::split_expiry_key(key).ok_or_else(|| unreadable(key))?;
            let (owner, _) = tables::parse_owner(row_key).ok_or_else(|| unreadable(row_key))?;
            let charge = self.replace(row_key, None)?;
            let mut counter = self.counter_of(&owner)?.unwrap_or(Counter {
                usage: Usage::default(),
                revision: 0,
            });
            counter.usage.bytes = counter.usage.bytes.saturating_sub(charge);
            counter.usage.count = counter.usage.count.saturating_sub(1);
            self.counters.insert(owner, counter);
        }
        Ok(keys.len())
    }

    fn counter_of(&self, owner: &Owner) -> Result<Option<Counter>, redb::Error> {
        if let Some(counter) = self.counters.get(owner) {
            return Ok(Some(*counter));
        }
        let key = tables::owner_key(owner.keyspace, &owner.group);
        let row = self.counter.get(key.as_slice())?;
        Ok(row.map(|row| tables::counter(row.value())))
    }

    fn stored(&self, record_key: &RecordKey) -> Result<Option<Record>, redb::Error> {
        let key = tables::row_key(record_key);
        let Some(stored) = self.record.get(key.as_slice())? else {
            return Ok(None);
        };
        let row = tables::decode(stored.value()).ok_or_else(|| unreadable(&key))?;
        let value = row
            .value
            .map_or(Bytes::from_static(&NOT_READ), Bytes::copy_from_slice);
        Ok(Some(Record {
            value,
            meta: row.meta,
        }))
    }

    /// Stores what is at a key now, in all tables; returns the charge of what was there.
    fn replace(&mut self, key: &[u8], after: Option<&Record>) -> Result<u64, redb::Error> {
        let row = after.map(tables::encode);
        let before = match &row {
            Some(row) => self.record.insert(key, row.as_slice())?,
            None => self.record.remove(key)?,
        };
        let (mut charge, mut old_expiry, mut old_apart) = (0, None, false);
        if let Some(before) = &before {
            let row = tables::decode(before.value()).ok_or_else(|| unreadable(key))?;
            charge = row.meta.charge;
            old_expiry = row.meta.expires_ms;
            old_apart = row.value.is_none();
        }
        drop(before);
        match after.filter(|record| record.value.len() > tables::INLINE) {
            Some(record) => drop(self.value.insert(key, &*record.value)?),
            None if old_apart => drop(self.value.remove(key)?),
            None => {}
        }
        let new_expiry = after.and_then(|record| record.meta.expires_ms);
        if old_expiry != new_expiry {
            if let Some(expires_ms) = old_expiry {
                self.expiry
                    .remove(tables::expiry_key(expires_ms, key).as_slice())?;
            }
            if let Some(expires_ms) = new_expiry {
                self.expiry
                    .insert(tables::expiry_key(expires_ms, key).as_slice(), ())?;
            }
        }
        Ok(charge)
    }
}

/// The record at a key, also if its time has come.
pub(super) fn read(
    records: &impl redb::ReadableTable<&'static [u8], &'static [u8]>,
    values: &impl redb::ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<Record>, redb::Error> {
    let Some(stored) = records.get(key)? else {
        return Ok(None);
    };
    let row = tables::decode(stored.value()).ok_or_else(|| unreadable(key))?;
    if let Some(value) = row.value {
        return Ok(Some(tables::record(row.meta, value)));
    }
    let value = values.get(key)?.ok_or_else(|| unreadable(key))?;
    Ok(Some(tables::record(row.meta, value.value())))
}

/// What was read is not what is ever written.
pub(super) fn unreadable(key: &[u8]) -> redb::Error {
    redb::Error::Corrupted(format!("the row of {} is unreadable", key.escape_ascii()))
}
