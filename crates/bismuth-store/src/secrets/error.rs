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
pub enum SecretError {
    /// The engine did not do what was asked.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There is nothing to rotate or to delete.
    #[error("there is no such secret")]
    NotFound,
    /// A value is empty or too long.
    #[error("a secret has 1 to {MAX_VALUE_BYTES} bytes, not {bytes}")]
    Size {
        /// What it has.
        bytes: usize,
    },
    /// The group cannot have one more.
    #[error("a group has at most {MAX_SECRETS} secrets")]
    TooMany,
    /// What the engine has is not what was written.
    #[error("the secrets of {group} are broken: {flaw}")]
    Broken {
        /// Whose.
        group: String,
        /// What was found.
        flaw: Flaw,
    },
    /// A master key is gone from the file.
    #[error(
        "the data key of {group} is sealed under the master key {id}, which is not in {}: put its line back, below the first",
        path.display()
    )]
    UnknownMasterKey {
        /// Whose.
        group: String,
        /// Which.
        id: String,
        /// The file.
        path: PathBuf,
        /// Why the file could not be read again to look for it.
        #[source]
        reread: Option<Box<KeyringError>>,
    },
    /// The file of master keys cannot be used.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No keys and nonces can be made.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
    /// Every attempt found that somebody else was quicker.
    #[error("the secrets of {group} were changed by others at every attempt")]
    Contended {
        /// Whose.
        group: String,
    },
    /// Some data keys are still under another master key.
    #[error("{failed} data keys could not be rewrapped, one of them because {first}")]
    NotRewrapped {
        /// How many.
        failed: usize,
        /// What was wrong with the first.
        #[source]
        first: Box<SecretError>,
    },
}

/// In what way the records of a group are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Flaw {
    /// There are secrets, and nothing to open them with.
    #[error("their data key was removed")]
    NoDataKey,
    /// It does not open.
    #[error(
        "their data key was changed, or the master key {master_key} is not the one that it was sealed under"
    )]
    DataKey {
        /// The master key that it says it is sealed under.
        master_key: String,
    },
    /// It cannot be read.
    #[error("their data key cannot be parsed")]
    DataKeyForm,
    /// There is a data key and no manifest.
    #[error("their manifest was removed")]
    NoManifest,
    /// It does not open.
    #[error("their manifest was changed")]
    Manifest,
    /// The manifest has it and the engine has not.
    #[error("the record of {name:?} was removed")]
    Removed {
        /// Which secret.
        name: String,
    },
    /// The engine has it and the manifest has not.
    #[error("the record of {name:?} was added, not written")]
    Added {
        /// Which secret.
        name: String,
    },
    /// The record is not the one that the manifest tells of.
    #[error("the record of {name:?} was changed")]
    Changed {
        /// Which secret.
        name: String,
    },
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
            error => Self::Broken {
                engine: ENGINE,
                reason: chain(&error),
            },
        }
    }
}
