//! The SQL statements, their parameters, and how rows are read.
//!
//! Groups, keys and media types are `bytea`: they are compared by their bytes whatever the database's locale and encoding are.

use bytes::Bytes;
use tokio_postgres::Row;

use super::error::Failure;
use crate::records::pending_batch::Counter;
use crate::records::{Keyspace, Meta, Record, RecordKey, Revision, Usage};

/// The server's time in milliseconds; the same all over a statement.
macro_rules! now {
    () => {
        "(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
    };
}
/// What a record's time has not come for.
macro_rules! live {
    () => {
        concat!("(r.expires_ms IS NULL OR r.expires_ms > ", now!(), ")")
    };
}
macro_rules! columns {
    () => {
        "r.revision, r.modified_ms, r.expires_ms, r.charge, r.content_type, r.value"
    };
}

pub(super) const GET: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM bismuth_record r WHERE r.space = $1 AND r.grp = $2 AND r.key = $3 AND ",
    live!()
);
/// Without values if these have more than `$4` bytes together, which `bytes` tells.
pub(super) const GET_MANY: &str = concat!(
    "WITH found AS (SELECT p.ordinal, ",
    columns!(),
    " FROM unnest($1::int2[], $2::bytea[], $3::bytea[]) WITH ORDINALITY AS p(space, grp, key, ordinal) \
     JOIN bismuth_record r ON r.space = p.space AND r.grp = p.grp AND r.key = p.key WHERE ",
    live!(),
    "), total AS (SELECT coalesce(sum(octet_length(value)), 0)::bigint AS bytes FROM found) \
     SELECT f.ordinal, f.revision, f.modified_ms, f.expires_ms, f.charge, f.content_type, \
     CASE WHEN total.bytes <= $4::bigint THEN f.value ELSE ''::bytea END AS value, total.bytes FROM found f, total"
);
/// Also those whose time has come: they count. Of a value as much as tells a number from what is none.
pub(super) const STORED: &str = "SELECT p.ordinal, r.revision, r.modified_ms, r.expires_ms, r.charge, r.content_type, \
     substring(r.value FROM 1 FOR 65) AS value FROM unnest($1::int2[], $2::bytea[], $3::bytea[]) WITH ORDINALITY AS p(space, grp, key, ordinal) \
     JOIN bismuth_record r ON r.space = p.space AND r.grp = p.grp AND r.key = p.key";
pub(super) const LIST: &str = concat!(
    "SELECT r.key, r.revision, r.modified_ms, r.expires_ms, r.charge, r.content_type FROM bismuth_record r \
     WHERE r.space = $1 AND r.grp = $2 AND r.key >= $3 AND ($4::bytea IS NULL OR r.key < $4) AND ",
    live!(),
    " ORDER BY r.key LIMIT $5"
);
pub(super) const COUNTER: &str =
    "SELECT space, grp, bytes, count, revision FROM bismuth_counter WHERE space = $1 AND grp = $2";
pub(super) const GROUPS: &str =
    "SELECT grp FROM bismuth_counter WHERE space = $1 AND count > 0 ORDER BY grp";

pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
/// In one order, so that two who lock the same do not wait for each other.
pub(super) const LOCK_COUNTERS: &str = "SELECT c.space, c.grp, c.bytes, c.count, c.revision FROM bismuth_counter c \
     WHERE (c.space, c.grp) IN (SELECT * FROM unnest($1::int2[], $2::bytea[])) ORDER BY c.space, c.grp FOR UPDATE OF c";
/// Asked after the locks, so that nobody decides by a time at which another decided already.
pub(super) const NOW: &str = concat!("SELECT ", now!(), " AS now_ms");
/// A revision begins at the time, in microseconds.
pub(super) const BEGIN_COUNTERS: &str = concat!(
    "INSERT INTO bismuth_counter (space, grp, bytes, count, revision) SELECT p.space, p.grp, 0, 0, ",
    now!(),
    " * 1000 FROM unnest($1::int2[], $2::bytea[]) AS p(space, grp) ON CONFLICT (space, grp) DO NOTHING"
);
pub(super) const PUT_COUNTERS: &str = "UPDATE bismuth_counter c SET bytes = p.bytes, count = p.count, revision = p.revision \
     FROM unnest($1::int2[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[]) AS p(space, grp, bytes, count, revision) \
     WHERE c.space = p.space AND c.grp = p.grp";
pub(super) const PUT: &str = "INSERT INTO bismuth_record (space, grp, key, revision, modified_ms, expires_ms, charge, content_type, value) \
     SELECT * FROM unnest($1::int2[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bytea[]) \
     ON CONFLICT (space, grp, key) DO UPDATE SET revision = excluded.revision, modified_ms = excluded.modified_ms, \
     expires_ms = excluded.expires_ms, charge = excluded.charge, content_type = excluded.content_type, value = excluded.value";
pub(super) const DELETE: &str = "DELETE FROM bismuth_record r USING unnest($1::int2[], $2::bytea[], $3::bytea[]) AS p(space, grp, key) \
     WHERE r.space = p.space AND r.grp = p.grp AND r.key = p.key";

/// Five hundred values of a mebibyte take the server some seconds to remove.
pub(super) const SWEEP_TIMEOUT: &str = "SET LOCAL statement_timeout = '15s'";
/// Tables may take a slow server some time; who asked for them has gone, and the next finds them.
pub(super) const STEP_TIMEOUT: &str = "SET LOCAL statement_timeout = '60s'";

/// Whose records are due, those first that have been for longest.
pub(super) const DUE: &str = concat!(
    "SELECT r.space, r.grp FROM bismuth_record r WHERE r.expires_ms <= ",
    now!(),
    " ORDER BY r.expires_ms LIMIT $1"
);
/// Removes due records of one owner and what they count for; the counter is locked.
pub(super) const SWEEP: &str = concat!(
    "WITH due AS (SELECT r.key FROM bismuth_record r WHERE r.space = $1 AND r.grp = $2 AND r.expires_ms <= ",
    now!(),
    " ORDER BY r.expires_ms LIMIT $3), \
     gone AS (DELETE FROM bismuth_record r USING due WHERE r.space = $1 AND r.grp = $2 AND r.key = due.key RETURNING r.charge), \
     sum AS (SELECT coalesce(sum(charge), 0)::bigint AS bytes, count(*) AS count FROM gone) \
     UPDATE bismuth_counter c SET bytes = greatest(c.bytes - sum.bytes, 0), count = greatest(c.count - sum.count, 0) \
     FROM sum WHERE c.space = $1 AND c.grp = $2 RETURNING sum.count AS swept"
);

/// A keyspace as it is stored.
pub(super) fn keyspace(keyspace: Keyspace) -> i16 {
    keyspace.code().into()
}

/// An owner as it is stored.
pub(super) fn owner(of: Keyspace, group: &str) -> (i16, &[u8]) {
    (keyspace(of), group.as_bytes())
}

/// A key as it is stored.
pub(super) fn record_key(record_key: &RecordKey) -> (i16, &[u8], &[u8]) {
    (
        keyspace(record_key.keyspace),
        record_key.group.as_bytes(),
        record_key.key.as_bytes(),
    )
}

/// Keys as arrays.
pub(super) fn record_keys<'a>(
    of: impl Iterator<Item = &'a RecordKey>,
) -> (Vec<i16>, Vec<&'a [u8]>, Vec<&'a [u8]>) {
    let (mut keyspaces, mut groups, mut keys) = (Vec::new(), Vec::new(), Vec::new());
    for it in of {
        let (keyspace, group, key) = record_key(it);
        keyspaces.push(keyspace);
        groups.push(group);
        keys.push(key);
    }
    (keyspaces, groups, keys)
}

/// A number as it is stored. What is beyond 63 bits is beyond any use.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that was stored.
pub(super) fn unsigned(row: &Row, column: &str) -> Result<u64, Failure> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|_| Failure::Unreadable(format!("{column} is {number}")))
}

/// A text that was stored.
pub(super) fn text(row: &Row, column: &str) -> Result<String, Failure> {
    let text: Vec<u8> = row.try_get(column)?;
    String::from_utf8(text).map_err(|_| Failure::Unreadable(format!("{column} is no UTF-8")))
}

/// A record.
pub(super) fn record(row: &Row) -> Result<Record, Failure> {
    let value: &[u8] = row.try_get("value")?;
    Ok(Record {
        value: Bytes::copy_from_slice(value),
        meta: meta(row)?,
    })
}

/// A record in a listing.
pub(super) fn entry(row: &Row) -> Result<(String, Meta), Failure> {
    Ok((text(row, "key")?, meta(row)?))
}

fn meta(row: &Row) -> Result<Meta, Failure> {
    let expires_ms: Option<i64> = row.try_get("expires_ms")?;
    let content_type: Option<Vec<u8>> = row.try_get("content_type")?;
    Ok(Meta {
        revision: Revision(unsigned(row, "revision")?),
        content_type: content_type.map(|it| String::from_utf8_lossy(&it).into_owned()),
        modified_ms: unsigned(row, "modified_ms")?,
        expires_ms: expires_ms.map(|it| u64::try_from(it).unwrap_or_default()),
        charge: unsigned(row, "charge")?,
    })
}

/// A counter.
pub(super) fn counter(row: &Row) -> Result<Counter, Failure> {
    Ok(Counter {
        usage: Usage {
            bytes: unsigned(row, "bytes")?,
            count: unsigned(row, "count")?,
        },
        revision: unsigned(row, "revision")?,
    })
}

/// Whose row it is.
pub(super) fn owner_of(row: &Row) -> Result<(Keyspace, String), Failure> {
    let code: i16 = row.try_get("space")?;
    let keyspace = u8::try_from(code).ok().and_then(Keyspace::from_code);
    let keyspace = keyspace.ok_or_else(|| Failure::Unreadable(format!("space is {code}")))?;
    Ok((keyspace, text(row, "grp")?))
}
