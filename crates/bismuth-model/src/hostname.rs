//! Host names of routes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::checked_text;

/// RFC 1123 section 2.1 and RFC 1035 section 2.3.4.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host name in canonical form: lower case, no trailing dot, no port, RFC 1123 labels.
///
/// Wildcards and IP addresses are refused: a route names one host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

/// Why a text is not a host name.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HostnameError {
    /// Nothing before the optional trailing dot.
    #[error("a hostname is empty")]
    Empty,
    /// Longer than DNS can carry.
    #[error("a hostname of {0} characters is too long, at most {MAX_NAME} are allowed")]
    TooLong(usize),
    /// A part between dots is empty, too long, or starts or ends with a hyphen.
    #[error(
        "label {label:?} of hostname {name:?} must have 1 to {MAX_LABEL} characters and neither start nor end with a hyphen"
    )]
    BadLabel {
        /// The whole text.
        name: String,
        /// The label at fault.
        label: String,
    },
    /// A character that host names do not have.
    #[error(
        "{character:?} is not allowed in hostname {name:?}: letters, digits, hyphens and dots are"
    )]
    BadCharacter {
        /// The whole text.
        name: String,
        /// The character at fault.
        character: char,
    },
    /// Digits and dots only.
    #[error("{0:?} is an IP address, not a hostname")]
    IpAddress(String),
}

impl Hostname {
    /// Reads a host name, lower-casing it and removing one trailing dot.
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(HostnameError::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(HostnameError::TooLong(name.len()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if let Some(character) = name.chars().find(|c| !allowed(*c)) {
            return Err(HostnameError::BadCharacter {
                name: name.to_owned(),
                character,
            });
        }
        for label in name.split('.') {
            let fits = (1..=MAX_LABEL).contains(&label.len());
            if !fits || label.starts_with('-') || label.ends_with('-') {
                return Err(HostnameError::BadLabel {
                    name: name.to_owned(),
                    label: label.to_owned(),
                });
            }
        }
        // The last label of a DNS name is never all digits (RFC 1123 section 2.1), so this is the
        // whole test for a dotted IPv4 address in any of its spellings.
        let last = name.rsplit('.').next().unwrap_or(name);
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(HostnameError::IpAddress(name.to_owned()));
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

checked_text!(Hostname, HostnameError);

/// So that a table of hostnames can be asked with the text of a `Host` header, without allocating.
impl std::borrow::Borrow<str> for Hostname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hostname({})", self.0)
    }
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_one_trailing_dot_do_not_matter() {
        assert_eq!(
            Hostname::parse("Api.Example.COM.").unwrap().as_str(),
            "api.example.com"
        );
        assert!(Hostname::parse("api.example.com..").is_err());
    }

    #[test]
    fn invalid_hostnames_are_refused_by_name() {
        for bad in [
            "", ".", "a..b", "-a.b", "a-.b", "a_b.c", "a:80", "*.a.b", "ä.de", "10.0.0.1", "1",
        ] {
            assert!(Hostname::parse(bad).is_err(), "{bad}");
        }
        assert!(Hostname::parse(&"a".repeat(64)).is_err());
        assert!(Hostname::parse(&"a.".repeat(127)).is_ok());
        assert!(Hostname::parse(&"ab.".repeat(100)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn parsing_is_idempotent_and_never_panics(text in ".{0,300}") {
            if let Ok(name) = Hostname::parse(&text) {
                proptest::prop_assert_eq!(Hostname::parse(name.as_str()), Ok(name.clone()));
            }
        }
    }
}
