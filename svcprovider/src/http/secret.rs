//! `/secrets/v1/`: read by functions, written by operators elsewhere.

use async_trait::async_trait;
use bismuth_http::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use zeroize::Zeroizing;

use super::condition::{Conditions, etag_value};
use super::key::Key;
use super::kv::absent;
use super::memory::Room;
use super::params::Params;
use super::problems::{self, Refusal};
use super::{Caller, Services, reads};
use crate::records::{EngineError, Revision};

/// Which version was answered, as a decimal number.
pub const VERSION: HeaderName = HeaderName::from_static("x-bismuth-secret-version");

/// A secret, opened.
pub struct Secret {
    /// Its bytes, overwritten when they are dropped.
    pub value: Zeroizing<Vec<u8>>,
    /// Counts the values it has had, since it was last made: after a deletion it begins anew.
    pub version: u64,
    /// Names this value for ever, and no other: what the `ETag` is made of.
    pub revision: Revision,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Secret");
        debug
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Where secrets are.
#[async_trait]
pub trait SecretStore: Send + Sync + 'static {
    /// A secret's current value, or the one it had in an earlier version; `None` if there is none, or no such version.
    ///
    /// # Errors
    /// [`EngineError::Broken`] also when what is stored is not what was sealed.
    async fn get(
        &self,
        group: &str,
        name: &str,
        version: Option<u64>,
    ) -> Result<Option<Secret>, EngineError>;
}

pub(super) async fn answer(
    services: &Services,
    caller: &Caller,
    head: &Parts,
    name: &str,
) -> Result<Response<Body>, Refusal> {
    if !reads(&head.method) {
        return Err(problems::method("GET, HEAD"));
    }
    if name.is_empty() {
        return Err(problems::not_found("secret; their names are not listed"));
    }
    let params = Params::parse(head.uri.query(), &["version"])?;
    let conditions = Conditions::of(&head.headers)?;
    let name = Key::from_path(name)?;
    let version = params.number("version")?;
    let found = services.secrets.get(caller.group(), name.as_str(), version);
    let secret = found.await?;
    let secret = secret.ok_or_else(|| absent(&conditions, "secret"))?;
    let (version, revision) = (secret.version, secret.revision);
    let mut response = match conditions.of_read(revision, None) {
        None => {
            let room = caller.rooms(services).take(secret.value.len()).await?;
            whole(room, secret)
        }
        Some(StatusCode::NOT_MODIFIED) => not_modified(),
        Some(_) => return Err(problems::precondition()),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ETAG, etag_value(revision));
    headers.insert(VERSION, HeaderValue::from(version));
    Ok(response)
}

fn whole(room: Room, secret: Secret) -> Response<Body> {
    let mut response = Response::new(Body::full(room.keep(Bytes::from_owner(secret.value))));
    let bytes = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, bytes);
    response
}

fn not_modified() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}
