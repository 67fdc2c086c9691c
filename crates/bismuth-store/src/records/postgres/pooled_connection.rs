//! A connection taken from the pool for one call.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::runtime::Handle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::error::Failure;
use super::sql;

/// So long the server may work on after its answer is of no use any more. Then the connection is closed, which it notices when it is done.
const RECLAIM_BOUND: Duration = Duration::from_secs(20);

/// A connection out of the pool. Only who knows in which state it is gives it back. Dropped, also because its user was cut off, it keeps its place in
/// the pool until the server has answered: a connection that were closed would leave a process behind in a server that is slow already, and another
/// would be made in its place, until the server had no more to give.
pub(super) struct PooledConnection {
    /// `None` only while it is dropped.
    connection: Option<Object>,
    in_transaction: AtomicBool,
}

impl PooledConnection {
    pub(super) async fn from_pool(pool: &Pool) -> Result<Self, Failure> {
        let connection = Some(pool.get().await?);
        Ok(Self {
            connection,
            in_transaction: AtomicBool::new(false),
        })
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<(), tokio_postgres::Error> {
        self.in_transaction.store(true, Ordering::Relaxed);
        self.batch_execute(sql::BEGIN).await
    }

    /// Ends it: `COMMIT`, or `ROLLBACK`.
    pub(super) async fn end(&self, how: &str) -> Result<(), tokio_postgres::Error> {
        self.batch_execute(how).await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the connection back, which is not in a transaction.
    pub(super) fn return_to_pool(mut self) {
        drop(self.connection.take());
    }

    /// The rows of a statement.
    pub(super) async fn rows(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let statement = self.prepare(sql).await?;
        Ok(self.query(&statement, params).await?)
    }

    /// A statement, prepared when it is used for the first time on this connection.
    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement, Failure> {
        let connection = self.connection.as_ref();
        let connection = connection.ok_or_else(Failure::closed)?;
        Ok(connection.prepare_cached(sql).await?)
    }
}

impl Deref for PooledConnection {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        self.connection
            .as_ref()
            .expect("it is taken only where the connection ends")
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        match Handle::try_current() {
            Ok(runtime) => {
                // Without a transaction the server would write a warning into its log.
                let last = match self.in_transaction.load(Ordering::Relaxed) {
                    true => "ROLLBACK",
                    false => "",
                };
                drop(runtime.spawn(reclaim(connection, last)));
            }
            Err(_) => drop(Object::take(connection)),
        }
    }
}

/// Ends what is going on on a connection, and gives it back; or closes it.
async fn reclaim(connection: Object, last: &str) {
    // Answered after what was asked before.
    let ended = tokio::time::timeout(RECLAIM_BOUND, connection.batch_execute(last));
    if !matches!(ended.await, Ok(Ok(()))) {
        drop(Object::take(connection));
    }
}
