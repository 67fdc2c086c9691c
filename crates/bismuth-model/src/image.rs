//! References to container images.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::{ParseError, Reference};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::serde_as_text;

/// An image reference in full form: `docker.io/library/alpine:latest` for `alpine`.
///
/// The defaults are Docker's: registry `docker.io`, repository prefix `library/`, tag `latest`
/// when neither tag nor digest is given.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference(Reference);

/// Text that is not an image reference.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not an image reference: {reason}")]
pub struct ImageReferenceError {
    text: String,
    reason: String,
}

impl ImageReference {
    /// The parsed parts, for the registry client.
    pub fn as_reference(&self) -> &Reference {
        &self.0
    }

    /// The digest that pins the image, if the reference has one.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.whole())
    }
}

impl fmt::Debug for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageReference({})", self.0.whole())
    }
}

impl FromStr for ImageReference {
    type Err = ImageReferenceError;

    fn from_str(text: &str) -> Result<Self, ImageReferenceError> {
        let refused = |error: ParseError| ImageReferenceError {
            text: text.chars().take(300).collect(),
            reason: error.to_string(),
        };
        let reference: Reference = text.parse().map_err(refused)?;
        // `Name/a` parses with the registry `Name`, which has neither dot nor port and so becomes
        // a part of Docker's repository, where no capital is allowed.
        reference.whole().parse::<Reference>().map_err(refused)?;
        Ok(Self(reference))
    }
}

serde_as_text!(ImageReference, ImageReferenceError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_get_dockers_defaults() {
        for (short, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("me/tool:2", "docker.io/me/tool:2"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ] {
            assert_eq!(short.parse::<ImageReference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn a_full_reference_reads_back_as_itself() {
        let digest = format!("docker.io/library/a@sha256:{}", "0".repeat(64));
        let image: ImageReference = digest.parse().unwrap();
        assert_eq!(image.to_string().parse::<ImageReference>().unwrap(), image);
        assert!(image.digest().is_some());
    }

    #[test]
    fn malformed_references_are_refused_with_the_reason() {
        for bad in [
            "",
            "a/UPPER",
            "Upper/a",
            "a b",
            "a@sha256:123",
            "http://x/y",
        ] {
            let error = bad.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains("is not an image reference: "), "{error}");
        }
    }
}
