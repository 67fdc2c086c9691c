//! A twin of svcprovider's operator's surface, over real HTTP, with everything in memory.
//!
//! It checks the token, keeps state, and refuses as svcprovider does, in its words: svcprovider's own tests hold the two against each
//! other. Tests look into the state, and say how it misbehaves.

mod data;
mod secret;
mod state;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use state::{Entry, Group, Misbehaviour, Secret, State};

/// What it answers with.
pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

const TOKEN: &str = "the-token-of-the-operator";

/// A running twin. It ends when it is dropped.
pub struct Svcprovider {
    address: SocketAddr,
    directory: TempDir,
    state: Arc<Mutex<State>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Svcprovider {
    /// Listens on a loopback port, and writes its token file.
    ///
    /// # Errors
    /// When there is no port or no temporary directory.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let directory = tempfile::tempdir()?;
        write_token(&directory.path().join("operator.token"), TOKEN)?;
        let state = Arc::new(Mutex::new(State::default()));
        let serving = tokio::spawn(serve(listener, state.clone()));
        Ok(Self {
            address,
            directory,
            state,
            serving,
        })
    }

    /// For `--svcprovider`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For `--svcprovider-token-file`.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.directory.path().join("operator.token")
    }

    /// A directory that goes with the twin.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// What it holds.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Goes away: connections are refused from now on.
    pub async fn stop(&mut self) {
        self.serving.abort();
        // It ended because it was told to.
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Svcprovider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Writes a token as svcprovider does: readable by its owner alone.
///
/// # Errors
/// When it cannot be written.
pub fn write_token(path: &Path, token: &str) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    io::Write::write_all(&mut file, format!("{token}\n").as_bytes())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        let service = service_fn(move |request| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(answer(&state, request).await) }
        });
        connections.spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(state: &Mutex<State>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    // A broken upload leaves what was there.
    let Ok(body) = body.collect().await.map(|body| body.to_bytes()) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "body_cut_off",
            "the body was cut off",
        );
    };
    let misbehaviour = lock(state).misbehaviour;
    match misbehaviour {
        Misbehaviour::Silent => std::future::pending().await,
        Misbehaviour::Unavailable => {
            let mut answer = problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "store_unavailable",
                "the store does not answer; whether a write was made is unknown",
            );
            let headers = answer.headers_mut();
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
            return answer;
        }
        _ => {}
    }
    let expected = format!("Bearer {TOKEN}");
    if head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) != Some(expected.as_bytes()) {
        return problem(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the request does not carry the operator's token, which is in svcprovider's --operator-token-file",
        );
    }
    route(&mut lock(state), &head, body)
}

fn route(state: &mut State, head: &Parts, body: Bytes) -> Answer {
    let segments: Vec<String> = head.uri.path().split('/').skip(1).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = &head.method;
    match (method.as_str(), segments.as_slice()) {
        ("GET", [""]) => full(StatusCode::NO_CONTENT, ""),
        ("GET", ["group"]) => groups(state, head),
        ("GET", ["group", group]) => match state.groups.get(*group) {
            Some(found) => ok(&usage(group, found)),
            None => problem(
                StatusCode::NOT_FOUND,
                "unknown_group",
                format!("the group {group} has nothing"),
            ),
        },
        ("DELETE", ["group", group]) => {
            let gone = state.groups.remove(*group).unwrap_or_default();
            ok(
                &json!({"kv": gone.kv.len(), "blobs": gone.blobs.len(), "secrets": gone.secrets.len()}),
            )
        }
        // It has one master key, so that there is nothing to seal anew.
        ("POST", ["rewrap"]) => ok(&json!({"groups": 0, "master_key": "2026"})),
        (_, ["group", group, "secret", rest @ ..]) => {
            secret::answer(state, group, method, rest, body)
        }
        (_, ["group", group, "kv", "v1", key @ ..]) => {
            data::kv(state, group, &key.join("/"), head, body)
        }
        (_, ["group", group, "blob", "v1", key @ ..]) => {
            data::blob(state, group, &key.join("/"), head, body)
        }
        _ => problem(
            StatusCode::NOT_FOUND,
            "unknown_path",
            "there are /, /group, /group/{group}, /group/{group}/kv/v1/, /blob/v1/, /secret, and /rewrap",
        ),
    }
}

fn groups(state: &State, head: &Parts) -> Answer {
    let part = Page::of(head);
    let (names, next) = part.take(state.groups.keys());
    let groups: Vec<Value> = names
        .iter()
        .map(|name| usage(name, &state.groups[*name]))
        .collect();
    ok(&page("groups", groups, next))
}

fn usage(name: &str, group: &Group) -> Value {
    let bytes = |entries: &std::collections::BTreeMap<String, Entry>| {
        let charge = |(key, entry): (&String, &Entry)| key.len() + entry.value.len();
        entries.iter().map(charge).sum::<usize>()
    };
    json!({
        "group": name,
        "kv": {"bytes": bytes(&group.kv), "count": group.kv.len()},
        "blob": {"bytes": bytes(&group.blobs), "count": group.blobs.len()},
        "secrets": group.secrets.len(),
    })
}

/// Which part of a list is asked for.
pub(crate) struct Page {
    prefix: String,
    after: Option<String>,
    limit: usize,
}

impl Page {
    pub(crate) fn of(head: &Parts) -> Self {
        Self {
            prefix: parameter(head, "prefix").unwrap_or_default(),
            after: parameter(head, "after"),
            limit: parameter(head, "limit")
                .and_then(|limit| limit.parse().ok())
                .unwrap_or(100),
        }
    }

    /// The names of the page, and where the next begins.
    pub(crate) fn take<'a>(
        &self,
        names: impl Iterator<Item = &'a String>,
    ) -> (Vec<&'a String>, Option<&'a String>) {
        let mut found: Vec<&String> = names
            .filter(|name| name.starts_with(&self.prefix))
            .filter(|name| self.after.as_ref().is_none_or(|after| *name > after))
            .collect();
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let next = found.last().copied().filter(|_| more);
        (found, next)
    }
}

/// A part of a list, and what to give as `after` for the part that follows; not there if none does.
pub(crate) fn page(member: &str, entries: Vec<Value>, next: Option<&String>) -> Value {
    let mut page = json!({ member: entries });
    if let Some(next) = next {
        page["next"] = json!(next);
    }
    page
}

pub(crate) fn parameter(head: &Parts, name: &str) -> Option<String> {
    let pairs = head.uri.query()?.split('&');
    let mut values = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    values
        .find(|(found, _)| *found == name)
        .map(|(_, value)| decode(value))
}

fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let escaped = after.get(..2).filter(|_| *first == b'%');
        let code = escaped
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn full(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}

pub(crate) fn ok(value: &Value) -> Answer {
    with_json(StatusCode::OK, value, "application/json")
}

pub(crate) fn with_json(status: StatusCode, value: &Value, content_type: &'static str) -> Answer {
    let mut answer = full(status, value.to_string());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

pub(crate) fn problem(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Answer {
    let document = json!({
        "title": status.canonical_reason(), "status": status.as_u16(), "code": code,
        "component": "svcprovider", "detail": detail.into(), "retryable": status.is_server_error(),
    });
    let mut answer = with_json(status, &document, "application/problem+json");
    let headers = answer.headers_mut();
    headers.insert("x-bismuth-error", HeaderValue::from_static(code));
    answer
}

pub(crate) fn wrong_method(allowed: &'static str) -> Answer {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("this takes {allowed}"),
    )
}
