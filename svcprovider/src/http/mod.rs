//! The HTTP API for functions: keys, blobs and secrets.
//!
//! ```text
//!  request on a container's socket ─► caller: not forwarded? meant for us? token? rate? ─┬─► /kv/v1/…       kv, batch, list
//!                                       403         421          401     429            ├─► /blob/v1/…     blob
//!                                                                                       └─► /secrets/v1/…  secret
//! ```
//!
//! | path | |
//! |---|---|
//! | `GET HEAD /` | 204: the services are there, and the token is right |
//! | `GET HEAD /kv/v1/{key}` | the value; `If-None-Match` and `If-Modified-Since` 304, `If-Match` and `If-Unmodified-Since` 412 |
//! | `PUT POST /kv/v1/{key}` | sets it: 201 if it is new, else 204; `?ttl=` seconds; `If-Match`, `If-None-Match`, `If-Unmodified-Since` |
//! | `DELETE /kv/v1/{key}` | 204, or 404 |
//! | `POST /kv/v1/{key}/incr` | adds `?by=`, or `{"by":…,"ttl":…}`, or 1, and answers the sum. A key that itself ends in `/incr` is set by `PUT`, or with its slash as `%2F` |
//! | `GET /kv/v1/?prefix=&after=&limit=` | `{"keys":[{"key","etag","size","content_type","modified_ms","expires_ms"}],"next"}` |
//! | `POST /kv/v1/?batch` | `{"get":[key…]}` or `{"write":[…]}`: one state of the store, all or nothing; see [`batch`] |
//! | `GET HEAD /blob/v1/{key}` | the bytes; a range of them (206, 416; several ranges, or another unit, are the whole); `If-Range` with a tag, a date being too coarse; conditions as above |
//! | `POST /blob/v1/{key}` | creates: 201, or 409 |
//! | `PUT /blob/v1/{key}` | replaces: 204, or 404. With `If-Match` or `If-None-Match` these decide instead of the method, and 412 says no |
//! | `DELETE /blob/v1/{key}` | 204, or 404 |
//! | `GET /blob/v1/` | a JSON array of all keys; with `?prefix=&after=&limit=` a part of it, and `Link: <…>; rel="next"` if there is more; with `?details` `{"blobs":[{"key","etag","size","content_type","modified_ms","sha256"}],"next"}` |
//! | `GET HEAD /secrets/v1/{name}` | the secret; `?version=` an earlier one; `If-None-Match`, `If-Match` |
//!
//! Who is calling is known from the socket. `Host` must be the address of the socket, or a name that a function was tricked into
//! resolving to it would do; fields that a proxy adds say that the request is somebody else's.
//!
//! What comes in a `Content-Encoding` is 415: it would be kept without that word, and served as something else.
//!
//! What is refused changes nothing. Errors are problems (RFC 9457); a broken engine's own words are for the log only.

pub mod batch;
pub(crate) mod bearer;
mod blob;
pub(crate) mod body;
mod body_error;
pub mod caller;
pub(crate) mod coding;
mod condition;
mod context;
mod digest;
mod etag;
mod kv;
pub(crate) mod listing;
pub mod memory;
pub(crate) mod params;
pub(crate) mod percent;
pub(crate) mod problems;
mod range;
pub mod rate;
mod secret;
mod shared_rate;

use std::sync::Arc;
use std::time::Instant;

use bismuth_http::{Body, trace};
use bismuth_store::blobs::Blobs;
use bismuth_store::records::{Records, Revision};
use bismuth_store::secrets::SecretStore;
use http::header::ETAG;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

pub use caller::Caller;
pub(crate) use context::RequestContext;
pub use memory::MemoryBudget;

use crate::metrics::{Api, Metrics};
use etag::etag_value;
use problems::Refusal;

/// What a handler has come to.
pub(crate) type HandlerResult = Result<Response<Body>, Refusal>;

/// What is served.
#[derive(Clone)]
pub struct AppState {
    /// Where keys are.
    pub records: Arc<dyn Records>,
    /// Where blobs are.
    pub blobs: Blobs,
    /// Where secrets are.
    pub secrets: Arc<dyn SecretStore>,
    /// Whether other nodes use the same records, so that a group's rate is to be counted there.
    pub has_other_nodes: bool,
    /// What the bytes of all requests and answers are taken out of.
    pub memory: MemoryBudget,
    /// What is counted.
    pub metrics: Metrics,
}

/// Answers one request of a caller.
pub async fn answer(app: &AppState, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    let begun = Instant::now();
    let (mut head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let handled = async {
        caller.check(&head)?;
        caller.admit(app).await?;
        let head = &head;
        route(RequestContext { app, caller, head }, &path, body).await
    };
    let handled = handled.await;
    respond(&app.metrics, api_of(&path), begun, &mut head, handled)
}

/// The response to a request, which is counted.
pub(crate) fn respond(
    metrics: &Metrics,
    api: Api,
    begun: Instant,
    head: &mut Parts,
    handled: HandlerResult,
) -> Response<Body> {
    let response = handled.unwrap_or_else(|refusal| {
        metrics.problem(refusal.code());
        refusal.into_response(trace::request_id(&mut head.headers))
    });
    metrics.answered(api, response.status(), begun.elapsed());
    response
}

fn api_of(path: &str) -> Api {
    match path {
        _ if below(path, "/kv/v1").is_some() => Api::Kv,
        _ if below(path, "/blob/v1").is_some() => Api::Blob,
        _ if below(path, "/secrets/v1").is_some() => Api::Secret,
        _ => Api::Other,
    }
}

/// Answers a request that was let in. `path` is what of its path names the service and the key.
pub(crate) async fn route(cx: RequestContext<'_>, path: &str, body: Incoming) -> HandlerResult {
    let head = cx.head;
    if !reads(&head.method) {
        coding::identity(&head.headers)?;
        coding::whole(&head.headers)?;
    }
    if let Some(key) = below(path, "/kv/v1") {
        return kv::answer(cx, key, body).await;
    }
    if let Some(key) = below(path, "/blob/v1") {
        // Rare and large beside the others.
        return Box::pin(blob::answer(cx, key, body)).await;
    }
    if let Some(name) = below(path, "/secrets/v1") {
        return secret::answer(cx, name).await;
    }
    match path {
        "/" if reads(&head.method) => Ok(empty(StatusCode::NO_CONTENT)),
        "/" => Err(problems::method("GET, HEAD")),
        _ => Err(problems::unknown_path()),
    }
}

/// Nothing but a status.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A key or blob was written; `revision` is its new state.
fn stored(replaced: bool, revision: Revision) -> Response<Body> {
    let mut response = empty(match replaced {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::CREATED,
    });
    response.headers_mut().insert(ETAG, etag_value(revision));
    response
}

/// What follows the service's path, still encoded; empty for the service itself.
fn below<'a>(path: &'a str, service: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(service)?;
    if rest.is_empty() {
        return Some(rest);
    }
    rest.strip_prefix('/')
}

/// Whether the answer is the one to GET, without its body in the case of HEAD, which hyper leaves out.
fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
