//! Listings of keys and blobs as JSON.

use bismuth_http::Body;
use bismuth_store::blobs;
use bismuth_store::records::Meta;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;

use super::HandlerResult;
use super::etag::etag;
use super::memory::MemoryPermit;
use super::problems::bad_json;

/// Bytes of one entry of a listing, and of its JSON: most have fewer.
pub(super) const ENTRY_BYTES: usize = 1024;

/// A part of a listing.
#[derive(Debug, Serialize)]
pub(crate) struct KeyPage {
    pub keys: Vec<ListEntry>,
    /// What to give as `after` for the part that follows; not there if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A part of a listing of blobs.
#[derive(Debug, Serialize)]
pub(crate) struct BlobPage {
    blobs: Vec<BlobEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct BlobEntry {
    #[serde(flatten)]
    listed: ListEntry,
    /// In hexadecimal digits, as everywhere but in the fields of HTTP. Not there if the blob's entry cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// A key or blob without its bytes.
#[derive(Debug, Serialize)]
pub(crate) struct ListEntry {
    key: String,
    etag: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    modified_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

impl KeyPage {
    pub(crate) fn new(keys: Vec<ListEntry>, more: bool) -> Self {
        let last = keys.last().filter(|_| more);
        let next = last.map(|last| last.key.clone());
        Self { keys, next }
    }
}

impl From<(String, Meta)> for ListEntry {
    fn from((key, meta): (String, Meta)) -> Self {
        Self {
            size: meta.charge.saturating_sub(key.len() as u64),
            etag: etag(meta.revision),
            content_type: meta.content_type,
            modified_ms: meta.modified_ms,
            expires_ms: meta.expires_ms,
            key,
        }
    }
}

impl From<blobs::BlobDetailsPage> for BlobPage {
    fn from(page: blobs::BlobDetailsPage) -> Self {
        let entry = |blob: blobs::BlobDetails| BlobEntry {
            listed: (blob.key, blob.meta).into(),
            sha256: blob.sha256.map(hex),
        };
        Self {
            blobs: page.blobs.into_iter().map(entry).collect(),
            next: page.next,
        }
    }
}

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A JSON answer.
pub(crate) fn json(document: &impl Serialize) -> HandlerResult {
    json_in(MemoryPermit::default(), document)
}

/// A JSON answer that gives room back with its last byte.
pub(crate) fn json_in(permit: MemoryPermit, document: &impl Serialize) -> HandlerResult {
    let bytes = serde_json::to_vec(document).map_err(|error| bad_json(error.to_string()))?;
    Ok(json_body(Body::full(permit.keep(bytes.into()))))
}

/// An answer whose body is JSON.
pub(crate) fn json_body(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
