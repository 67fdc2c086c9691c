//! The name of an environment: the top znode of one Bismuth installation in a shared ZooKeeper ensemble.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One path segment: letters, digits, `-`, `_` and `.`, at most 64, not `zookeeper`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Environment(String);

/// Text that cannot name an environment.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} cannot name an environment: 1 to 64 letters, digits, '-', '_' or '.', and not \".\", \"..\" or \"zookeeper\""
)]
pub struct EnvironmentError(String);

impl Environment {
    /// The name as it stands in paths.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for Environment {
    type Err = EnvironmentError;

    fn from_str(text: &str) -> Result<Self, EnvironmentError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        // ZooKeeper keeps its own configuration under /zookeeper.
        let reserved = matches!(text, "." | ".." | "zookeeper");
        if !(1..=64).contains(&text.len()) || !text.bytes().all(allowed) || reserved {
            return Err(EnvironmentError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Environment {
    type Error = EnvironmentError;

    fn try_from(text: String) -> Result<Self, EnvironmentError> {
        text.parse()
    }
}

impl From<Environment> for String {
    fn from(environment: Environment) -> String {
        environment.0
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_path_segment() {
        assert!("staging-2.eu".parse::<Environment>().is_ok());
        for bad in ["", ".", "..", "a/b", "zookeeper", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<Environment>().is_err(), "{bad}");
        }
    }
}
