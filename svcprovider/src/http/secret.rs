//! Handlers of `/secrets/v1/`: functions read secrets here; operators write them in [`crate::operator`].

use bismuth_http::Body;
use bismuth_store::secrets::Secret;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::etag::etag_value;
use super::kv::absent;
use super::memory::MemoryPermit;
use super::problems;
use super::{HandlerResult, RequestContext, empty, percent, reads};

/// Which version was answered, as a decimal number.
pub const VERSION: HeaderName = HeaderName::from_static("x-bismuth-secret-version");

pub(super) async fn answer(cx: RequestContext<'_>, name: &str) -> HandlerResult {
    if !reads(&cx.head.method) {
        return Err(problems::method("GET, HEAD"));
    }
    if name.is_empty() {
        return Err(problems::not_found("secret; their names are not listed"));
    }
    let params = cx.params(&["version"])?;
    let conditions = cx.conditions()?;
    let name = percent::key(name)?;
    let version = params.number("version")?;
    let secrets = &cx.app.secrets;
    let found = secrets.get(cx.caller.group(), name.as_str(), version);
    let secret = found.await?;
    let secret = secret.ok_or_else(|| absent(&conditions, "secret"))?;
    let (version, revision) = (secret.version, secret.revision);
    let mut response = match conditions.of_read(revision, None) {
        None => {
            let permit = cx.acquire(secret.value.len()).await?;
            whole(permit, secret)
        }
        Some(StatusCode::NOT_MODIFIED) => empty(StatusCode::NOT_MODIFIED),
        Some(_) => return Err(problems::precondition()),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ETAG, etag_value(revision));
    headers.insert(VERSION, HeaderValue::from(version));
    Ok(response)
}

fn whole(permit: MemoryPermit, secret: Secret) -> Response<Body> {
    let mut response = Response::new(Body::full(permit.keep(Bytes::from_owner(secret.value))));
    let bytes = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, bytes);
    response
}
