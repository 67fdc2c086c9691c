//! A group's secrets as read from one state of the store, and the writes that change them. Pure, but for random numbers.
//!
//! ```text
//!   data key   manifest   record
//!      –          –         –      the group has none
//!      –          –         x      broken: added                   x: in the engine
//!      x          –         ·      broken: no manifest
//!      –          x         ·      broken: no data key
//!      x          x         –      none, or broken: removed        as the manifest says
//!      x          x         x      a secret, or broken: added, changed
//! ```

use super::MAX_SECRETS;
use super::data_key::{self, Wrapped};
use super::error::{Flaw, SecretError};
use super::keyring::Keyring;
use super::manifest::{Entry, Manifest};
use super::seal::{self, SealKey, Use};
use super::secret::Secret;
use super::store::{ListedSecret, StoredSecret};
use super::versions::{Version, Versions, digest};
use crate::records::{Change, Condition, Keyspace, Record, RecordKey, Revision, Write};

/// Keys of records. Never changed, because they are stored.
const DATA_KEY: &str = "current";
const MANIFEST: &str = "m";
const RECORDS: &str = "v/";

/// Where a group's data key is.
pub(super) fn data_key(group: &str) -> RecordKey {
    RecordKey::new(group, Keyspace::DataKey, DATA_KEY)
}

/// Whether a key in [`Keyspace::Secret`] is that of a secret.
pub(super) fn is_secret(key: &str) -> bool {
    key.starts_with(RECORDS)
}

pub(super) fn manifest(group: &str) -> RecordKey {
    RecordKey::new(group, Keyspace::Secret, MANIFEST)
}

fn record(group: &str, name: &str) -> RecordKey {
    RecordKey::new(group, Keyspace::Secret, format!("{RECORDS}{name}"))
}

/// What must be known of a group, and of one of its secrets, to say anything of it.
pub(super) fn record_keys(group: &str, name: Option<&str>) -> Vec<RecordKey> {
    let mut record_keys = vec![data_key(group), manifest(group)];
    record_keys.extend(name.map(|name| record(group, name)));
    record_keys
}

/// A group, and one of its secrets if one was asked for.
#[derive(Debug)]
pub(super) struct GroupSecrets {
    group: String,
    /// `None` if it has no secrets.
    opened: Option<OpenedGroup>,
    record: Option<Record>,
}

/// A group that has secrets.
#[derive(Debug)]
struct OpenedGroup {
    key: SealKey,
    manifest: Manifest,
    /// `None` if it is not stored yet.
    revision: Option<Revision>,
}

/// What becomes of a secret that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// It is made.
    Make,
    /// [`SecretError::NotFound`].
    Refuse,
}

impl GroupSecrets {
    /// Opens what was found at [`record_keys`].
    pub(super) fn open(
        ring: &Keyring,
        group: &str,
        found: Vec<Option<Record>>,
    ) -> Result<Self, SecretError> {
        let mut found = found.into_iter();
        let mut next = || found.next().flatten();
        let opened = match (next(), next()) {
            (None, None) => None,
            (Some(key), Some(manifest)) => {
                let key = unwrap(ring, group, &key.value)?;
                Some(OpenedGroup::new(group, key, &manifest)?)
            }
            (None, Some(_)) => return Err(Flaw::NoDataKey.of(group)),
            (Some(_), None) => return Err(Flaw::NoManifest.of(group)),
        };
        Ok(Self {
            group: group.to_owned(),
            opened,
            record: next(),
        })
    }

    pub(super) fn list(&self) -> Vec<ListedSecret> {
        let manifest = self.opened.iter().flat_map(|opened| opened.manifest.iter());
        let listed = manifest.map(|(name, entry)| ListedSecret {
            name: name.to_owned(),
            version: entry.version,
            modified_ms: entry.modified_ms,
        });
        listed.collect()
    }

    /// The value of the secret that was asked for; of its current version if none is given.
    pub(super) fn secret(
        &self,
        name: &str,
        version: Option<u64>,
    ) -> Result<Option<Secret>, SecretError> {
        let (Some(opened), Some(record), Some(versions)) =
            (&self.opened, &self.record, self.versions(name)?)
        else {
            return Ok(None);
        };
        let wanted = version.unwrap_or(versions.current.number);
        let Some(version) = versions.get(wanted) else {
            return Ok(None);
        };
        let to = value_of(&self.group, name, version.number);
        let value = seal::open(&opened.key, to, &version.sealed);
        Ok(Some(Secret {
            value: value.map_err(|_| self.changed(name))?,
            version: version.number,
            revision: value_revision(record.meta.revision, wanted == versions.current.number),
        }))
    }

    /// The values of the secret that was asked for, sealed, if they are those that the manifest tells of.
    fn versions(&self, name: &str) -> Result<Option<Versions>, SecretError> {
        let (entry, record) = match (self.entry(name), &self.record) {
            (None, None) => return Ok(None),
            (Some(entry), Some(record)) => (entry, record),
            (None, Some(_)) => return Err(Flaw::Added { name: name.into() }.of(&self.group)),
            (Some(_), None) => return Err(Flaw::Removed { name: name.into() }.of(&self.group)),
        };
        let versions = Versions::decode(record.value.clone())
            .filter(|_| digest(&record.value) == entry.digest)
            .filter(|versions| versions.current.number == entry.version);
        versions.map(Some).ok_or_else(|| self.changed(name))
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.opened.as_ref()?.manifest.get(name)
    }

    fn changed(&self, name: &str) -> SecretError {
        Flaw::Changed { name: name.into() }.of(&self.group)
    }

    /// What gives the secret that was asked for a new value.
    pub(super) fn put(
        self,
        ring: &Keyring,
        name: &str,
        value: &[u8],
        if_missing: IfMissing,
        now_ms: u64,
    ) -> Result<(Vec<Write>, StoredSecret), SecretError> {
        let before = self.versions(name)?;
        let created = before.is_none();
        if created {
            self.may_be_made(if_missing)?;
        }
        let group = self.group.as_str();
        let (mut opened, mut batch) = match self.opened {
            Some(opened) => (opened, Vec::new()),
            None => OpenedGroup::make(ring, group)?,
        };
        let previous = before.map(|before| before.current);
        // Counting never comes to the end of it.
        let version = previous
            .as_ref()
            .map_or(0, |it| it.number)
            .saturating_add(1);
        let current = Version {
            number: version,
            sealed: seal::seal(&opened.key, value_of(group, name, version), value)?.into(),
        };
        let bytes = Versions { current, previous }.encode();
        let entry = Entry {
            version,
            modified_ms: now_ms,
            digest: digest(&bytes),
        };
        batch.push(put(record(group, name), Condition::Always, bytes));
        opened.manifest.insert(name, entry);
        batch.push(opened.rewrite(group)?);
        Ok((batch, StoredSecret { version, created }))
    }

    fn may_be_made(&self, if_missing: IfMissing) -> Result<(), SecretError> {
        if if_missing == IfMissing::Refuse {
            return Err(SecretError::NotFound);
        }
        let count = self.opened.as_ref().map_or(0, |it| it.manifest.len());
        if count >= MAX_SECRETS {
            return Err(SecretError::TooMany);
        }
        Ok(())
    }

    /// What removes the secret that was asked for, also if its record is broken.
    pub(super) fn delete(self, name: &str) -> Result<Vec<Write>, SecretError> {
        if self.entry(name).is_none() && self.record.is_none() {
            return Err(SecretError::NotFound);
        }
        let mut batch = Vec::new();
        if let Some(found) = &self.record {
            let condition = Condition::OneOf(vec![found.meta.revision]);
            batch.push(delete(record(&self.group, name), condition));
        }
        let Some(mut opened) = self.opened else {
            return Ok(batch);
        };
        opened.manifest.remove(name);
        if opened.manifest.is_empty() {
            batch.push(delete(manifest(&self.group), opened.manifest_unchanged()));
            batch.push(delete(data_key(&self.group), Condition::Always));
        } else {
            batch.push(opened.rewrite(&self.group)?);
        }
        Ok(batch)
    }
}

impl OpenedGroup {
    fn new(group: &str, key: SealKey, stored: &Record) -> Result<Self, SecretError> {
        let bytes = seal::open(&key, Use::Manifest { group }, &stored.value);
        let manifest = bytes.ok().and_then(|bytes| Manifest::decode(&bytes));
        Ok(Self {
            key,
            manifest: manifest.ok_or_else(|| Flaw::Manifest.of(group))?,
            revision: Some(stored.meta.revision),
        })
    }

    /// A group's first state, and what stores its data key.
    fn make(ring: &Keyring, group: &str) -> Result<(Self, Vec<Write>), SecretError> {
        let key = SealKey::random()?;
        let wrapped = data_key::wrap(group, &key, ring.current())?;
        let opened = Self {
            key,
            manifest: Manifest::default(),
            revision: None,
        };
        Ok((
            opened,
            vec![put(data_key(group), Condition::Absent, wrapped)],
        ))
    }

    /// Holds as long as the manifest is the one that was read.
    fn manifest_unchanged(&self) -> Condition {
        match self.revision {
            None => Condition::Absent,
            Some(revision) => Condition::OneOf(vec![revision]),
        }
    }

    /// What stores the manifest.
    fn rewrite(&self, group: &str) -> Result<Write, SecretError> {
        let bytes = self.manifest.encode();
        let sealed = seal::seal(&self.key, Use::Manifest { group }, &bytes)?;
        Ok(put(manifest(group), self.manifest_unchanged(), sealed))
    }
}

/// Opens a data key as it is stored.
pub(super) fn unwrap(ring: &Keyring, group: &str, stored: &[u8]) -> Result<SealKey, SecretError> {
    let wrapped = Wrapped::parse(stored).ok_or_else(|| Flaw::DataKeyForm.of(group))?;
    let Some(master_key) = ring.get(wrapped.master_key) else {
        return Err(SecretError::UnknownMasterKey {
            group: group.to_owned(),
            id: wrapped.master_key.to_owned(),
            path: ring.path().to_owned(),
            reread: None,
        });
    };
    wrapped.open(group, master_key).map_err(|_| {
        let master_key = wrapped.master_key.to_owned();
        Flaw::DataKey { master_key }.of(group)
    })
}

/// Names one of the two values that a record has. The record's own revision names one state of it for ever, also over deletions, which
/// versions do not; and its last bit is made which of the two it is.
fn value_revision(record: Revision, is_current: bool) -> Revision {
    Revision(record.0 << 1 | u64::from(!is_current))
}

fn value_of<'a>(group: &'a str, name: &'a str, version: u64) -> Use<'a> {
    Use::Value {
        group,
        name,
        version,
    }
}

/// Secrets count for nothing of what a function may use: operators write them.
pub(super) fn put(record_key: RecordKey, condition: Condition, value: Vec<u8>) -> Write {
    let charge = value.len() as u64;
    Write::new(record_key, condition, Change::put(value, charge))
}

pub(super) fn delete(record_key: RecordKey, condition: Condition) -> Write {
    Write::new(record_key, condition, Change::Delete)
}
