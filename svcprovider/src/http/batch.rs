//! Several keys in one request: `POST /kv/v1/?batch`.
//!
//! ```json
//! {"get": ["a", "b"]}
//! ```
//! answers, of one state of the store,
//! ```json
//! {"values": [{"key": "a", "value": "aGVsbG8=", "etag": "\"1f\"", "content_type": "text/plain", "modified_ms": 1, "expires_ms": 2},
//!             {"key": "b", "value": null}]}
//! ```
//! and
//! ```json
//! {"write": [{"key": "a", "value": "aGVsbG8=", "content_type": "text/plain", "ttl": 60, "if_match": "\"1f\""},
//!            {"key": "b", "delete": true},
//!            {"key": "c", "add": 3, "if_none_match": "*"}]}
//! ```
//! makes all of them, in their order, or none, and answers
//! ```json
//! {"written": [{"key": "a", "etag": "\"20\"", "created": false}, {"key": "b"}, {"key": "c", "etag": "\"22\"", "created": true, "sum": 3}]}
//! ```
//! Values are base64 (RFC 4648 section 4). A refusal has the status that the write would have alone, and names it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bismuth_store::Key;
use bismuth_store::records::{
    Change, EngineError, Record, RecordKey, Write, Written, write_with_room,
};
use bytes::Bytes;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::condition::Conditions;
use super::etag::etag;
use super::kv::{MAX_VALUE_BYTES, charge_of, checked_media_type, put};
use super::listing::{json, json_in};
use super::memory::{self, MemoryPermit};
use super::params::ttl_ms;
use super::problems::{self, Refusal, bad_json};
use super::{Caller, HandlerResult, RequestContext, body};

/// Keys of one batch.
pub const MAX_KEYS: usize = 128;
/// Bytes of the JSON that comes, and of the values that go.
pub const MAX_BYTES: usize = 8 << 20;

/// Bytes of values for which no room is taken.
const SMALL_BYTES: u64 = 16 << 10;
/// Bytes of the values, and of the base64 that is made of them.
const ANSWER_BYTES: usize = MAX_BYTES + MAX_BYTES / 3 * 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    get: Option<Vec<String>>,
    write: Option<Vec<BatchWrite>>,
}

/// One write, as it is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchWrite {
    key: String,
    value: Option<String>,
    #[serde(default)]
    delete: bool,
    add: Option<i64>,
    content_type: Option<String>,
    ttl: Option<u64>,
    if_match: Option<String>,
    if_none_match: Option<String>,
}

#[derive(Debug, Serialize)]
struct Values {
    values: Vec<Value>,
}

#[derive(Debug, Serialize)]
struct Value {
    key: String,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modified_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct WriteResults {
    written: Vec<WriteResult>,
}

/// What one write did.
#[derive(Debug, Serialize)]
struct WriteResult {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sum: Option<i64>,
}

pub(super) async fn answer(cx: RequestContext<'_>, body: Incoming) -> HandlerResult {
    let params = cx.params(&["batch"])?;
    if params.get("batch").is_none() {
        return Err(problems::bad_query(
            "POST without a key is POST /kv/v1/?batch",
        ));
    }
    let body = body::collect_times(cx.budget(), body, MAX_BYTES, 2).await?;
    let batch: Batch = serde_json::from_slice(&body).map_err(|e| bad_json(e.to_string()))?;
    match (batch.get, batch.write) {
        (Some(keys), None) => {
            // Its room first: two who held theirs and waited for more would wait for each other.
            drop(body);
            get(cx, keys).await
        }
        (None, Some(batch_writes)) => write(cx, batch_writes, &body).await,
        _ => Err(bad_json("expected either \"get\" or \"write\"")),
    }
}

fn check_key_count(count: usize) -> Result<(), Refusal> {
    if (1..=MAX_KEYS).contains(&count) {
        return Ok(());
    }
    Err(bad_json(format!(
        "a batch has 1 to {MAX_KEYS} keys, not {count}"
    )))
}

async fn get(cx: RequestContext<'_>, keys: Vec<String>) -> HandlerResult {
    check_key_count(keys.len())?;
    let mut record_keys = Vec::with_capacity(keys.len());
    for (index, key) in keys.into_iter().enumerate() {
        let key =
            Key::try_from(key).map_err(|e| Refusal::from(e).about(&format!("get[{index}]")))?;
        record_keys.push(cx.caller.record_key(key));
    }
    let (found, permit) = read(cx, &record_keys).await?;
    let values = record_keys
        .into_iter()
        .map(|record_key| record_key.key)
        .zip(found);
    let values = values.map(|(key, record)| value(key, record)).collect();
    json_in(permit, &Values { values })
}

/// The records, and room for them. Most batches are small; what is not waits for room before it is read.
async fn read(
    cx: RequestContext<'_>,
    record_keys: &[RecordKey],
) -> Result<(Vec<Option<Record>>, MemoryPermit), Refusal> {
    match cx.app.records.get_many(record_keys, SMALL_BYTES).await {
        Err(EngineError::TooLarge { .. }) => {}
        found => return Ok((found?, MemoryPermit::default())),
    }
    let permit = cx.acquire(ANSWER_BYTES).await?;
    let found = cx.app.records.get_many(record_keys, MAX_BYTES as u64);
    match found.await {
        Err(EngineError::TooLarge { limit }) => {
            Err(problems::too_large(limit).about("the values together have"))
        }
        found => Ok((found?, permit)),
    }
}

fn value(key: String, record: Option<Record>) -> Value {
    let (value, meta) = record.map(|record| (record.value, record.meta)).unzip();
    Value {
        key,
        value: value.map(|value| STANDARD.encode(value)),
        etag: meta.as_ref().map(|meta| etag(meta.revision)),
        modified_ms: meta.as_ref().map(|meta| meta.modified_ms),
        expires_ms: meta.as_ref().and_then(|meta| meta.expires_ms),
        content_type: meta.and_then(|meta| meta.content_type),
    }
}

async fn write(
    cx: RequestContext<'_>,
    batch_writes: Vec<BatchWrite>,
    body: &Bytes,
) -> HandlerResult {
    check_key_count(batch_writes.len())?;
    let mut writes = Vec::with_capacity(batch_writes.len());
    for (index, batch_write) in batch_writes.into_iter().enumerate() {
        let write = batch_write.into_write(cx.caller, body);
        writes.push(write.map_err(|refusal| refusal.about(&format!("write[{index}]")))?);
    }
    let infos: Vec<WriteInfo> = writes.iter().map(WriteInfo::of).collect();
    match write_with_room(&*cx.app.records, writes).await {
        Ok(written) => {
            let written = infos.into_iter().zip(written).map(write_result).collect();
            json(&WriteResults { written })
        }
        Err(EngineError::Refused { index, refused }) => {
            let charge = infos.get(index).map_or(0, |info| info.charge);
            let refusal = problems::refused(&refused, "key", charge);
            Err(refusal.about(&format!("write[{index}]")))
        }
        Err(error) => Err(error.into()),
    }
}

/// What must be known of a write after it was given away.
struct WriteInfo {
    key: String,
    charge: u64,
    deletes: bool,
}

impl WriteInfo {
    fn of(write: &Write) -> Self {
        Self {
            key: write.record_key.key.clone(),
            charge: charge_of(&write.change),
            deletes: matches!(write.change, Change::Delete),
        }
    }
}

fn write_result((info, written): (WriteInfo, Written)) -> WriteResult {
    let exists = !info.deletes;
    WriteResult {
        key: info.key,
        etag: exists.then(|| etag(written.revision)),
        created: exists.then_some(written.before.is_none()),
        sum: written.sum,
    }
}

impl BatchWrite {
    fn into_write(self, caller: &Caller, body: &Bytes) -> Result<Write, Refusal> {
        let key = Key::try_from(self.key)?;
        let ttl_ms = self.ttl.map(ttl_ms).transpose()?;
        let conditions = Conditions::new(self.if_match.as_deref(), self.if_none_match.as_deref())?;
        let content_type = self.content_type.as_deref().map(checked_media_type);
        let content_type = content_type.transpose()?;
        let change = match (self.value, self.delete, self.add) {
            (Some(value), false, None) => {
                let value = STANDARD.decode(value);
                let value = value.map_err(|_| bad_json("\"value\" is not base64"))?;
                if value.len() > MAX_VALUE_BYTES {
                    return Err(problems::too_large(MAX_VALUE_BYTES as u64));
                }
                // It keeps the room of the body that it came in, for as long as an engine has it.
                let value = memory::keep(body.clone(), value);
                put(&key, value, content_type, ttl_ms)
            }
            (None, true, None) if ttl_ms.is_none() && content_type.is_none() => Change::Delete,
            (None, false, Some(delta)) if content_type.is_none() => Change::Add { delta, ttl_ms },
            _ => {
                let expected = "expected one of \"value\", \"delete\": true and \"add\", and what belongs to it";
                return Err(bad_json(expected));
            }
        };
        Ok(Write {
            record_key: caller.record_key(key),
            condition: conditions.of_write()?.unwrap_or_default(),
            change,
            limits: caller.kv_limits(),
        })
    }
}
