//! Identifiers. Functions and containers are named by UUIDs, so that they can be made anywhere
//! without asking anyone, and cannot be guessed from one another.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::text::serde_as_text;

/// Text that is not an identifier.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{text:?} is not a {kind} id: expected a lower-case UUID such as 67e55044-10b1-426f-9247-bb680e5fe0c8"
)]
pub struct IdError {
    kind: &'static str,
    text: String,
}

/// The only accepted form is the one we print: 36 characters, lower case, hyphenated. One id has
/// one spelling, so that comparing texts (in paths, logs and shell scripts) is comparing ids.
fn parse_canonical(kind: &'static str, text: &str) -> Result<Uuid, IdError> {
    let refused = || IdError {
        kind,
        text: text.chars().take(64).collect(),
    };
    let canonical = text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase());
    if !canonical {
        return Err(refused());
    }
    Uuid::try_parse(text).map_err(|_| refused())
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// A new random id (UUID version 4).
            pub fn new_random() -> Self {
                Self(Uuid::new_v4())
            }

            /// The id whose 16 bytes these are, most significant first.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes of the id, most significant first.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0.as_hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_canonical($kind, text).map(Self)
            }
        }

        serde_as_text!($name, IdError);
    };
}

uuid_id!(
    /// Names a function for its whole life, across revisions.
    FunctionId,
    "function"
);
uuid_id!(
    /// Names one slot: a container that one node has agreed to serve. Also its id in containerd.
    ContainerId,
    "container"
);

/// Counts the definitions a function has had. Starts at 1; every update and every redeploy adds 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision a function is created with.
    pub const FIRST: Self = Self(1);

    /// The revision after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl FunctionId {
    /// The namespace of ids that are made of keys; drawn once.
    const OF_KEYS: Uuid = Uuid::from_u128(0x9b6f_3f0e_52a1_4c0e_8d53_7d1c_2f6a_90b4);

    /// The one id that a key stands for: a name-based UUID (RFC 9562, version 5).
    pub fn from_key(key: &str) -> Self {
        Self(Uuid::new_v5(&Self::OF_KEYS, key.as_bytes()))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever tries again after an upgrade means the same function.
    #[test]
    fn a_key_stands_for_one_id_for_ever() {
        let id = FunctionId::from_key("order-1");
        assert_eq!(id.to_string(), "d68f1246-e7ab-534b-a7e1-a254f461640e");
        assert_ne!(id, FunctionId::from_key("order-2"));
    }

    #[test]
    fn only_the_canonical_spelling_of_an_id_is_accepted() {
        let id = FunctionId::new_random();
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        assert!(text.to_uppercase().parse::<FunctionId>().is_err() || text.to_uppercase() == text);
        assert!(text.replace('-', "").parse::<FunctionId>().is_err());
        assert!(format!("{{{text}}}").parse::<FunctionId>().is_err());
        assert!("".parse::<FunctionId>().is_err());
    }

    #[test]
    fn the_error_says_what_was_expected() {
        let error = "nonsense".parse::<ContainerId>().unwrap_err();
        assert!(
            error
                .to_string()
                .contains("\"nonsense\" is not a container id")
        );
    }
}
