//! Conformance of the secret store on every engine.

pub mod basics;
pub mod contention;
pub mod rewrap;
pub mod start;
pub mod tampering;

use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bismuth_store::Key;
use bismuth_store::records::Records;
use bismuth_store::secrets::{Flaw, Keyring, SecretError, Secrets};
use tempfile::TempDir;

use crate::test_engines::TestEngines;

/// A file of master keys.
pub struct Keys {
    dir: TempDir,
}

impl Keys {
    /// One, called `first`.
    pub fn new() -> Self {
        let keys = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        Keyring::create(&keys.path()).unwrap();
        keys.write(&["first"]);
        keys
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("master.keys")
    }

    /// Writes keys with these ids, the current one first. The bytes of a key are made of its id, and of what is after a colon.
    pub fn write(&self, ids: &[&str]) {
        let mut text = String::from("# keys\n");
        for id in ids {
            let (name, _) = id.split_once(':').unwrap_or((id, ""));
            let mut bytes = [b'.'; 32];
            bytes[..id.len()].copy_from_slice(id.as_bytes());
            writeln!(text, "{name} {}", STANDARD.encode(bytes)).unwrap();
        }
        // In place of the old one, as an editor does: whoever reads it meanwhile reads a whole file.
        let draft = self.dir.path().join("draft");
        fs::copy(self.path(), &draft).unwrap();
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, self.path()).unwrap();
    }

    /// Secrets in `records`, as a process has them that starts now.
    pub fn secrets(&self, records: Arc<dyn Records>) -> Arc<Secrets> {
        let ring = Keyring::load(&self.path()).unwrap();
        Arc::new(Secrets::new(records, ring))
    }
}

pub fn key(name: &str) -> Key {
    name.parse().unwrap()
}

/// A secret's value and version.
pub async fn read(secrets: &Secrets, group: &str, name: &str) -> Option<(String, u64)> {
    let secret = secrets.get(group, name, None).await.unwrap()?;
    let value = String::from_utf8(secret.value.to_vec()).unwrap();
    Some((value, secret.version))
}

pub async fn read_version(secrets: &Secrets, name: &str, version: u64) -> Option<String> {
    let secret = secrets.get("group", name, Some(version)).await.unwrap()?;
    assert_eq!(secret.version, version);
    Some(String::from_utf8(secret.value.to_vec()).unwrap())
}

/// A file of master keys, and the secrets of an engine under them.
pub fn new(engines: &dyn TestEngines) -> (Keys, Arc<Secrets>) {
    let keys = Keys::new();
    let secrets = keys.secrets(engines.records());
    (keys, secrets)
}

/// Checks a secret's value and version.
pub async fn assert_read(secrets: &Secrets, group: &str, name: &str, value: &str, version: u64) {
    let found = read(secrets, group, name).await;
    assert_eq!(
        found,
        Some((value.to_owned(), version)),
        "{name} of {group}"
    );
}

/// Checks that something was not done because what is stored is not what was written.
pub fn assert_broken<T: Debug>(done: Result<T, SecretError>) {
    assert!(matches!(done, Err(SecretError::Broken { .. })), "{done:?}");
}

/// Sets a secret; returns its version.
pub async fn set(secrets: &Secrets, group: &str, name: &str, value: &str) -> u64 {
    let stored = secrets.set(group, &key(name), value.as_bytes()).await;
    stored.unwrap().version
}

/// What is wrong with a group when a secret is read.
pub async fn flaw(secrets: &Secrets, group: &str, name: &str) -> Flaw {
    match secrets.get(group, name, None).await {
        Err(SecretError::Broken { group: its, flaw }) => {
            assert_eq!(its, group);
            flaw
        }
        other => panic!("{name} of {group} is not broken: {other:?}"),
    }
}
