//! Secrets of the twin: their values go in and never come out.

use bismuth_base::now_ms;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::state::{Secret, State};
use super::{Answer, ok, problem, with_json, wrong_method};

const MAX_BYTES: usize = 64 * 1024;

pub(super) fn answer(
    state: &mut State,
    group: &str,
    method: &Method,
    rest: &[&str],
    body: Bytes,
) -> Answer {
    match (method.as_str(), rest) {
        ("GET", []) => list(state, group),
        ("PUT", [name]) => set(state, group, name, body, false),
        ("POST", [name, "rotate"]) => set(state, group, name, body, true),
        ("DELETE", [name]) => match state.group(group).secrets.remove(*name) {
            Some(_) => {
                state.tidy();
                ok(&json!({"name": name}))
            }
            None => unknown(state, name),
        },
        (_, []) => wrong_method("GET, HEAD"),
        _ => wrong_method("PUT, DELETE, and POST of /rotate"),
    }
}

fn list(state: &State, group: &str) -> Answer {
    let secrets = state.groups.get(group).into_iter().flat_map(|g| &g.secrets);
    let shown: Vec<Value> = secrets
        .map(|(name, secret)| {
            json!({"name": name, "version": secret.versions.len(), "modified_ms": secret.modified_ms})
        })
        .collect();
    ok(&json!({"secrets": shown}))
}

fn set(state: &mut State, group: &str, name: &str, value: Bytes, must_be: bool) -> Answer {
    if value.is_empty() || value.len() > MAX_BYTES {
        if value.is_empty() {
            let detail = "a secret has at least one byte";
            return problem(StatusCode::BAD_REQUEST, "empty_secret", detail);
        }
        let detail = format!("more than {MAX_BYTES} bytes");
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail);
    }
    let secrets = &mut state.group(group).secrets;
    let known = secrets.contains_key(name);
    if must_be && !known {
        return unknown(state, name);
    }
    let secret = secrets.entry(name.to_owned()).or_insert(Secret {
        versions: Vec::new(),
        modified_ms: 0,
    });
    secret.versions.push(value);
    secret.modified_ms = now_ms();
    let status = if known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let answer = json!({"name": name, "version": secret.versions.len()});
    with_json(status, &answer, "application/json")
}

fn unknown(state: &mut State, name: &str) -> Answer {
    state.tidy();
    problem(
        StatusCode::NOT_FOUND,
        "unknown_secret",
        format!("there is no secret {name:?} in the group"),
    )
}
