//! Content digests: parsing, hashing and verifying.
//!
//! Format: the OCI image specification, `descriptor.md`, "Digests". Only the two algorithms registered there are
//! accepted; containerd's content store knows no others.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use super::error::ImageError;

/// A validated digest: `sha256:` with 64, or `sha512:` with 128, lower-case hexadecimal characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Arc<str>);

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a digest: expected sha256: with 64 or sha512: with 128 lower-case hexadecimal digits"
)]
pub struct InvalidDigest {
    text: String,
}

impl Digest {
    /// Validates a digest.
    ///
    /// # Errors
    /// The text has another form or algorithm.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let valid = match text.split_once(':') {
            Some(("sha256", hex)) => is_hex(hex, 64),
            Some(("sha512", hex)) => is_hex(hex, 128),
            _ => false,
        };
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidDigest {
                text: text.chars().take(200).collect(),
            })
        }
    }

    /// The SHA-256 digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Hasher::sha256().finish_with(data)
    }

    /// The digest of `data` by the algorithm of this one.
    pub(crate) fn same_of(&self, data: &[u8]) -> Self {
        Hasher::like(self).finish_with(data)
    }

    /// Refuses a blob from `origin` whose digest is another than this one.
    pub(crate) fn check(&self, origin: &str, actual: Self) -> Result<(), ImageError> {
        if actual == *self {
            return Ok(());
        }
        Err(ImageError::mismatch("blob", origin, self, actual))
    }

    /// The digest as text, with its algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0.as_ref().to_owned()
    }
}

/// Computes a digest piece by piece. A clone continues from the same point, which is how an interrupted download goes on.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// `sha256:`
    Sha256(Sha256),
    /// `sha512:`
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher for SHA-256.
    pub fn sha256() -> Self {
        Self::Sha256(Sha256::new())
    }

    /// A hasher of the algorithm that `digest` names.
    pub fn like(digest: &Digest) -> Self {
        if digest.as_str().starts_with("sha512:") {
            Self::Sha512(Sha512::new())
        } else {
            Self::sha256()
        }
    }

    /// Takes the next piece.
    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(data),
            Self::Sha512(hasher) => hasher.update(data),
        }
    }

    /// The digest of all pieces and this last one.
    fn finish_with(mut self, data: &[u8]) -> Digest {
        self.update(data);
        self.finish()
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        let text = match self {
            Self::Sha256(hasher) => format!("sha256:{}", hex(&hasher.finalize())),
            Self::Sha512(hasher) => format!("sha512:{}", hex(&hasher.finalize())),
        };
        Digest(text.into())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), known);
        assert_eq!(Digest::parse(known), Ok(Digest::of(b"")));
    }

    #[test]
    fn only_well_formed_digests_of_known_algorithms_pass() {
        let upper = "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
        for text in [
            "",
            "sha256:",
            "sha256:abc",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "sha256:../../etc",
            upper,
        ] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
        let long = format!("sha512:{}", "0".repeat(128));
        assert_eq!(Digest::parse(&long).map(|d| d.to_string()), Ok(long));
    }
}
