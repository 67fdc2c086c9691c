//! `Repr-Digest` and `Content-Digest`: RFC 9530. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::problems::{Refusal, bad_digest};

/// Of the whole blob.
pub(super) const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// Of the bytes of this message, which is the same in an upload: no other coding is taken.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// The field that says a blob's digest.
pub(super) fn value(sha256: &[u8; 32]) -> HeaderValue {
    let text = format!("sha-256=:{}:", STANDARD.encode(sha256));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The SHA-256 that a request says its bytes have. Other algorithms are not checked, as RFC 9530 allows.
pub(super) fn announced(headers: &HeaderMap) -> Result<Option<[u8; 32]>, Refusal> {
    let mut found = None;
    for name in [REPR_DIGEST, CONTENT_DIGEST] {
        for value in headers.get_all(&name) {
            let digest = parse(value.as_bytes()).map_err(|()| bad_digest(name.as_str()))?;
            if found.is_some() && digest.is_some() && found != digest {
                return Err(bad_digest(name.as_str()));
            }
            found = found.or(digest);
        }
    }
    Ok(found)
}

/// A dictionary of byte sequences (RFC 9651 sections 3.2 and 3.3.5), of which `sha-256` is ours.
fn parse(value: &[u8]) -> Result<Option<[u8; 32]>, ()> {
    let text = std::str::from_utf8(value).map_err(|_| ())?;
    let mut found = None;
    for member in text.split(',') {
        let (name, value) = member.trim().split_once('=').ok_or(())?;
        let base64 = value.strip_prefix(':').and_then(|v| v.strip_suffix(':'));
        let base64 = base64.ok_or(())?;
        if name == "sha-256" {
            let bytes = STANDARD.decode(base64).map_err(|_| ())?;
            found = Some(bytes.try_into().map_err(|_| ())?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_among_others() {
        let digest = [7; 32];
        let ours = value(&digest);
        assert_eq!(parse(ours.as_bytes()), Ok(Some(digest)));
        let among = format!("md5=:AAAA:, {}", ours.to_str().unwrap());
        assert_eq!(parse(among.as_bytes()), Ok(Some(digest)));
        assert_eq!(parse(b"md5=:AAAA:"), Ok(None));
        for bad in [
            "",
            "sha-256",
            "sha-256=AAAA",
            "sha-256=:AAAA:",
            "sha-256=:!:",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
