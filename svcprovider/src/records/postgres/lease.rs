//! A connection, for as long as one thing is done on it.

use std::ops::Deref;

use deadpool_postgres::{Object, Pool};
use tokio_postgres::Statement;

use super::error::Failure;

/// A connection out of the pool. Dropped, also because its user was cut off, it is closed: nobody knows in which state it is. Only who knows gives it back.
pub(super) struct Lease {
    /// `None` only while it is dropped.
    connection: Option<Object>,
}

impl Lease {
    pub(super) async fn from_pool(pool: &Pool) -> Result<Self, Failure> {
        let connection = Some(pool.get().await?);
        Ok(Self { connection })
    }

    /// Gives the connection back, which is not in a transaction.
    pub(super) fn give_back(mut self) {
        drop(self.connection.take());
    }

    /// A statement, prepared when it is used for the first time on this connection.
    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement, Failure> {
        let connection = self.connection.as_ref();
        let connection = connection.ok_or_else(Failure::closed)?;
        Ok(connection.prepare_cached(sql).await?)
    }
}

impl Deref for Lease {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        self.connection
            .as_ref()
            .expect("it is taken only where the lease ends")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}
