//! Records in PostgreSQL, or what speaks its protocol: for more than one node.
//!
//! ```text
//!   get list usage ─► pool ─► one statement                                                    connect.rs  sql.rs
//!   write          ─► pool ─► BEGIN, lock the counters, time, records ─► pending batch ─► changes, COMMIT     write.rs
//!   first call     ─► tables are made if they are not there                                    migrate.rs
//! ```
//!
//! - Whoever changes a keyspace of a group holds the lock of its counter, so that usage is exact however many nodes there are.
//! - Whether a record's time has come is decided by the server's clock, so that it is gone for all nodes at once.
//! - No server is needed at start: until it answers, calls fail within a second, and afterwards they do not.

mod connect;
mod error;
mod migrate;
mod passfile;
mod pooled_connection;
mod sql;
mod write;

use std::num::NonZeroUsize;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Pool;
use tokio::sync::OnceCell;

pub use connect::ConfigError;

use self::error::Failure;
use self::pooled_connection::PooledConnection;
use super::{
    EngineError, Keyspace, Owner, Page, Query, Record, RecordKey, Records, Usage, Write, Written,
    range,
};

/// What errors call this engine.
const ENGINE: &str = "PostgreSQL";
/// The longest that anything takes, so that a client hears within a second that the server is away.
const BOUND: Duration = Duration::from_millis(950);
/// Sweeping is done by the background, which may wait.
const SWEEP_BOUND: Duration = Duration::from_secs(20);
/// So often something is done again that the server gave up in favour of somebody else, or whose connection had died unnoticed.
const ATTEMPTS: u32 = 20;

/// Records in a database.
#[derive(Debug)]
pub struct Postgres {
    pool: Pool,
    migrated: OnceCell<()>,
}

impl Postgres {
    /// Records in the database at `url` (libpq's form). Connects when it is used. A password is taken from `PGPASSWORD`, or from the file
    /// that `PGPASSFILE` names, if the URL has none. TLS is checked against the authorities that browsers trust, or those in the file `sslrootcert`.
    ///
    /// # Errors
    /// When the URL or one of the files is not as it should be.
    pub fn open(url: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            pool: connect::pool(url)?,
            migrated: OnceCell::new(),
        })
    }

    /// A connection to a database that has our tables.
    async fn connection(&self) -> Result<PooledConnection, Failure> {
        let connection = PooledConnection::from_pool(&self.pool).await?;
        let migrated = self.migrated.get_or_try_init(|| migrate::run(&connection));
        migrated.await?;
        Ok(connection)
    }

    /// Does something that can be done again, until it succeeds or there is no point. `act` gives back the connection with its answer.
    async fn attempt<T, F>(
        &self,
        bound: Duration,
        act: impl Fn(PooledConnection) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<(PooledConnection, T), Failure>>,
    {
        let once = async || {
            let (connection, answer) = act(self.connection().await?).await?;
            connection.return_to_pool();
            Ok::<T, Failure>(answer)
        };
        let attempts = async {
            for _ in 1..ATTEMPTS {
                match once().await {
                    Err(failure) if failure.is_worth_another_attempt() => {}
                    done => return done,
                }
            }
            once().await
        };
        match tokio::time::timeout(bound, attempts).await {
            Ok(done) => done.map_err(Failure::into_engine_error),
            Err(_) => Err(error::unavailable(format!("no answer within {bound:?}"))),
        }
    }
}

#[async_trait]
impl Records for Postgres {
    async fn get(&self, record_key: &RecordKey) -> Result<Option<Record>, EngineError> {
        self.attempt(BOUND, |connection| async move {
            let (keyspace, group, key) = sql::record_key(record_key);
            let rows = connection
                .rows(sql::GET, &[&keyspace, &group, &key])
                .await?;
            let record = rows.first().map(sql::record).transpose()?;
            Ok((connection, record))
        })
        .await
    }

    async fn get_many(
        &self,
        record_keys: &[RecordKey],
        most_bytes: u64,
    ) -> Result<Vec<Option<Record>>, EngineError> {
        let most = sql::number(most_bytes);
        self.attempt(BOUND, |connection| async move {
            let (keyspaces, groups, keys) = sql::record_keys(record_keys.iter());
            let rows = connection
                .rows(sql::GET_MANY, &[&keyspaces, &groups, &keys, &most])
                .await?;
            let mut found = vec![None; record_keys.len()];
            for row in rows {
                if sql::unsigned(&row, "bytes")? > most_bytes {
                    connection.return_to_pool();
                    return Err(Failure::TooLarge { limit: most_bytes });
                }
                let ordinal: i64 = row.try_get("ordinal")?;
                let index = usize::try_from(ordinal - 1).unwrap_or(usize::MAX);
                if let Some(slot) = found.get_mut(index) {
                    *slot = Some(sql::record(&row)?);
                }
            }
            Ok((connection, found))
        })
        .await
    }

    async fn list(&self, query: &Query) -> Result<Page, EngineError> {
        let from = range::first(query);
        let to = range::after_prefix(query.prefix.as_bytes());
        let (from, to) = (&from, &to);
        let limit = i64::try_from(query.limit.get()).unwrap_or(i64::MAX);
        self.attempt(BOUND, |connection| async move {
            let (keyspace, group) = sql::owner(query.keyspace, &query.group);
            // One more, to know whether there is one.
            let more = limit.saturating_add(1);
            let rows = connection
                .rows(sql::LIST, &[&keyspace, &group, from, to, &more])
                .await?;
            let entries = rows.iter().map(sql::entry);
            let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
            let more = entries.len() > query.limit.get();
            entries.truncate(query.limit.get());
            Ok((connection, Page { entries, more }))
        })
        .await
    }

    async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, EngineError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let batch = &batch;
        self.attempt(BOUND, |connection| write::batch(connection, batch))
            .await
    }

    async fn usage(&self, group: &str, keyspace: Keyspace) -> Result<Usage, EngineError> {
        self.attempt(BOUND, |connection| async move {
            let (keyspace, group) = sql::owner(keyspace, group);
            let rows = connection.rows(sql::COUNTER, &[&keyspace, &group]).await?;
            let counter = rows.first().map(sql::counter).transpose()?;
            Ok((connection, counter.map_or(Usage::default(), |it| it.usage)))
        })
        .await
    }

    async fn groups(&self, keyspace: Keyspace) -> Result<Vec<String>, EngineError> {
        self.attempt(BOUND, |connection| async move {
            let keyspace = sql::keyspace(keyspace);
            let rows = connection.rows(sql::GROUPS, &[&keyspace]).await?;
            let groups = rows.iter().map(|row| sql::text(row, "grp"));
            let groups = groups.collect::<Result<_, _>>()?;
            Ok((connection, groups))
        })
        .await
    }

    async fn sweep(&self, of: Option<&Owner>, limit: NonZeroUsize) -> Result<usize, EngineError> {
        // The background may wait, who wants room may not.
        let bound = if of.is_some() { BOUND } else { SWEEP_BOUND };
        self.attempt(bound, |connection| {
            write::sweep(connection, of, limit.get())
        })
        .await
    }

    async fn check(&self) -> Result<(), EngineError> {
        self.attempt(BOUND, |connection| async move {
            connection.batch_execute("SELECT 1").await?;
            Ok((connection, ()))
        })
        .await
    }
}
