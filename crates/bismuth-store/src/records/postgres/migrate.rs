//! Schema migrations, step by step.
//!
//! Every step can be made twice, and by several at once: who loses a race is told so by the server and tries again. So no lock is needed
//! that only PostgreSQL has.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::error::Failure;
use super::pooled_connection::PooledConnection;
use super::sql;

/// The steps, for ever in this order. A step that was released is not changed.
const STEPS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS bismuth_counter (space smallint NOT NULL, grp bytea NOT NULL, bytes bigint NOT NULL, \
         count bigint NOT NULL, revision bigint NOT NULL, PRIMARY KEY (space, grp)); \
     CREATE TABLE IF NOT EXISTS bismuth_record (space smallint NOT NULL, grp bytea NOT NULL, key bytea NOT NULL, \
         revision bigint NOT NULL, modified_ms bigint NOT NULL, expires_ms bigint, charge bigint NOT NULL, \
         content_type bytea, value bytea NOT NULL, PRIMARY KEY (space, grp, key)); \
     CREATE INDEX IF NOT EXISTS bismuth_record_expiry ON bismuth_record (expires_ms) WHERE expires_ms IS NOT NULL",
];
const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS bismuth_migration (version bigint PRIMARY KEY)";
/// Each race has a winner, so that as many may start at once.
const RACES: u32 = 30;
/// A race is over when the winner has committed.
const PAUSE: Duration = Duration::from_millis(10);

/// Makes the steps that were not made.
pub(super) async fn run(connection: &PooledConnection) -> Result<(), Failure> {
    for _ in 1..RACES {
        match steps(connection).await {
            Err(Failure::Sql(error)) if error.code().is_some_and(is_race) => {
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
    steps(connection).await
}

async fn steps(connection: &PooledConnection) -> Result<(), Failure> {
    let newest = match newest(connection).await {
        Err(Failure::Sql(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            connection.batch_execute(VERSIONS).await?;
            0
        }
        newest => newest?,
    };
    let made = usize::try_from(newest).unwrap_or(usize::MAX);
    let missing = STEPS.get(made..).ok_or_else(|| {
        let ours = STEPS.len();
        Failure::Unreadable(format!(
            "its tables are of version {newest}, and this program knows {ours}: it is too old"
        ))
    })?;
    for (step, version) in missing.iter().zip(newest + 1..) {
        tracing::info!(version, "making the tables of PostgreSQL");
        // A transaction of its own: several statements in one message.
        let step = format!(
            "{step}; INSERT INTO bismuth_migration (version) VALUES ({version}) ON CONFLICT (version) DO NOTHING"
        );
        if let Err(error) = make(connection, &step).await {
            connection.end("ROLLBACK").await?;
            return Err(error.into());
        }
    }
    Ok(())
}

async fn make(connection: &PooledConnection, step: &str) -> Result<(), tokio_postgres::Error> {
    connection.begin().await?;
    connection.batch_execute(sql::STEP_TIMEOUT).await?;
    connection.batch_execute(step).await?;
    connection.end("COMMIT").await
}

async fn newest(connection: &PooledConnection) -> Result<i64, Failure> {
    let newest = "SELECT coalesce(max(version), 0) AS version FROM bismuth_migration";
    // Not kept: it is asked once.
    let row = connection.query_one(newest, &[]).await?;
    Ok(row.try_get("version")?)
}

/// What the server says to the loser: `IF NOT EXISTS` looks before the other has committed.
fn is_race(code: &SqlState) -> bool {
    [
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ]
    .contains(code)
}
