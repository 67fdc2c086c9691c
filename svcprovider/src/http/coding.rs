//! `Content-Encoding` and `Content-Range`: RFC 9110 sections 8.4 and 14.4. Pure.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE};

use super::problems::{self, Refusal};

/// Whether a request is about a whole: a part would be stored as if it were one (RFC 9110 section 14.5).
pub(crate) fn whole(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.contains_key(CONTENT_RANGE) {
        true => Err(problems::partial()),
        false => Ok(()),
    }
}

/// Whether the bytes of a request are those that it is about. Others would be stored without the word that says how to read them, and
/// whoever reads them would get something else than was written.
pub(crate) fn identity(headers: &HeaderMap) -> Result<(), Refusal> {
    for field in headers.get_all(CONTENT_ENCODING) {
        let codings = field.as_bytes().split(|&byte| byte == b',');
        for coding in codings.map(<[u8]>::trim_ascii) {
            if !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity") {
                return Err(problems::coded());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_with_a_content_coding_is_refused() {
        let taken = |fields: &[&'static str]| {
            let fields = fields.iter().map(|field| field.parse().unwrap());
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(CONTENT_ENCODING, field);
            }
            identity(&headers).is_ok()
        };
        for plain in [&[][..], &["identity"], &["Identity , identity"], &[""]] {
            assert!(taken(plain), "{plain:?}");
        }
        for coded in [
            &["gzip"][..],
            &["identity, br"],
            &["identity", "zstd"],
            &["x"],
        ] {
            assert!(!taken(coded), "{coded:?}");
        }
    }
}
