//! The secret store, on an engine for records: reads, changes, and reloads master keys.
//!
//! Data keys are not kept in memory. They are read with the manifest anyway, so that all that is read is of one state, and to open one
//! takes a microsecond; what is not kept need not be forgotten when a group is purged by another process or a master key is taken away.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::{Mutex, RwLock};
use tokio::time::timeout;

use super::error::SecretError;
use super::group_secrets::{self, GroupSecrets, IfMissing};
use super::keyring::{Keyring, KeyringError};
use super::secret::{Secret, SecretStore};
use super::{MAX_SECRETS, MAX_VALUE_BYTES};
use crate::Key;
use crate::records::{
    Condition, EngineError, Keyspace, NO_BOUND, Page, Query, Record, RecordKey, Records, Refused,
    Write, now_ms,
};

/// How often a change is tried when others are quicker. Those of this process take turns, so it is other nodes' that are.
pub(super) const ATTEMPTS: usize = 100;
/// How long a change waits for its turn: some commits. Then it tries without: turns are there to be quick, the manifest's revision
/// to be right, and an engine that is away is to be told within a second.
const TURN: Duration = Duration::from_millis(200);
/// Records that are purged in one transaction: all that a group has, unless somebody added some.
const PURGED_AT_ONCE: NonZeroUsize =
    NonZeroUsize::new(MAX_SECRETS + 1).expect("it is more than zero");

/// The secrets of all groups.
pub struct Secrets {
    pub(super) records: Arc<dyn Records>,
    keyring: ArcSwap<Keyring>,
    /// Held while the file of master keys is read again.
    reading: Mutex<()>,
    /// Held while something is changed.
    turn: Mutex<()>,
    /// Held for reading from when a master key is chosen until a data key sealed under it is stored.
    pub(super) storing: RwLock<()>,
}

/// A secret without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSecret {
    /// What it is called.
    pub name: String,
    /// Which value it has: counts them.
    pub version: u64,
    /// When it was written, milliseconds since the Unix epoch.
    pub modified_ms: u64,
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredSecret {
    /// Its version.
    pub version: u64,
    /// Whether there was no secret of that name.
    pub created: bool,
}

impl Secrets {
    /// The secrets that are stored in `records`, sealed under the keys of `keyring`.
    #[must_use]
    pub fn new(records: Arc<dyn Records>, keyring: Keyring) -> Self {
        Self {
            records,
            keyring: ArcSwap::from_pointee(keyring),
            reading: Mutex::default(),
            turn: Mutex::default(),
            storing: RwLock::default(),
        }
    }

    /// A secret's current value, or that of a version, of which the current one and the one before are kept.
    ///
    /// # Errors
    /// When the engine is away, what it has is not what was written, or the master key is missing.
    pub async fn get(
        &self,
        group: &str,
        name: &str,
        version: Option<u64>,
    ) -> Result<Option<Secret>, SecretError> {
        self.load_group(group, Some(name))
            .await?
            .secret(name, version)
    }

    /// What secrets a group has, in the order of their names.
    ///
    /// # Errors
    /// As [`Secrets::get`].
    pub async fn list(&self, group: &str) -> Result<Vec<ListedSecret>, SecretError> {
        Ok(self.load_group(group, None).await?.list())
    }

    /// How many secrets a group has, also if they cannot be opened.
    ///
    /// # Errors
    /// When the engine is away.
    pub async fn count(&self, group: &str) -> Result<u64, EngineError> {
        let used = self.records.usage(group, Keyspace::Secret).await?;
        // Only to know whether there is one: it counts as a record of the group's and is no secret.
        let manifest = Query {
            prefix: group_secrets::manifest(group).key,
            ..Query::all(group, Keyspace::Secret, NonZeroUsize::MIN)
        };
        let manifests = self.records.list(&manifest).await?.entries.len();
        Ok(used.count.saturating_sub(manifests as u64))
    }

    /// Gives a secret a value, the first or another.
    ///
    /// # Errors
    /// As [`Secrets::get`], and when the value is empty or too long, or the group has too many secrets.
    pub async fn set(
        &self,
        group: &str,
        name: &Key,
        value: &[u8],
    ) -> Result<StoredSecret, SecretError> {
        self.put(group, name, value, IfMissing::Make).await
    }

    /// Gives a secret that is there another value; returns its version.
    ///
    /// # Errors
    /// As [`Secrets::set`], and when there is no such secret.
    pub async fn rotate(&self, group: &str, name: &Key, value: &[u8]) -> Result<u64, SecretError> {
        let stored = self.put(group, name, value, IfMissing::Refuse).await?;
        Ok(stored.version)
    }

    async fn put(
        &self,
        group: &str,
        name: &Key,
        value: &[u8],
        if_missing: IfMissing,
    ) -> Result<StoredSecret, SecretError> {
        let bytes = value.len();
        if bytes == 0 || bytes > MAX_VALUE_BYTES {
            return Err(SecretError::Size { bytes });
        }
        let name = name.as_str();
        self.change(group, name, |state, ring| {
            state.put(ring, name, value, if_missing, now_ms())
        })
        .await
    }

    /// Removes a secret, also one whose record is broken. The last one takes the group's data key with it.
    ///
    /// # Errors
    /// When there is no such secret, the engine is away, the group's data key or manifest is not what was written, or the master key is
    /// missing.
    pub async fn delete(&self, group: &str, name: &Key) -> Result<(), SecretError> {
        let name = name.as_str();
        self.change(group, name, |state, _| Ok((state.delete(name)?, ())))
            .await
    }

    /// Reads, plans and writes until nobody comes between.
    async fn change<T>(
        &self,
        group: &str,
        name: &str,
        plan: impl Fn(GroupSecrets, &Keyring) -> Result<(Vec<Write>, T), SecretError>,
    ) -> Result<T, SecretError> {
        let _turn = timeout(TURN, self.turn.lock()).await;
        for _ in 0..ATTEMPTS {
            let _storing = self.storing.read().await;
            let state = self.load_group(group, Some(name)).await?;
            let (batch, answer) = plan(state, &self.keyring.load())?;
            match self.records.write(batch).await {
                Ok(_) => return Ok(answer),
                Err(error) if is_contended(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(group))
    }

    /// Removes all of a group's secrets and its data key, whatever state they are in; returns how many secrets there were.
    ///
    /// # Errors
    /// When the engine is away.
    pub async fn purge(&self, group: &str) -> Result<u64, SecretError> {
        let mut purged = 0;
        for _ in 0..ATTEMPTS {
            let (batch, secrets) = self.purge_batch(group).await?;
            if batch.is_empty() {
                return Ok(purged);
            }
            match self.records.write(batch).await {
                Ok(_) => purged += secrets,
                Err(error) if is_contended(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(group))
    }

    /// What removes what a group has, if nobody changes it meanwhile; and how many secrets that are.
    async fn purge_batch(&self, group: &str) -> Result<(Vec<Write>, u64), EngineError> {
        let key = group_secrets::data_key(group);
        let query = Query::all(group, Keyspace::Secret, PURGED_AT_ONCE);
        let Page { entries, .. } = self.records.list(&query).await?;
        let found = self.records.get(&key).await?;
        let secrets = entries
            .iter()
            .filter(|(key, _)| group_secrets::is_secret(key));
        let secrets = secrets.count() as u64;
        let record_key = |key| RecordKey::new(group, Keyspace::Secret, key);
        let entries = entries
            .into_iter()
            .map(|(key, meta)| (record_key(key), meta));
        let all = entries.chain(found.map(|Record { meta, .. }| (key, meta)));
        let batch = all.map(|(record_key, meta)| {
            group_secrets::delete(record_key, Condition::OneOf(vec![meta.revision]))
        });
        Ok((batch.collect(), secrets))
    }

    /// What a group has in one state of the store. When it is sealed under a master key that is not known, the file is read again: the
    /// operator puts a new key there, and another node may be quicker to use it.
    async fn load_group(
        &self,
        group: &str,
        name: Option<&str>,
    ) -> Result<GroupSecrets, SecretError> {
        let record_keys = group_secrets::record_keys(group, name);
        let ring = self.keyring.load_full();
        let found = self.records.get_many(&record_keys, NO_BOUND).await?;
        let (group, id, path) = match GroupSecrets::open(&ring, group, found) {
            Err(SecretError::UnknownMasterKey {
                group, id, path, ..
            }) => (group, id, path),
            opened => return opened,
        };
        let ring = self.keyring_with(&id).await;
        let ring = ring.map_err(|reread| SecretError::UnknownMasterKey {
            group: group.clone(),
            id,
            path,
            reread: Some(Box::new(reread)),
        })?;
        // It may have been sealed anew since it was read, and the old master key been taken away.
        let found = self.records.get_many(&record_keys, NO_BOUND).await?;
        GroupSecrets::open(&ring, &group, found)
    }

    /// The master keys as they were read last.
    pub(super) fn keyring(&self) -> Arc<Keyring> {
        self.keyring.load_full()
    }

    /// The master keys, read again if `id` is not among them.
    async fn keyring_with(&self, id: &str) -> Result<Arc<Keyring>, KeyringError> {
        let _alone = self.reading.lock().await;
        let ring = self.keyring.load_full();
        if ring.get(id).is_some() {
            return Ok(ring);
        }
        self.load_keyring().await
    }

    /// The master keys, read again.
    pub(super) async fn reload_keyring(&self) -> Result<Arc<Keyring>, KeyringError> {
        let _alone = self.reading.lock().await;
        self.load_keyring().await
    }

    async fn load_keyring(&self) -> Result<Arc<Keyring>, KeyringError> {
        let path = self.keyring.load().path().to_owned();
        let load = {
            let path = path.clone();
            move || Keyring::load(&path)
        };
        let read = tokio::task::spawn_blocking(load).await;
        let read = read.map_err(|gone| KeyringError::Read {
            path,
            source: gone.into(),
        })?;
        let ring = Arc::new(read?);
        self.keyring.store(Arc::clone(&ring));
        Ok(ring)
    }
}

/// Whether what was read has changed before it was written.
pub(super) fn is_contended(error: &EngineError) -> bool {
    matches!(
        error.refusal(),
        Some(Refused::Condition { .. } | Refused::NotFound)
    )
}

pub(super) fn contended(group: &str) -> SecretError {
    let group = group.to_owned();
    SecretError::Contended { group }
}

#[async_trait]
impl SecretStore for Secrets {
    async fn get(
        &self,
        group: &str,
        name: &str,
        version: Option<u64>,
    ) -> Result<Option<Secret>, EngineError> {
        Ok(Secrets::get(self, group, name, version).await?)
    }
}
