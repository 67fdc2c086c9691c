//! The engines that a case runs on, and helpers for writing cases.

use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bismuth_store::blobs::{Blobs, Settings};
use bismuth_store::objects::Objects;
use bismuth_store::records::{
    Change, Condition, EngineError, Keyspace, Limits, Meta, Page, Query, Record, RecordKey,
    Records, Refused, Revision, Usage, Write, Written,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::task::JoinHandle;

/// What a call may take when the server is away: its own bound, and what a busy machine adds.
pub const AWAY_BOUND: Duration = Duration::from_millis(1500);
/// How long is waited for what happens by itself. Generous: the machine may be busy.
pub const EVENTUALLY_TIMEOUT: Duration = Duration::from_secs(20);

/// Two engines, which nobody else writes to.
#[async_trait]
pub trait TestEngines: Send + Sync {
    /// The records.
    fn records(&self) -> Arc<dyn Records>;
    /// The records as another process sees them, where the engine allows more than one.
    fn others(&self) -> Arc<dyn Records>;
    /// The objects.
    fn objects(&self) -> Arc<dyn Objects>;
    /// How many objects there are, half-written ones included.
    fn object_count(&self) -> usize;
    /// Ends the process that has the records, as it were, and begins another. Whoever has them must have dropped them.
    async fn reopen(&mut self);

    /// Blobs on both.
    fn blobs(&self) -> Blobs {
        self.blobs_with(Settings::default())
    }

    /// Blobs on both.
    fn blobs_with(&self, settings: Settings) -> Blobs {
        Blobs::new(self.records(), self.objects(), settings)
    }

    /// Blobs on both, which take an upload for dead that has not spoken just now.
    fn blobs_that_abandon_at_once(&self) -> Blobs {
        self.blobs_with(Settings {
            abandoned_after: Duration::ZERO,
            ..Settings::default()
        })
    }
}

pub fn at(key: &str) -> RecordKey {
    record_key("group", Keyspace::Kv, key)
}

pub fn record_key(group: &str, keyspace: Keyspace, key: &str) -> RecordKey {
    RecordKey::new(group, keyspace, key)
}

/// A write of `change` without a condition and a limit.
pub fn write(key: &str, change: Change) -> Write {
    Write::new(at(key), Condition::Always, change)
}

pub fn put(key: &str, value: impl Into<Bytes>) -> Write {
    write(key, put_change(key, value, None))
}

/// With `ttl_ms` of 0 its time has come when it is written.
pub fn put_for(key: &str, value: &'static str, ttl_ms: u64) -> Write {
    write(key, put_change(key, value, Some(ttl_ms)))
}

fn put_change(key: &str, value: impl Into<Bytes>, ttl_ms: Option<u64>) -> Change {
    let value = value.into();
    Change::Put {
        charge: (key.len() + value.len()) as u64,
        value,
        content_type: None,
        ttl_ms,
    }
}

pub fn add(key: &str, delta: i64) -> Write {
    let ttl_ms = None;
    write(key, Change::Add { delta, ttl_ms })
}

pub fn delete(key: &str) -> Write {
    write(key, Change::Delete)
}

/// The same write under a condition, within limits, elsewhere.
pub trait WriteExt {
    fn when(self, condition: Condition) -> Self;
    fn within(self, bytes: Option<u64>, count: Option<u64>) -> Self;
    fn of(self, group: &str, keyspace: Keyspace) -> Self;
}

impl WriteExt for Write {
    fn when(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }

    fn within(mut self, bytes: Option<u64>, count: Option<u64>) -> Self {
        self.limits = Limits { bytes, count };
        self
    }

    fn of(mut self, group: &str, keyspace: Keyspace) -> Self {
        self.record_key.group = group.into();
        self.record_key.keyspace = keyspace;
        self
    }
}

/// Makes one write.
pub async fn make(records: &Arc<dyn Records>, write: Write) -> Result<Written, EngineError> {
    let mut written = records.write(vec![write]).await?;
    assert_eq!(written.len(), 1);
    Ok(written.remove(0))
}

/// Makes one write that is not refused.
pub async fn made(records: &Arc<dyn Records>, write: Write) -> Written {
    make(records, write).await.unwrap()
}

/// Makes one write that is refused.
pub async fn refused(records: &Arc<dyn Records>, write: Write) -> Refused {
    match make(records, write.clone()).await {
        Err(EngineError::Refused { index: 0, refused }) => refused,
        other => panic!("{write:?} is not refused: {other:?}"),
    }
}

/// Whether a call failed because the engine is away, within the time that it may take.
pub async fn away<T>(bound: Duration, call: impl Future<Output = Result<T, EngineError>>) {
    let began = Instant::now();
    let error = call.await.err();
    let took = began.elapsed();
    let is_away = matches!(error, Some(EngineError::Unavailable { .. }));
    assert!(is_away, "{error:?}");
    assert!(took < bound, "it took {took:?}");
}

/// The name of a case if it panics.
pub async fn failure(name: &str, case: impl Future<Output = ()>) -> Option<&str> {
    let ended = AssertUnwindSafe(case).catch_unwind().await;
    ended.is_err().then_some(name)
}

/// Waits for all of them.
pub async fn join<T>(tasks: impl Iterator<Item = JoinHandle<T>>) -> Vec<T> {
    let joined = futures_util::future::join_all(tasks.collect::<Vec<_>>());
    joined.await.into_iter().map(Result::unwrap).collect()
}

pub async fn get(records: &Arc<dyn Records>, key: &str) -> Option<Record> {
    records.get(&at(key)).await.unwrap()
}

pub async fn value(records: &Arc<dyn Records>, key: &str) -> Option<String> {
    let record = get(records, key).await?;
    Some(String::from_utf8(record.value.to_vec()).unwrap())
}

pub fn one_of(revision: Revision) -> Condition {
    Condition::OneOf(vec![revision])
}

pub fn query(prefix: &str, after: Option<&str>, limit: usize) -> Query {
    Query {
        prefix: prefix.into(),
        after: after.map(Into::into),
        ..Query::all("group", Keyspace::Kv, NonZeroUsize::new(limit).unwrap())
    }
}

pub fn names(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|(key, _)| key.as_str()).collect()
}

/// All records of the usual group, in pages.
pub async fn all(records: &Arc<dyn Records>, page_size: usize) -> Vec<(String, Meta)> {
    let mut all: Vec<(String, Meta)> = Vec::new();
    loop {
        let after = all.last().map(|(key, _)| key.as_str());
        let page = records.list(&query("", after, page_size)).await.unwrap();
        assert!(page.entries.len() <= page_size);
        all.extend(page.entries);
        if !page.more {
            return all;
        }
    }
}

pub async fn usage(records: &Arc<dyn Records>) -> Usage {
    records.usage("group", Keyspace::Kv).await.unwrap()
}

/// What the records that are listed add up to.
pub async fn summed(records: &Arc<dyn Records>) -> Usage {
    let all = all(records, 100).await;
    Usage {
        bytes: all.iter().map(|(_, meta)| meta.charge).sum(),
        count: all.len() as u64,
    }
}
