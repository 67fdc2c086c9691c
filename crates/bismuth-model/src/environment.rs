//! The name of an environment: the top znode of one Bismuth installation in a shared ZooKeeper ensemble.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::{checked_text, is_path_segment};

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

checked_text!(Environment, EnvironmentError);

impl Default for Environment {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for Environment {
    type Err = EnvironmentError;

    fn from_str(text: &str) -> Result<Self, EnvironmentError> {
        // ZooKeeper keeps its own configuration under /zookeeper.
        if !is_path_segment(text, 64) || text == "zookeeper" {
            return Err(EnvironmentError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
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
