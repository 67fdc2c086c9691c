//! Service group: the functions that share keys, blobs and secrets.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::{checked_text, is_path_segment};
use crate::{FunctionDefinition, FunctionId};

/// Names what functions share in the service provider. One path segment: 1 to 64 letters, digits, `-`, `_` or `.`, and neither
/// `.` nor `..`, which clients take out of paths before they send them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceGroup(String);

/// Text that cannot name a service group.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("expected 1 to 64 letters, digits, '-', '_' or '.', and not \".\" or \"..\"")]
pub struct ServiceGroupError;

impl ServiceGroup {
    /// Bytes of the longest name.
    pub const MAX_BYTES: usize = 64;
}

checked_text!(ServiceGroup, ServiceGroupError);

impl FunctionDefinition {
    /// Whose data the function works on: the group it names, or its own id. A definition that was never validated and names
    /// what is no group stays alone as well.
    pub fn service_group(&self, function: FunctionId) -> ServiceGroup {
        let named = self
            .svc_group_id
            .as_deref()
            .and_then(|name| name.parse().ok());
        named.unwrap_or_else(|| ServiceGroup::from(function))
    }
}

/// The group that a function has for itself.
impl From<FunctionId> for ServiceGroup {
    fn from(function: FunctionId) -> Self {
        Self(function.to_string())
    }
}

impl FromStr for ServiceGroup {
    type Err = ServiceGroupError;

    fn from_str(text: &str) -> Result<Self, ServiceGroupError> {
        if !is_path_segment(text, Self::MAX_BYTES) {
            return Err(ServiceGroupError);
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_path_segment() {
        for good in ["a", "team-1_x.y", &"x".repeat(64), "..."] {
            assert!(good.parse::<ServiceGroup>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert!(bad.parse::<ServiceGroup>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_function_without_a_group_has_its_own() {
        let function = FunctionId::new_random();
        let mut definition =
            FunctionDefinition::new("a".parse().unwrap(), "exec:/a".parse().unwrap());
        assert_eq!(
            definition.service_group(function).as_str(),
            function.to_string()
        );
        definition.svc_group_id = Some("team".to_owned());
        assert_eq!(definition.service_group(function).as_str(), "team");
        definition.svc_group_id = Some("../other".to_owned());
        assert_eq!(
            definition.service_group(function),
            ServiceGroup::from(function)
        );
    }
}
