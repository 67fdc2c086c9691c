//! Fake engines in memory, which can be unavailable or full.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bismuth_store::objects::{ObjectId, ObjectWriter, Objects};
use bismuth_store::records::pending_batch::PendingBatch;
use bismuth_store::records::{
    EngineError, Keyspace, Owner, Page, Query, Record, RecordKey, Records, Revision, Usage, Write,
    Written, now_ms,
};
use bismuth_store::secrets::{Secret, SecretStore};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use zeroize::Zeroizing;

/// One store for everything.
#[derive(Default)]
pub struct Store {
    pub away: AtomicBool,
    pub full: AtomicBool,
    /// One batch that is never stored.
    records: Mutex<PendingBatch>,
    objects: Arc<Mutex<BTreeMap<ObjectId, Bytes>>>,
    /// Group and name → the values it has had.
    secrets: Mutex<BTreeMap<(String, String), Vec<String>>>,
}

impl Store {
    fn state(&self) -> Result<MutexGuard<'_, PendingBatch>, EngineError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(EngineError::unavailable("the fake", "10.1.2.3 is asleep")),
            false => Ok(self.records.lock().unwrap()),
        }
    }

    /// Gives a secret these values, one after the other.
    pub fn set_secret(&self, group: &str, name: &str, values: &[&str]) {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        let name = (group.to_owned(), name.to_owned());
        self.secrets.lock().unwrap().insert(name, values);
    }

    /// How many objects there are, garbage included.
    pub fn objects(&self) -> usize {
        self.objects.lock().unwrap().len()
    }
}

#[async_trait]
impl Records for Store {
    async fn get(&self, record_key: &RecordKey) -> Result<Option<Record>, EngineError> {
        let state = self.state()?;
        let mut live = live(&state);
        let found = live.find(|(found, _)| *found == record_key);
        Ok(found.map(|(_, record)| record.clone()))
    }

    async fn get_many(
        &self,
        record_keys: &[RecordKey],
        most_bytes: u64,
    ) -> Result<Vec<Option<Record>>, EngineError> {
        let mut found = Vec::new();
        for record_key in record_keys {
            found.push(Records::get(self, record_key).await?);
        }
        let bytes: usize = found.iter().flatten().map(|it| it.value.len()).sum();
        match bytes as u64 > most_bytes {
            true => Err(EngineError::TooLarge { limit: most_bytes }),
            false => Ok(found),
        }
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let state = self.state()?;
        let fits = |record_key: &RecordKey| {
            record_key.group == query.group
                && record_key.keyspace == query.keyspace
                && record_key.key.starts_with(&query.prefix)
                && query
                    .after
                    .as_ref()
                    .is_none_or(|after| record_key.key > *after)
        };
        let fitting = live(&state).filter(|(record_key, _)| fits(record_key));
        let mut entries: Vec<_> = fitting
            .map(|(p, r)| (p.key.clone(), r.meta.clone()))
            .collect();
        let more = entries.len() > query.limit.get();
        entries.truncate(query.limit.get());
        Ok(Page { entries, more })
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, EngineError> {
        let mut state = self.state()?;
        if self.full.load(Ordering::SeqCst) {
            return Err(EngineError::Full { engine: "the fake" });
        }
        let mut next = state.clone();
        let refused = |(index, refused)| EngineError::Refused { index, refused };
        let written = next.run(&batch, now_ms()).map_err(refused)?;
        *state = next;
        Ok(written)
    }

    async fn usage(&self, group: &str, keyspace: Keyspace) -> Result<Usage, EngineError> {
        let group = group.to_owned();
        let owner = Owner { keyspace, group };
        let state = self.state()?;
        let found = state.counters().find(|(of, _)| **of == owner);
        Ok(found.map_or(Usage::default(), |(_, counter)| counter.usage))
    }

    async fn groups(&self, _space: Keyspace) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }

    async fn sweep(&self, _of: Option<&Owner>, _limit: NonZeroUsize) -> Result<usize, EngineError> {
        Ok(0)
    }

    async fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

fn live(state: &PendingBatch) -> impl Iterator<Item = (&RecordKey, &Record)> {
    let stored = state
        .changes()
        .filter_map(|(record_key, it)| Some((record_key, it?)));
    stored.filter(|(_, record)| record.meta.is_live(now_ms()))
}

struct Writer {
    id: ObjectId,
    bytes: BytesMut,
    objects: Arc<Mutex<BTreeMap<ObjectId, Bytes>>>,
}

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), EngineError> {
        let bytes = self.bytes.freeze();
        self.objects.lock().unwrap().insert(self.id, bytes);
        Ok(())
    }
}

#[async_trait]
impl Objects for Store {
    async fn create(
        &self,
        id: ObjectId,
        _group: &str,
    ) -> Result<Box<dyn ObjectWriter>, EngineError> {
        Ok(Box::new(Writer {
            id,
            bytes: BytesMut::new(),
            objects: Arc::clone(&self.objects),
        }))
    }

    async fn read(
        &self,
        id: ObjectId,
        range: Range<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, EngineError>>>, EngineError> {
        let Some(bytes) = self.objects.lock().unwrap().get(&id).cloned() else {
            return Ok(None);
        };
        let bytes = bytes.slice(range.start as usize..range.end as usize);
        let chunks = bytes.chunks(65_536).map(Bytes::copy_from_slice);
        let chunks: Vec<_> = chunks.map(Ok).collect();
        Ok(Some(Box::pin(stream::iter(chunks))))
    }

    async fn delete(&self, id: ObjectId) -> Result<(), EngineError> {
        self.objects.lock().unwrap().remove(&id);
        Ok(())
    }

    async fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

#[async_trait]
impl SecretStore for Store {
    async fn get(
        &self,
        group: &str,
        name: &str,
        version: Option<u64>,
    ) -> Result<Option<Secret>, EngineError> {
        let secrets = self.secrets.lock().unwrap();
        let Some(values) = secrets.get(&(group.to_owned(), name.to_owned())) else {
            return Ok(None);
        };
        let version = version.unwrap_or(values.len() as u64);
        let value = version
            .checked_sub(1)
            .and_then(|index| values.get(index as usize));
        Ok(value.map(|value| Secret {
            value: Zeroizing::new(value.clone().into_bytes()),
            version,
            revision: Revision(0x100 + version),
        }))
    }
}
