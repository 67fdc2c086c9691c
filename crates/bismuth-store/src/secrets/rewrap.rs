//! Rewraps data keys under another master key, while secrets are read and written.
//!
//! ```text
//!   read the file again ─► wait for data keys that are being stored under the old key ─► each group: open, seal anew, store if it is still that one
//! ```
//!
//! Values and manifests are not touched: they are sealed under data keys, which stay.

use super::data_key::{self, Wrapped};
use super::error::SecretError;
use super::group_secrets;
use super::keyring::Keyring;
use super::store::{ATTEMPTS, Secrets, contended, is_contended};
use crate::records::{Condition, EngineError, Keyspace};

/// What sealing anew has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrapped {
    /// How many data keys were under another master key. 0 says that nothing is left to do, and that the others may go.
    pub groups: u64,
    /// The id of the master key that they all are under now.
    pub master_key: String,
}

impl Secrets {
    /// Reads the file of master keys again, and seals every data key under its first key. A group that cannot be opened keeps no other
    /// from it. May be repeated, also after a failure.
    ///
    /// # Errors
    /// When the file cannot be used, the engine is away, or there are data keys that do not open.
    pub async fn rewrap(&self) -> Result<Rewrapped, SecretError> {
        let ring = self.reload_keyring().await?;
        // Who begins from here on chooses the new key.
        drop(self.storing.write().await);
        let mut groups = 0;
        let mut failures = Vec::new();
        for group in self.records.groups(Keyspace::DataKey).await? {
            match self.rewrap_group(&ring, &group).await {
                Ok(true) => groups += 1,
                Ok(false) => {}
                Err(SecretError::Engine(
                    away @ (EngineError::Unavailable { .. } | EngineError::Full { .. }),
                )) => return Err(away.into()),
                Err(failure) => failures.push(failure),
            }
        }
        let failed = failures.len();
        if let Some(first) = failures.into_iter().next() {
            let first = Box::new(first);
            return Err(SecretError::NotRewrapped { failed, first });
        }
        Ok(Rewrapped {
            groups,
            master_key: ring.current().id().to_owned(),
        })
    }

    /// Whether the group's data key was under another master key.
    async fn rewrap_group(&self, ring: &Keyring, group: &str) -> Result<bool, SecretError> {
        let record_key = group_secrets::data_key(group);
        for _ in 0..ATTEMPTS {
            let Some(stored) = self.records.get(&record_key).await? else {
                return Ok(false);
            };
            let key = group_secrets::unwrap(ring, group, &stored.value)?;
            let under = Wrapped::parse(&stored.value).map(|wrapped| wrapped.master_key);
            if under == Some(ring.current().id()) {
                return Ok(false);
            }
            let wrapped = data_key::wrap(group, &key, ring.current())?;
            let still = Condition::OneOf(vec![stored.meta.revision]);
            let write = group_secrets::put(record_key.clone(), still, wrapped);
            match self.records.write(vec![write]).await {
                Ok(_) => return Ok(true),
                Err(error) if is_contended(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(group))
    }
}
