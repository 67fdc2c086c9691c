//! Percent-encoding of keys in paths and of parameters in queries (RFC 3986 section 2.1). Pure.

use bismuth_store::{Key, KeyError};
use thiserror::Error;

use super::problems::{Refusal, bad};

/// Why a text is not percent-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum PercentError {
    #[error("a % in the path is not followed by two hexadecimal digits")]
    Escape,
    #[error("the key is not UTF-8")]
    Utf8,
}

impl From<PercentError> for Refusal {
    fn from(error: PercentError) -> Self {
        bad("bad_key", error.to_string())
    }
}

/// Reads a key as it stands in a path.
pub(crate) fn key(encoded: &str) -> Result<Key, Refusal> {
    // Each byte takes three at most; what is longer need not be decoded to be refused.
    if encoded.len() > 3 * Key::MAX_BYTES {
        return Err(KeyError::TooLong.into());
    }
    Ok(decode(encoded.as_bytes(), |byte| byte)?.try_into()?)
}

/// Undoes percent-encoding; `plain` is what becomes of a byte that stands for itself.
pub(crate) fn decode(encoded: &[u8], plain: impl Fn(u8) -> u8) -> Result<String, PercentError> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            decoded.push(plain(byte));
            continue;
        }
        let mut digit = || {
            let digit = char::from(*rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(PercentError::Escape);
        };
        decoded.push(high << 4 | low);
    }
    String::from_utf8(decoded).map_err(|_| PercentError::Utf8)
}

/// Percent-encodes a text for a query.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_path_is_decoded_and_encoded_back() {
        for (path, expected) in [
            ("a", "a"),
            ("a/b/c", "a/b/c"),
            ("a%2Fb", "a/b"),
            ("a%2fb+c", "a/b+c"),
            ("%C3%A4%20%25", "ä %"),
        ] {
            assert_eq!(key(path).unwrap().as_str(), expected, "{path}");
            assert_eq!(key(&encode(expected)).unwrap().as_str(), expected);
        }
        assert!(key(&"%41".repeat(512)).is_ok());
    }

    #[test]
    fn a_path_that_is_not_percent_encoded_text_is_refused_by_name() {
        let decoded = |path: &str| decode(path.as_bytes(), |byte| byte);
        for path in ["a%", "a%4", "a%zz", "a%+1"] {
            assert_eq!(decoded(path), Err(PercentError::Escape), "{path}");
        }
        for path in ["%FF", "%C3", "%ED%A0%80"] {
            assert_eq!(decoded(path), Err(PercentError::Utf8), "{path}");
        }
    }
}
