//! Names of keys, blobs and secrets, as they come from outside. Pure.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// UTF-8 of 1 to 512 bytes without NUL. Between slashes it is neither empty nor `.` nor `..`: clients and proxies rewrite such
/// paths, and then two names would be one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// `%` without two hexadecimal digits.
    #[error("a % in the path is not followed by two hexadecimal digits")]
    Escape,
    /// The bytes are no text.
    #[error("the key is not UTF-8")]
    Utf8,
    /// No bytes.
    #[error("the key is empty")]
    Empty,
    /// Too many bytes.
    #[error("the key has more than {} bytes", Key::MAX_BYTES)]
    TooLong,
    /// A zero byte.
    #[error("the key contains NUL")]
    Nul,
    /// Nothing before, between or after slashes.
    #[error("the key has an empty segment: a slash in front, at the end, or two in a row")]
    EmptySegment,
    /// `.` or `..`.
    #[error("the key has the segment \".\" or \"..\"")]
    DotSegment,
}

impl Key {
    /// Bytes of the longest key.
    pub const MAX_BYTES: usize = 512;

    /// Reads a key as it stands in a path, percent-encoded.
    ///
    /// # Errors
    /// As [`KeyError`] says.
    pub fn from_path(encoded: &str) -> Result<Self, KeyError> {
        // Each byte takes three at most; what is longer need not be decoded to be refused.
        if encoded.len() > 3 * Self::MAX_BYTES {
            return Err(KeyError::TooLong);
        }
        decode(encoded.as_bytes(), |byte| byte)?.try_into()
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(KeyError::TooLong);
        }
        if text.contains('\0') {
            return Err(KeyError::Nul);
        }
        for segment in text.split('/') {
            match segment {
                "" => return Err(KeyError::EmptySegment),
                "." | ".." => return Err(KeyError::DotSegment),
                _ => {}
            }
        }
        Ok(Self(text))
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.to_owned().try_into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.0)
    }
}

/// Undoes percent-encoding (RFC 3986 section 2.1); `plain` is what becomes of a byte that stands for itself.
pub fn decode(encoded: &[u8], plain: impl Fn(u8) -> u8) -> Result<String, KeyError> {
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
            return Err(KeyError::Escape);
        };
        decoded.push(high << 4 | low);
    }
    String::from_utf8(decoded).map_err(|_| KeyError::Utf8)
}

/// Percent-encodes a text for a query.
pub fn encode(text: &str) -> String {
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
    fn a_key_may_be_any_text_between_slashes() {
        for (path, key) in [
            ("a", "a"),
            ("a/b/c", "a/b/c"),
            ("a%2Fb", "a/b"),
            ("a%2fb+c", "a/b+c"),
            ("%C3%A4%20%25", "ä %"),
            ("...", "..."),
            (".a/b.", ".a/b."),
        ] {
            assert_eq!(Key::from_path(path).unwrap().as_str(), key, "{path}");
            assert_eq!(Key::from_path(&encode(key)).unwrap().as_str(), key);
        }
        assert!(Key::from_path(&"%41".repeat(512)).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused_by_name() {
        for (path, error) in [
            ("", KeyError::Empty),
            ("a%", KeyError::Escape),
            ("a%4", KeyError::Escape),
            ("a%zz", KeyError::Escape),
            ("a%+1", KeyError::Escape),
            ("%FF", KeyError::Utf8),
            ("%C3", KeyError::Utf8),
            ("%ED%A0%80", KeyError::Utf8),
            ("a%00b", KeyError::Nul),
            ("..", KeyError::DotSegment),
            ("a/../b", KeyError::DotSegment),
            ("a/%2e%2e/b", KeyError::DotSegment),
            ("a%2F.", KeyError::DotSegment),
            ("/a", KeyError::EmptySegment),
            ("a/", KeyError::EmptySegment),
            ("a//b", KeyError::EmptySegment),
        ] {
            assert_eq!(Key::from_path(path), Err(error), "{path}");
        }
        for long in ["a".repeat(513), "%41".repeat(513), "ä".repeat(257)] {
            assert_eq!(Key::from_path(&long), Err(KeyError::TooLong));
        }
    }
}
