//! Checks the master keys at start: one is made only where nothing is sealed yet, and those that are there open what is.
//!
//! ```text
//!   file of master keys ─┬─ there ──► does one of them open one of the stored data keys? ─┬─ yes, or none is stored ──► serve
//!                        │                                                                └─ no ──► refuse
//!                        └─ not there, to be made ─┬─ no data key is stored ──► make it
//!                                                  └─ there are some ─────────► refuse
//! ```
//!
//! Otherwise a lost file would be replaced in silence, and be missed when the first secret is asked for.

use std::path::{Path, PathBuf};

use thiserror::Error;
use tracing::warn;

use super::error::{Flaw, SecretError};
use super::group_secrets;
use super::keyring::{Keyring, KeyringError};
use super::store::Secrets;
use crate::records::{EngineError, Keyspace, NO_BOUND, RecordKey, Records};

/// Data keys that are read at a time: some ten kilobytes.
const AT_ONCE: usize = 100;

/// Why a start has not the master keys that it needs.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum MasterKeysError {
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(
        "there is no file of master keys {}, though the secrets of {groups} groups are sealed under one ({group} is one of them): \
         put the file back from its copy, or say where it is with --master-key-file; a new key would open none of them. \
         If it is lost for good, start once with --accept-lost-secrets",
        path.display()
    )]
    Lost {
        path: PathBuf,
        groups: usize,
        group: String,
    },
    #[error(
        "no master key in {} opens the secrets of any of the {groups} groups that have some: put back the file that they were sealed under, \
         or its lines below those of this one; if it is lost for good, start with --accept-lost-secrets",
        path.display()
    )]
    OpensNothing {
        path: PathBuf,
        groups: usize,
        #[source]
        first: Box<SecretError>,
    },
    #[error("learn whether secrets are sealed under a master key already")]
    Engine(#[source] EngineError),
}

/// The master keys of a file. If it is not there it may be made (`create`), unless something that is stored is sealed under
/// another; also then, if that is to be taken for lost (`accept_lost`).
///
/// # Errors
/// As [`MasterKeysError`] says.
pub async fn master_keys(
    path: &Path,
    create: bool,
    accept_lost: bool,
    records: &dyn Records,
) -> Result<Keyring, MasterKeysError> {
    match Keyring::load(path) {
        Err(KeyringError::Missing { .. }) if create => {}
        loaded => return Ok(loaded?),
    }
    let groups = records.groups(Keyspace::DataKey).await;
    let groups = groups.map_err(MasterKeysError::Engine)?;
    if let Some(group) = groups.first() {
        let lost = MasterKeysError::Lost {
            path: path.to_owned(),
            groups: groups.len(),
            group: group.clone(),
        };
        if !accept_lost {
            return Err(lost);
        }
        warn!(error = %lost, "making a master key all the same, as told");
    }
    Ok(Keyring::load_or_create(path)?)
}

impl Secrets {
    /// Makes sure that the master keys are those of what is stored: one of them opens the data key of one group, if any has one.
    /// One missing among others breaks its groups only, and is named when they are asked for.
    ///
    /// # Errors
    /// [`MasterKeysError::OpensNothing`], [`MasterKeysError::Engine`].
    pub async fn check_master_keys(&self) -> Result<(), MasterKeysError> {
        let ring = self.keyring();
        let groups = self.records.groups(Keyspace::DataKey).await;
        let groups = groups.map_err(MasterKeysError::Engine)?;
        let mut first = None;
        for some in groups.chunks(AT_ONCE) {
            let record_keys: Vec<RecordKey> = some
                .iter()
                .map(|group| group_secrets::data_key(group))
                .collect();
            let found = self.records.get_many(&record_keys, NO_BOUND).await;
            let found = found.map_err(MasterKeysError::Engine)?;
            for (group, record) in some.iter().zip(found) {
                // Purged since it was listed.
                let Some(record) = record else { continue };
                match group_secrets::unwrap(&ring, group, &record.value) {
                    Ok(_) => return Ok(()),
                    // Tells nothing of the master keys.
                    Err(SecretError::Broken {
                        flaw: Flaw::DataKeyForm,
                        ..
                    }) => {}
                    Err(error) => drop(first.get_or_insert(error)),
                }
            }
        }
        match first {
            None => Ok(()),
            Some(first) => Err(MasterKeysError::OpensNothing {
                path: ring.path().to_owned(),
                groups: groups.len(),
                first: Box::new(first),
            }),
        }
    }
}
