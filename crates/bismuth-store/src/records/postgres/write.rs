//! Writes batches: two round trips, whatever the size of a batch.
//!
//! ```text
//!   BEGIN · lock counters · time · records ──►        statements of one line are sent without waiting for each other
//!                                          ◄── pending batch
//!   changes · counters · COMMIT            ──►
//! ```

use std::collections::BTreeSet;

use futures_util::future::{try_join4, try_join5};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::Failure;
use super::pooled_connection::PooledConnection;
use super::sql;
use crate::records::pending_batch::{self, Owner, PendingBatch};
use crate::records::{Record, RecordKey, Write, Written};

/// Makes a batch, or refuses it.
pub(super) async fn batch(
    connection: PooledConnection,
    batch: &[Write],
) -> Result<(PooledConnection, Vec<Written>), Failure> {
    let owners = pending_batch::owners(batch);
    let record_keys: BTreeSet<&RecordKey> = batch.iter().map(|write| &write.record_key).collect();
    let record_keys: Vec<&RecordKey> = record_keys.into_iter().collect();
    let (mut pending, now_ms) = load(&connection, &owners, &record_keys).await?;
    match pending.run(batch, now_ms) {
        Ok(written) => {
            store(&connection, &pending).await?;
            Ok((connection, written))
        }
        Err((index, refused)) => {
            connection.end("ROLLBACK").await?;
            connection.return_to_pool();
            Err(Failure::Refused { index, refused })
        }
    }
}

/// Begins the transaction; the counters are locked afterwards.
async fn load(
    connection: &PooledConnection,
    owners: &[Owner],
    record_keys: &[&RecordKey],
) -> Result<(PendingBatch, u64), Failure> {
    let lock = connection.prepare(sql::LOCK_COUNTERS).await?;
    let now = connection.prepare(sql::NOW).await?;
    let stored = connection.prepare(sql::STORED).await?;
    let (keyspaces, groups) = arrays(owners);
    let (key_keyspaces, key_groups, keys) = sql::record_keys(record_keys.iter().copied());
    // Polled, and so sent, in this order; each statement sees what was committed when it begins, and the locks come first.
    let ((), counters, now, rows) = try_join4(
        connection.begin(),
        connection.query(&lock, &[&keyspaces, &groups]),
        connection.query_one(&now, &[]),
        connection.query(&stored, &[&key_keyspaces, &key_groups, &keys]),
    )
    .await?;
    if counters.len() < owners.len() {
        connection.end("ROLLBACK").await?;
        let begin = connection.prepare(sql::BEGIN_COUNTERS).await?;
        connection.execute(&begin, &[&keyspaces, &groups]).await?;
        return Err(Failure::Again);
    }
    let mut pending = PendingBatch::default();
    for row in &counters {
        let (keyspace, group) = sql::owner_of(row)?;
        pending.load_counter(Owner { keyspace, group }, sql::counter(row)?);
    }
    for row in &rows {
        pending.load(record_key_of(record_keys, row)?, Some(sql::record(row)?));
    }
    Ok((pending, sql::unsigned(&now, "now_ms")?))
}

fn record_key_of(record_keys: &[&RecordKey], row: &Row) -> Result<RecordKey, Failure> {
    let ordinal = sql::unsigned(row, "ordinal")?;
    let index = usize::try_from(ordinal).unwrap_or_default();
    let record_key = record_keys.get(index.wrapping_sub(1));
    let record_key =
        record_key.ok_or_else(|| Failure::Unreadable(format!("ordinal is {ordinal}")))?;
    Ok((*record_key).clone())
}

/// Stores what has changed, and commits.
async fn store(connection: &PooledConnection, pending: &PendingBatch) -> Result<(), Failure> {
    let put = connection.prepare(sql::PUT).await?;
    let delete = connection.prepare(sql::DELETE).await?;
    let count = connection.prepare(sql::PUT_COUNTERS).await?;
    let puts = pending
        .changes()
        .filter_map(|(record_key, after)| Some((record_key, after?)));
    let puts = Puts::collect(puts);
    let gone = pending.changes().filter(|(_, after)| after.is_none());
    let (gone_keyspaces, gone_groups, gone_keys) =
        sql::record_keys(gone.map(|(record_key, _)| record_key));
    let owners: Vec<Owner> = pending.counters().map(|(owner, _)| owner.clone()).collect();
    let (keyspaces, groups) = arrays(&owners);
    let numbers = |of: fn(&pending_batch::Counter) -> u64| -> Vec<i64> {
        pending
            .counters()
            .map(|(_, counter)| sql::number(of(counter)))
            .collect()
    };
    let (bytes, counts) = (numbers(|it| it.usage.bytes), numbers(|it| it.usage.count));
    let revisions = numbers(|it| it.revision);
    // Polled, and so sent, in this order. If one fails, COMMIT rolls back what came before.
    let counters: [&(dyn ToSql + Sync); 5] = [&keyspaces, &groups, &bytes, &counts, &revisions];
    let changes = try_join4(
        async {
            if puts.keys.is_empty() {
                Ok(0)
            } else {
                connection.execute(&put, &puts.params()).await
            }
        },
        async {
            if gone_keys.is_empty() {
                return Ok(0);
            }
            connection
                .execute(&delete, &[&gone_keyspaces, &gone_groups, &gone_keys])
                .await
        },
        connection.execute(&count, &counters),
        connection.end("COMMIT"),
    );
    changes.await.map(drop).map_err(Failure::Unknown)
}

/// Records as arrays.
#[derive(Default)]
struct Puts<'a> {
    keyspaces: Vec<i16>,
    groups: Vec<&'a [u8]>,
    keys: Vec<&'a [u8]>,
    revisions: Vec<i64>,
    modified_ms: Vec<i64>,
    expires_ms: Vec<Option<i64>>,
    charges: Vec<i64>,
    content_types: Vec<Option<&'a [u8]>>,
    values: Vec<&'a [u8]>,
}

impl<'a> Puts<'a> {
    fn collect(records: impl Iterator<Item = (&'a RecordKey, &'a Record)>) -> Self {
        let mut puts = Self::default();
        for (record_key, record) in records {
            let (keyspace, group, key) = sql::record_key(record_key);
            let meta = &record.meta;
            puts.keyspaces.push(keyspace);
            puts.groups.push(group);
            puts.keys.push(key);
            puts.revisions.push(sql::number(meta.revision.0));
            puts.modified_ms.push(sql::number(meta.modified_ms));
            puts.expires_ms.push(meta.expires_ms.map(sql::number));
            puts.charges.push(sql::number(meta.charge));
            puts.content_types
                .push(meta.content_type.as_ref().map(String::as_bytes));
            puts.values.push(&record.value);
        }
        puts
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.keyspaces,
            &self.groups,
            &self.keys,
            &self.revisions,
            &self.modified_ms,
            &self.expires_ms,
            &self.charges,
            &self.content_types,
            &self.values,
        ]
    }
}

/// Removes up to `limit` records whose time has come, of one owner or of all, each owner's in a transaction of its own.
pub(super) async fn sweep(
    connection: PooledConnection,
    of: Option<&Owner>,
    limit: usize,
) -> Result<(PooledConnection, usize), Failure> {
    let owners = match of {
        Some(owner) => BTreeSet::from([owner.clone()]),
        None => due(&connection, limit).await?,
    };
    let (mut swept, mut failed) = (0, None);
    for owner in owners {
        // One whose records take too long must not keep all others' from going.
        match sweep_owner(&connection, &owner, limit - swept).await {
            Ok(count) => swept += count,
            Err(error) => {
                connection.end("ROLLBACK").await?;
                failed = Some(error);
            }
        }
        if swept >= limit {
            break;
        }
    }
    match failed {
        Some(error) if swept == 0 => Err(error),
        _ => Ok((connection, swept)),
    }
}

async fn sweep_owner(
    connection: &PooledConnection,
    owner: &Owner,
    limit: usize,
) -> Result<usize, Failure> {
    let lock = connection.prepare(sql::LOCK_COUNTERS).await?;
    let sweep = connection.prepare(sql::SWEEP).await?;
    let most = sql::number(limit as u64);
    let (keyspace, group) = sql::owner(owner.keyspace, &owner.group);
    let (keyspaces, groups) = (vec![keyspace], vec![group]);
    let locked: [&(dyn ToSql + Sync); 2] = [&keyspaces, &groups];
    let removed: [&(dyn ToSql + Sync); 3] = [&keyspace, &group, &most];
    let (_, _, _, rows, ()) = try_join5(
        connection.begin(),
        connection.batch_execute(sql::SWEEP_TIMEOUT),
        connection.query(&lock, &locked),
        connection.query(&sweep, &removed),
        connection.end("COMMIT"),
    )
    .await?;
    let counts = rows.iter().map(|row| sql::unsigned(row, "swept"));
    let swept = counts.sum::<Result<u64, Failure>>()?;
    Ok(usize::try_from(swept).unwrap_or_default())
}

/// Who has records whose time has come.
async fn due(connection: &PooledConnection, limit: usize) -> Result<BTreeSet<Owner>, Failure> {
    let limit = sql::number(limit as u64);
    let rows = connection.rows(sql::DUE, &[&limit]).await?;
    let owners = rows.iter().map(|row| {
        let (keyspace, group) = sql::owner_of(row)?;
        Ok(Owner { keyspace, group })
    });
    owners.collect()
}

fn arrays(owners: &[Owner]) -> (Vec<i16>, Vec<&[u8]>) {
    let pairs = owners.iter().map(|it| sql::owner(it.keyspace, &it.group));
    pairs.unzip()
}
