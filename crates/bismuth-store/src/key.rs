//! Validates names of keys, blobs and secrets. Pure.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// UTF-8 of 1 to 512 bytes without NUL. Between slashes it is neither empty nor `.` nor `..`: clients and proxies rewrite such
/// paths, and then two names would be one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum KeyError {
    #[error("the key is empty")]
    Empty,
    #[error("the key has more than {} bytes", Key::MAX_BYTES)]
    TooLong,
    #[error("the key contains NUL")]
    Nul,
    #[error("the key has an empty segment: a slash in front, at the end, or two in a row")]
    EmptySegment,
    #[error("the key has the segment \".\" or \"..\"")]
    DotSegment,
}

impl Key {
    /// Bytes of the longest key.
    pub const MAX_BYTES: usize = 512;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_any_text_between_slashes() {
        for key in ["a", "a/b/c", "a/b+c", "ä %", "...", ".a/b."] {
            assert_eq!(key.parse::<Key>().unwrap().as_str(), key);
        }
        assert!("a".repeat(512).parse::<Key>().is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused_by_name() {
        for (text, error) in [
            ("", KeyError::Empty),
            ("a\0b", KeyError::Nul),
            ("..", KeyError::DotSegment),
            ("a/../b", KeyError::DotSegment),
            ("a/.", KeyError::DotSegment),
            ("/a", KeyError::EmptySegment),
            ("a/", KeyError::EmptySegment),
            ("a//b", KeyError::EmptySegment),
        ] {
            assert_eq!(text.parse::<Key>(), Err(error), "{text}");
        }
        for long in ["a".repeat(513), "ä".repeat(257)] {
            assert_eq!(long.parse::<Key>(), Err(KeyError::TooLong));
        }
    }
}
