//! Errors of the secret store. None contains a byte of a secret.

use std::path::PathBuf;

use bismuth_base::chain;
use thiserror::Error;

use super::keyring::KeyringError;
use super::seal::NoRandom;
use super::{MAX_SECRETS, MAX_VALUE_BYTES};
use crate::records::EngineError;

/// Who speaks where the engine would.
const ENGINE: &str = "the store of secrets";

/// Why a secret was not read or changed.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SecretError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("there is no such secret")]
    NotFound,
    #[error("a secret has 1 to {MAX_VALUE_BYTES} bytes, not {bytes}")]
    Size { bytes: usize },
    #[error("a group has at most {MAX_SECRETS} secrets")]
    TooMany,
    #[error("the secrets of {group} are broken: {flaw}")]
    Broken { group: String, flaw: Flaw },
    #[error(
        "the data key of {group} is sealed under the master key {id}, which is not in {}: put its line back, below the first",
        path.display()
    )]
    UnknownMasterKey {
        group: String,
        id: String,
        path: PathBuf,
        /// Why the file could not be read again to look for it.
        #[source]
        reread: Option<Box<KeyringError>>,
    },
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
    #[error("the secrets of {group} were changed by others at every attempt")]
    Contended { group: String },
    #[error("{failed} data keys could not be rewrapped, one of them because {first}")]
    NotRewrapped {
        failed: usize,
        #[source]
        first: Box<SecretError>,
    },
}

/// In what way the records of a group are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Flaw {
    #[error("their data key was removed")]
    NoDataKey,
    #[error(
        "their data key was changed, or the master key {master_key} is not the one that it was sealed under"
    )]
    DataKey { master_key: String },
    #[error("their data key cannot be parsed")]
    DataKeyForm,
    #[error("their manifest was removed")]
    NoManifest,
    #[error("their manifest was changed")]
    Manifest,
    #[error("the record of {name:?} was removed")]
    Removed { name: String },
    #[error("the record of {name:?} was added, not written")]
    Added { name: String },
    #[error("the record of {name:?} was changed")]
    Changed { name: String },
}

impl Flaw {
    pub(super) fn of(self, group: &str) -> SecretError {
        SecretError::Broken {
            group: group.to_owned(),
            flaw: self,
        }
    }
}

/// For who reads secrets, all of it is the engine's.
impl From<SecretError> for EngineError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Engine(error) => error,
            error => Self::broken(ENGINE, chain(&error)),
        }
    }
}
