//! Keys and blobs of the twin, as functions have them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::state::{Entry, Misbehaviour, State, now_ms};
use super::{Answer, Page, full, ok, parameter, problem, wrong_method};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

pub(super) fn kv(state: &mut State, group: &str, key: &str, head: &Parts, body: Bytes) -> Answer {
    let expired = |entry: &Entry| entry.expires_ms.is_some_and(|at| at <= now_ms());
    state.group(group).kv.retain(|_, entry| !expired(entry));
    let old = state.group(group).kv.get(key).cloned();
    let answer = match (head.method.as_str(), key) {
        ("GET", "") => list(&state.group(group).kv, "keys", head),
        (_, "") => wrong_method(&head.method),
        ("POST", key) if key.ends_with("/incr") => incr(state, group, &key[..key.len() - 5], head),
        _ if fails(old.as_ref(), head) => problem(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            format!("key {key} is not in the state that was expected"),
        ),
        ("GET", key) => match old {
            Some(entry) => whole(&entry),
            None => unknown("key", key),
        },
        ("PUT" | "POST", key) => {
            let mut entry = state.entry(body);
            entry.content_type = content_type(head);
            entry.expires_ms = parameter(head, "ttl")
                .and_then(|ttl| ttl.parse::<u64>().ok())
                .map(|ttl| now_ms() + ttl * 1000);
            let answer = written(&entry, StatusCode::NO_CONTENT);
            state.group(group).kv.insert(key.to_owned(), entry);
            answer
        }
        ("DELETE", key) => match state.group(group).kv.remove(key) {
            Some(_) => full(StatusCode::NO_CONTENT, ""),
            None => unknown("key", key),
        },
        _ => wrong_method(&head.method),
    };
    state.tidy();
    answer
}

fn incr(state: &mut State, group: &str, key: &str, head: &Parts) -> Answer {
    let old = state.group(group).kv.get(key).map(|e| e.value.clone());
    let number = match old.as_deref().map(std::str::from_utf8) {
        None => Some(0),
        Some(text) => text.ok().and_then(|text| text.parse::<i64>().ok()),
    };
    let Some(number) = number else {
        return problem(
            StatusCode::CONFLICT,
            "not_a_number",
            format!("key {key} holds no number"),
        );
    };
    let by = parameter(head, "by").and_then(|by| by.parse::<i64>().ok());
    let entry = state.entry((number + by.unwrap_or(1)).to_string());
    let mut answer = full(StatusCode::OK, entry.value.clone());
    answer.headers_mut().extend([(ETAG, value(&entry.etag))]);
    state.group(group).kv.insert(key.to_owned(), entry);
    answer
}

pub(super) fn blob(state: &mut State, group: &str, key: &str, head: &Parts, body: Bytes) -> Answer {
    let old = state.group(group).blobs.get(key).cloned();
    let answer = match (head.method.as_str(), key, old) {
        ("GET", "", _) => list(&state.group(group).blobs, "blobs", head),
        (_, "", _) => wrong_method(&head.method),
        ("HEAD", _, found) => {
            if let Some(act) = state.after_head.take() {
                act(state);
            }
            found.map_or_else(|| unknown("blob", key), |entry| whole(&entry))
        }
        ("GET", _, Some(entry)) => read(state.misbehaviour, &entry),
        ("POST", _, Some(_)) => problem(
            StatusCode::CONFLICT,
            "blob_exists",
            format!("blob {key} exists"),
        ),
        ("POST", _, None) | ("PUT", _, Some(_)) => {
            let mut entry = state.entry(body);
            entry.content_type = content_type(head);
            let answer = written(&entry, StatusCode::CREATED);
            state.group(group).blobs.insert(key.to_owned(), entry);
            answer
        }
        ("DELETE", _, Some(_)) => {
            state.group(group).blobs.remove(key);
            full(StatusCode::NO_CONTENT, "")
        }
        ("GET" | "PUT" | "DELETE", _, None) => unknown("blob", key),
        _ => wrong_method(&head.method),
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

fn list(entries: &BTreeMap<String, Entry>, member: &str, head: &Parts) -> Answer {
    let (keys, next) = Page::of(head).take(entries.keys());
    let shown: Vec<Value> = keys
        .iter()
        .map(|key| {
            let entry = &entries[*key];
            let mut shown = json!({
                "key": key, "etag": entry.etag, "size": entry.value.len(), "content_type": entry.content_type,
                "modified_ms": entry.modified_ms,
            });
            if let Some(expires) = entry.expires_ms {
                shown["expires_ms"] = json!(expires);
            }
            if member == "blobs" {
                shown["sha256"] = json!(hex(&Sha256::digest(&entry.value)));
            }
            shown
        })
        .collect();
    let mut page = json!({ member: shown });
    if let Some(next) = next {
        page["next"] = json!(next);
    }
    ok(&page)
}

fn whole(entry: &Entry) -> Answer {
    let mut answer = full(StatusCode::OK, entry.value.clone());
    let digest = BASE64_STANDARD.encode(Sha256::digest(&entry.value));
    answer.headers_mut().extend([
        (ETAG, value(&entry.etag)),
        (CONTENT_TYPE, value(&entry.content_type)),
        (REPR_DIGEST, value(&format!("sha-256=:{digest}:"))),
    ]);
    answer
}

fn written(entry: &Entry, status: StatusCode) -> Answer {
    let mut answer = full(status, "");
    answer.headers_mut().extend([(ETAG, value(&entry.etag))]);
    answer
}

fn fails(old: Option<&Entry>, head: &Parts) -> bool {
    let header = |name| head.headers.get(name).and_then(|v| v.to_str().ok());
    let is = |tag: &str| old.is_some_and(|entry| tag == "*" || entry.etag == tag);
    header(IF_MATCH).is_some_and(|tag| !is(tag)) || header(IF_NONE_MATCH).is_some_and(is)
}

fn unknown(what: &str, key: &str) -> Answer {
    let code = if what == "key" {
        "unknown_key"
    } else {
        "unknown_blob"
    };
    problem(
        StatusCode::NOT_FOUND,
        code,
        format!("there is no {what} {key}"),
    )
}

fn content_type(head: &Parts) -> String {
    let given = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    given.unwrap_or("application/octet-stream").to_owned()
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("?"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
