//! `ETag`: RFC 9110 section 8.8.3. Pure.

use bismuth_store::records::Revision;
use http::header::HeaderValue;

/// The tag of a state.
pub(super) fn etag(revision: Revision) -> String {
    format!("\"{:x}\"", revision.0)
}

/// The tag of a state as a field.
pub(super) fn etag_value(revision: Revision) -> HeaderValue {
    HeaderValue::try_from(etag(revision)).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}
