//! Records in one file of one machine (redb): the default, which needs no server.
//!
//! ```text
//!   get list usage ──────────────► read transaction: a snapshot, no waiting          store.rs   opened, and again after an I/O error
//!   write sweep ─► writer thread ─► write transaction, group commit, fsync            writer.rs  open_tables.rs  tables.rs
//! ```
//!
//! One process at a time: a second one is refused and told the pid of the first.

mod open_tables;
mod reserve;
mod store;
mod tables;
mod writer;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use redb::ReadTransaction;
use tokio::sync::{mpsc, oneshot};

pub use store::OpenError;

use self::open_tables::{read, unreadable};
use self::reserve::Reserve;
use self::store::{ENGINE, Store};
use self::writer::Request;
use super::{
    EngineError, Keyspace, Owner, Page, Query, Record, RecordKey, Records, Usage, Write, Written,
    now_ms, range,
};

/// Requests that may wait for the next commit; more wait for a place.
const QUEUE: usize = 512;
/// A disk that takes longer hangs, and a client is to hear of it within a second: a commit is some milliseconds, on a busy disk some hundred.
const BOUND: Duration = Duration::from_millis(950);

/// Records in a directory of this machine.
#[derive(Debug)]
pub struct Embedded {
    store: Arc<Store>,
    /// `None` only while it is dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the store in `dir`, which is made if it is not there. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// When the directory or the file cannot be used, or another process uses it.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let store = Arc::new(Store::open(dir)?);
        let (requests, inbox) = mpsc::channel(QUEUE);
        let reserve = Reserve::in_dir(dir);
        let for_writer = Arc::clone(&store);
        let writer = std::thread::Builder::new()
            .name("records-writer".into())
            .spawn(move || writer::run(&for_writer, reserve, inbox))
            .map_err(|source| OpenError::Open {
                path: dir.to_owned(),
                source: Box::new(source.into()),
            })?;
        Ok(Self {
            store,
            requests: Some(requests),
            writer: Some(writer),
        })
    }

    /// Sends a request to the writer and waits for its answer, not for ever.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, EngineError>>) -> Request,
    ) -> Result<T, EngineError> {
        let (answer, answered) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        let asked = async {
            requests.send(request(answer)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        };
        let bounded = tokio::time::timeout(BOUND, asked).await;
        bounded.map_err(|_| hangs())?
    }

    /// Reads on a thread that may wait for the disk. What is in the kernel's cache would be read in a third of the time where it is asked for
    /// (5 µs against 15, 90,000 a second against 42,000 on two cores); but a disk that hangs would take a thread that serves every
    /// container with it, and nobody would be told.
    async fn read_apart<T: Send + 'static>(
        &self,
        read: impl Fn(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, EngineError> {
        let store = Arc::clone(&self.store);
        let read = tokio::task::spawn_blocking(move || store.read(read));
        let bounded = tokio::time::timeout(BOUND, read)
            .await
            .map_err(|_| hangs())?;
        bounded.map_err(|error| EngineError::broken(ENGINE, error.to_string()))?
    }
}

fn hangs() -> EngineError {
    EngineError::unavailable(ENGINE, format!("the disk took more than {BOUND:?}"))
}

fn gone() -> EngineError {
    EngineError::broken(ENGINE, "its writer has ended")
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.requests = None;
        // It ends when it has answered what waits, so that the lock is free when this returns.
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the embedded store panicked");
        }
    }
}

#[async_trait]
impl Records for Embedded {
    async fn get(&self, record_key: &RecordKey) -> Result<Option<Record>, EngineError> {
        let record_key = record_key.clone();
        self.read_apart(move |state| find(state, &record_key, now_ms()))
            .await
    }

    async fn get_many(
        &self,
        record_keys: &[RecordKey],
        most_bytes: u64,
    ) -> Result<Vec<Option<Record>>, EngineError> {
        let record_keys = record_keys.to_vec();
        let found = self.read_apart(move |state| find_all(state, &record_keys, most_bytes));
        found
            .await?
            .ok_or(EngineError::TooLarge { limit: most_bytes })
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let query = query.clone();
        self.read_apart(move |state| list(state, &query, now_ms()))
            .await
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, EngineError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(|answer| Request::Write { batch, answer }).await
    }

    async fn usage(&self, group: &str, keyspace: Keyspace) -> Result<Usage, EngineError> {
        let key = tables::owner_key(keyspace, group);
        self.read_apart(move |state| {
            let row = state.open_table(tables::COUNTER)?;
            let row = row.get(key.as_slice())?;
            Ok(row.map_or(Usage::default(), |row| tables::counter(row.value()).usage))
        })
        .await
    }

    async fn groups(&self, keyspace: Keyspace) -> Result<Vec<String>, EngineError> {
        self.read_apart(move |state| groups(state, keyspace)).await
    }

    async fn sweep(&self, of: Option<&Owner>, limit: NonZeroUsize) -> Result<usize, EngineError> {
        let (of, limit) = (of.cloned(), limit.get());
        let sweep = |answer| Request::Sweep { of, limit, answer };
        self.ask(sweep).await
    }

    async fn check(&self) -> Result<(), EngineError> {
        if self.requests.as_ref().is_none_or(mpsc::Sender::is_closed) {
            return Err(gone());
        }
        self.read_apart(|state| {
            state.open_table(tables::RECORD)?;
            Ok(())
        })
        .await
    }
}

fn find(
    state: &ReadTransaction,
    record_key: &RecordKey,
    now_ms: u64,
) -> Result<Option<Record>, redb::Error> {
    let records = state.open_table(tables::RECORD)?;
    let values = state.open_table(tables::VALUE)?;
    let stored = read(&records, &values, &tables::row_key(record_key))?;
    Ok(stored.filter(|record| record.meta.is_live(now_ms)))
}

/// `None` when their values have more bytes.
fn find_all(
    state: &ReadTransaction,
    record_keys: &[RecordKey],
    most_bytes: u64,
) -> Result<Option<Vec<Option<Record>>>, redb::Error> {
    let now_ms = now_ms();
    let (mut all, mut bytes) = (Vec::with_capacity(record_keys.len()), 0);
    for record_key in record_keys {
        let found = find(state, record_key, now_ms)?;
        bytes += found.as_ref().map_or(0, |it| it.value.len() as u64);
        if bytes > most_bytes {
            return Ok(None);
        }
        all.push(found);
    }
    Ok(Some(all))
}

fn list(state: &ReadTransaction, query: &Query, now_ms: u64) -> Result<Page, redb::Error> {
    let records = state.open_table(tables::RECORD)?;
    let owner = tables::owner_key(query.keyspace, &query.group);
    let from = [owner.clone(), range::first(query)].concat();
    // A key begins with its keyspace, which is not 0xff, so that there is always a key after.
    let to = range::after_prefix(&[&owner, query.prefix.as_bytes()].concat());
    let to = to.unwrap_or_default();
    let mut page = Page::default();
    if from >= to {
        return Ok(page);
    }
    for entry in records.range(from.as_slice()..to.as_slice())? {
        let (key, row) = entry?;
        let row = tables::decode(row.value()).ok_or_else(|| unreadable(key.value()))?;
        if !row.meta.is_live(now_ms) {
            continue;
        }
        if page.entries.len() == query.limit.get() {
            page.more = true;
            break;
        }
        let name = key.value().get(owner.len()..).unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| unreadable(key.value()))?;
        page.entries.push((name.to_owned(), row.meta));
    }
    Ok(page)
}

fn groups(state: &ReadTransaction, keyspace: Keyspace) -> Result<Vec<String>, redb::Error> {
    let counters = state.open_table(tables::COUNTER)?;
    let mut groups = Vec::new();
    for entry in counters.range([keyspace.code()].as_slice()..[keyspace.code() + 1].as_slice())? {
        let (key, row) = entry?;
        if tables::counter(row.value()).usage.count > 0 {
            let (owner, _) =
                tables::parse_owner(key.value()).ok_or_else(|| unreadable(key.value()))?;
            groups.push(owner.group);
        }
    }
    // Stored by length first.
    groups.sort_unstable();
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::records::{Change, Condition};

    fn at() -> RecordKey {
        RecordKey::new("g", Keyspace::Kv, "key")
    }

    fn put() -> Write {
        Write::new(at(), Condition::Always, Change::put("value", 8))
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_reported_within_a_second_and_does_not_block_others() {
        let dir = tempfile::tempdir().unwrap();
        let records = Embedded::open(dir.path()).unwrap();
        records.write(vec![put()]).await.unwrap();
        let (record_key, began) = (at(), Instant::now());
        {
            // As while the file is opened again on a disk that does not answer.
            let _hangs = records.store.hang();
            let (get, usage, write, check) = tokio::join!(
                records.get(&record_key),
                async { records.usage("g", Keyspace::Kv).await.map(drop) },
                records.write(vec![put()]),
                records.check(),
            );
            for error in [get.err(), usage.err(), write.err(), check.err()] {
                assert!(
                    matches!(error, Some(EngineError::Unavailable { .. })),
                    "{error:?}"
                );
            }
        }
        let took = began.elapsed();
        assert!(took < Duration::from_millis(1900), "it took {took:?}");
        assert!(records.get(&at()).await.unwrap().is_some());
        records.write(vec![put()]).await.unwrap();
    }
}
