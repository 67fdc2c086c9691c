//! Keys and blobs of the twin, as functions have them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bismuth_base::now_ms;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH, LINK};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::state::{Entry, Misbehaviour, State};
use super::{Answer, Page, full, ok, page, parameter, problem, wrong_method};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

pub(super) fn kv(state: &mut State, group: &str, key: &str, head: &Parts, body: Bytes) -> Answer {
    let expired = |entry: &Entry| entry.expires_ms.is_some_and(|at| at <= now_ms());
    state.group(group).kv.retain(|_, entry| !expired(entry));
    let old = state.group(group).kv.get(key).cloned();
    let answer = match (head.method.as_str(), key) {
        ("GET", "") => list(&state.group(group).kv, "keys", head),
        (_, "") => wrong_method("GET, HEAD, POST"),
        ("POST", key) if key.ends_with("/incr") => incr(state, group, &key[..key.len() - 5], head),
        _ if fails(old.as_ref(), head) => problem(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "the condition does not hold",
        ),
        ("GET", _) => match old {
            Some(entry) => whole(&entry),
            None => unknown("key"),
        },
        ("PUT" | "POST", key) => {
            let mut entry = state.entry(body);
            entry.content_type = content_type(head);
            entry.expires_ms = parameter(head, "ttl")
                .and_then(|ttl| ttl.parse::<u64>().ok())
                .map(|ttl| now_ms() + ttl * 1000);
            let answer = written(&entry, old.is_some());
            state.group(group).kv.insert(key.to_owned(), entry);
            answer
        }
        ("DELETE", key) => match state.group(group).kv.remove(key) {
            Some(_) => full(StatusCode::NO_CONTENT, ""),
            None => unknown("key"),
        },
        _ => wrong_method("GET, HEAD, PUT, POST, DELETE"),
    };
    state.tidy();
    answer
}

fn incr(state: &mut State, group: &str, key: &str, head: &Parts) -> Answer {
    let old = state.group(group).kv.get(key).cloned();
    let number = match &old {
        None => Some(0),
        Some(entry) => {
            let text = std::str::from_utf8(&entry.value).ok();
            text.and_then(|text| text.parse::<i64>().ok())
        }
    };
    let Some(number) = number else {
        return problem(
            StatusCode::CONFLICT,
            "not_a_number",
            "the value is not a number",
        );
    };
    let by = parameter(head, "by").and_then(|by| by.parse::<i64>().ok());
    let sum = number + by.unwrap_or(1);
    let mut entry = state.entry(sum.to_string());
    if let Some(old) = old {
        (entry.content_type, entry.expires_ms) = (old.content_type, old.expires_ms);
    }
    let mut answer = ok(&json!(sum));
    answer.headers_mut().extend([(ETAG, value(&entry.etag))]);
    state.group(group).kv.insert(key.to_owned(), entry);
    answer
}

pub(super) fn blob(state: &mut State, group: &str, key: &str, head: &Parts, body: Bytes) -> Answer {
    let old = state.group(group).blobs.get(key).cloned();
    let answer = match (head.method.as_str(), key, old) {
        ("GET", "", _) => list_blobs(&state.group(group).blobs, head),
        (_, "", _) => wrong_method("GET, HEAD"),
        ("HEAD", _, found) => {
            if let Some(act) = state.after_head.take() {
                act(state);
            }
            found.map_or_else(|| unknown("blob"), |entry| whole(&entry))
        }
        ("GET", _, Some(entry)) => read(state.misbehaviour, &entry),
        ("POST", _, Some(_)) => problem(
            StatusCode::CONFLICT,
            "blob_exists",
            "there is such a blob already; PUT replaces it",
        ),
        ("POST", _, None) | ("PUT", _, Some(_)) => {
            let replaces = head.method == Method::PUT;
            let mut entry = state.entry(body);
            entry.content_type = content_type(head);
            let mut answer = written(&entry, replaces);
            answer.headers_mut().extend([(REPR_DIGEST, digest(&entry))]);
            state.group(group).blobs.insert(key.to_owned(), entry);
            answer
        }
        ("DELETE", _, Some(_)) => {
            state.group(group).blobs.remove(key);
            full(StatusCode::NO_CONTENT, "")
        }
        ("PUT", _, None) => unknown("blob; POST creates it"),
        ("GET" | "DELETE", _, None) => unknown("blob"),
        _ => wrong_method("GET, HEAD, POST, PUT, DELETE"),
    };
    state.tidy();
    answer
}

fn read(misbehaviour: Misbehaviour, entry: &Entry) -> Answer {
    let mut answer = whole(entry);
    match misbehaviour {
        Misbehaviour::Corrupt => {
            let mut bytes = entry.value.to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            *answer.body_mut() = full(StatusCode::OK, bytes).into_body();
        }
        Misbehaviour::Cut => {
            let half = entry.value.slice(..entry.value.len() / 2);
            let broken = std::io::Error::other("broken off by the test");
            let frames = [Ok(Frame::data(half)), Err(broken)];
            *answer.body_mut() = StreamBody::new(stream::iter(frames)).boxed_unsync();
        }
        _ => {}
    }
    answer
}

/// With `?details` as keys are listed; otherwise their names alone.
fn list_blobs(entries: &BTreeMap<String, Entry>, head: &Parts) -> Answer {
    if parameter(head, "details").is_some() {
        return list(entries, "blobs", head);
    }
    if head.uri.query().is_none() {
        return ok(&json!(entries.keys().collect::<Vec<_>>()));
    }
    let (keys, next) = Page::of(head).take(entries.keys());
    let mut answer = ok(&json!(keys));
    if next.is_some() {
        let link = HeaderValue::from_static("</blob/v1/>; rel=\"next\"");
        answer.headers_mut().insert(LINK, link);
    }
    answer
}

fn list(entries: &BTreeMap<String, Entry>, member: &str, head: &Parts) -> Answer {
    let (keys, next) = Page::of(head).take(entries.keys());
    let shown: Vec<Value> = keys
        .iter()
        .map(|key| {
            let entry = &entries[*key];
            let mut shown = json!({
                "key": key, "etag": entry.etag, "size": entry.value.len(), "modified_ms": entry.modified_ms,
            });
            if let Some(content_type) = &entry.content_type {
                shown["content_type"] = json!(content_type);
            }
            if let Some(expires) = entry.expires_ms {
                shown["expires_ms"] = json!(expires);
            }
            if member == "blobs" {
                shown["sha256"] = json!(hex(&Sha256::digest(&entry.value)));
            }
            shown
        })
        .collect();
    ok(&page(member, shown, next))
}

fn whole(entry: &Entry) -> Answer {
    let mut answer = full(StatusCode::OK, entry.value.clone());
    let content_type = entry.content_type.as_deref();
    answer.headers_mut().extend([
        (ETAG, value(&entry.etag)),
        (
            CONTENT_TYPE,
            value(content_type.unwrap_or("application/octet-stream")),
        ),
        (REPR_DIGEST, digest(entry)),
    ]);
    answer
}

fn digest(entry: &Entry) -> HeaderValue {
    let digest = BASE64_STANDARD.encode(Sha256::digest(&entry.value));
    value(&format!("sha-256=:{digest}:"))
}

fn written(entry: &Entry, replaces: bool) -> Answer {
    let status = if replaces {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::CREATED
    };
    let mut answer = full(status, "");
    answer.headers_mut().extend([(ETAG, value(&entry.etag))]);
    answer
}

fn fails(old: Option<&Entry>, head: &Parts) -> bool {
    let header = |name| head.headers.get(name).and_then(|v| v.to_str().ok());
    let is = |tag: &str| old.is_some_and(|entry| tag == "*" || entry.etag == tag);
    header(IF_MATCH).is_some_and(|tag| !is(tag)) || header(IF_NONE_MATCH).is_some_and(is)
}

fn unknown(what: &str) -> Answer {
    problem(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("there is no such {what}"),
    )
}

fn content_type(head: &Parts) -> Option<String> {
    let given = head.headers.get(CONTENT_TYPE)?.to_str();
    given.ok().map(str::to_owned)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("?"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
