//! Handlers of `/kv/v1/`.

use bismuth_http::Body;
use bismuth_store::Key;
use bismuth_store::records::{
    Change, Condition, EngineError, Keyspace, Meta, Query, Record, RecordKey, Write, Written,
    write_with_room,
};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, LAST_MODIFIED};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::condition::Conditions;
use super::etag::etag_value;
use super::listing::{ENTRY_BYTES, KeyPage, json_body, json_in};
use super::memory::MemoryPermit;
use super::params::ttl_ms;
use super::problems::{self, Refusal};
use super::{HandlerResult, RequestContext, batch, body, digest, empty, percent, reads, stored};

/// Bytes of the largest value.
pub(super) const MAX_VALUE_BYTES: usize = 1 << 20;
/// Bytes of the body of an increment.
const MAX_INCREMENT_BYTES: usize = 1024;
/// RFC 6838 allows 127 for each half.
const MAX_CONTENT_TYPE_BYTES: usize = 256;
/// At the end of the path of a POST.
const INCREMENT: &str = "/incr";

pub(super) async fn answer(cx: RequestContext<'_>, key: &str, body: Incoming) -> HandlerResult {
    let method = &cx.head.method;
    if key.is_empty() {
        return match *method {
            Method::GET | Method::HEAD => list(cx).await,
            Method::POST => batch::answer(cx, body).await,
            _ => Err(problems::method("GET, HEAD, POST")),
        };
    }
    match *method {
        _ if reads(method) => get(cx, key).await,
        Method::POST => match key.strip_suffix(INCREMENT) {
            Some(key) => increment(cx, key, body).await,
            None => set(cx, key, body).await,
        },
        Method::PUT => set(cx, key, body).await,
        Method::DELETE => delete(cx, key).await,
        _ => Err(problems::method("GET, HEAD, PUT, POST, DELETE")),
    }
}

async fn get(cx: RequestContext<'_>, key: &str) -> HandlerResult {
    let record_key = cx.caller.record_key(cx.key(key)?);
    let conditions = cx.conditions()?;
    let Some((Record { value, meta }, permit)) = read(cx, &record_key).await? else {
        return Err(absent(&conditions, "key"));
    };
    let value = permit.keep(value);
    let (status, value) = match conditions.of_read(meta.revision, Some(meta.modified_ms)) {
        None => (StatusCode::OK, value),
        Some(StatusCode::NOT_MODIFIED) => (StatusCode::NOT_MODIFIED, Bytes::new()),
        Some(_) => return Err(problems::precondition()),
    };
    Ok(value_response(status, value, &meta))
}

/// A record, and room for it. Who has to wait for room does so without the record.
async fn read(
    cx: RequestContext<'_>,
    record_key: &RecordKey,
) -> Result<Option<(Record, MemoryPermit)>, Refusal> {
    let Some(record) = cx.app.records.get(record_key).await? else {
        return Ok(None);
    };
    if let Some(permit) = cx.budget().try_acquire(record.value.len()) {
        return Ok(Some((record, permit)));
    }
    drop(record);
    let permit = cx.acquire(MAX_VALUE_BYTES).await?;
    let record = cx.app.records.get(record_key).await?;
    Ok(record.map(|record| (record, permit)))
}

/// A read found nothing.
pub(super) fn absent(conditions: &Conditions, what: &str) -> Refusal {
    if conditions.needs_a_state() {
        problems::precondition()
    } else {
        problems::not_found(what)
    }
}

fn value_response(status: StatusCode, value: Bytes, meta: &Meta) -> Response<Body> {
    let mut response = Response::new(Body::full(value));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ETAG, etag_value(meta.revision));
    headers.insert(LAST_MODIFIED, date(meta.modified_ms));
    headers.insert(CONTENT_TYPE, media_type(meta.content_type.as_deref()));
    if let Some(expires_ms) = meta.expires_ms {
        headers.insert(EXPIRES, date(expires_ms));
    }
    response
}

/// What the writer said, or what says nothing.
pub(super) fn media_type(content_type: Option<&str>) -> HeaderValue {
    let said = content_type.and_then(|text| HeaderValue::from_str(text).ok());
    said.unwrap_or_else(|| HeaderValue::from_static("application/octet-stream"))
}

/// A date of HTTP, which has seconds.
pub(super) fn date(ms: u64) -> HeaderValue {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
    HeaderValue::try_from(httpdate::fmt_http_date(time))
        .unwrap_or_else(|_| HeaderValue::from_static("0"))
}

async fn set(cx: RequestContext<'_>, key: &str, body: Incoming) -> HandlerResult {
    let params = cx.params(&["ttl"])?;
    let key = percent::key(key)?;
    let content_type = content_type(&cx.head.headers)?;
    let ttl_ms = params.ttl_ms()?;
    let record_key = cx.caller.record_key(key.clone());
    let condition = condition(cx, &record_key).await?;
    let announced = digest::announced(&cx.head.headers)?;
    let value = body::collect(cx.budget(), body, MAX_VALUE_BYTES).await?;
    if announced.is_some_and(|announced| announced[..] != Sha256::digest(&value)[..]) {
        return Err(problems::digest_mismatch());
    }
    let change = put(&key, value, content_type, ttl_ms);
    let written = write(cx, record_key, condition, change).await?;
    Ok(stored(written.before.is_some(), written.revision))
}

/// What a write of a key must find.
async fn condition(cx: RequestContext<'_>, record_key: &RecordKey) -> Result<Condition, Refusal> {
    let current = async {
        let found = cx.app.records.get(record_key).await?;
        Ok(found.map(|Record { meta, .. }| (meta.revision, meta.modified_ms)))
    };
    cx.write_condition("key", current).await
}

pub(super) fn put(
    key: &Key,
    value: Bytes,
    content_type: Option<String>,
    ttl_ms: Option<u64>,
) -> Change {
    Change::Put {
        charge: (key.as_str().len() + value.len()) as u64,
        value,
        content_type,
        ttl_ms,
    }
}

/// The media type of what is stored, as its writer says it.
pub(super) fn content_type(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut fields = headers.get_all(CONTENT_TYPE).iter();
    match (fields.next(), fields.next()) {
        (None, _) => Ok(None),
        (Some(field), None) => checked_media_type(field.to_str().unwrap_or_default()).map(Some),
        (Some(_), Some(_)) => Err(problems::bad_content_type()),
    }
}

pub(super) fn checked_media_type(text: &str) -> Result<String, Refusal> {
    let fits = (1..=MAX_CONTENT_TYPE_BYTES).contains(&text.len());
    let visible = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if fits && visible {
        Ok(text.to_owned())
    } else {
        Err(problems::bad_content_type())
    }
}

async fn delete(cx: RequestContext<'_>, key: &str) -> HandlerResult {
    let record_key = cx.caller.record_key(cx.key(key)?);
    let condition = condition(cx, &record_key).await?;
    write(cx, record_key, condition, Change::Delete).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// The body of an increment.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Increment {
    by: Option<i64>,
    ttl: Option<u64>,
}

async fn increment(cx: RequestContext<'_>, key: &str, body: Incoming) -> HandlerResult {
    let params = cx.params(&["by", "ttl"])?;
    let record_key = cx.caller.record_key(percent::key(key)?);
    let condition = condition(cx, &record_key).await?;
    let body = body::collect(cx.budget(), body, MAX_INCREMENT_BYTES).await?;
    let said: Increment = match body.is_empty() {
        true => Increment::default(),
        false => serde_json::from_slice(&body).map_err(|e| problems::bad_json(e.to_string()))?,
    };
    let delta = params.number("by")?.or(said.by).unwrap_or(1);
    let ttl_ms = match said.ttl {
        Some(ttl) if params.get("ttl").is_none() => Some(ttl_ms(ttl)?),
        _ => params.ttl_ms()?,
    };
    let written = write(cx, record_key, condition, Change::Add { delta, ttl_ms }).await?;
    let sum = written.sum.unwrap_or_default().to_string();
    let mut response = json_body(Body::full(sum));
    let tag = etag_value(written.revision);
    response.headers_mut().insert(ETAG, tag);
    Ok(response)
}

async fn list(cx: RequestContext<'_>) -> HandlerResult {
    let params = cx.params(&["prefix", "after", "limit"])?;
    let page = params.page()?;
    let permit = cx.acquire(page.limit.get() * ENTRY_BYTES).await?;
    let query = Query {
        group: cx.caller.group().to_owned(),
        keyspace: Keyspace::Kv,
        prefix: page.prefix,
        after: page.after,
        limit: page.limit,
    };
    let found = cx.app.records.list(&query).await?;
    let keys = found.entries.into_iter().map(Into::into).collect();
    json_in(permit, &KeyPage::new(keys, found.more))
}

/// What a change counts for, as far as it is known before it is made.
pub(super) fn charge_of(change: &Change) -> u64 {
    match change {
        Change::Put { charge, .. } => *charge,
        Change::Delete | Change::Add { .. } => 0,
    }
}

async fn write(
    cx: RequestContext<'_>,
    record_key: RecordKey,
    condition: Condition,
    change: Change,
) -> Result<Written, Refusal> {
    let charge = charge_of(&change);
    let write = Write {
        record_key,
        condition,
        change,
        limits: cx.caller.kv_limits(),
    };
    let written = write_with_room(&*cx.app.records, vec![write]).await;
    let written = written.map_err(|error| problems::not_written(error, "key", charge))?;
    let unanswered = || EngineError::broken("the records", "a write was not answered");
    Ok(written.into_iter().next().ok_or_else(unanswered)?)
}
