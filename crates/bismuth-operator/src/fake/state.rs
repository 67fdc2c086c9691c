//! What the twin holds.

use std::collections::BTreeMap;

use bismuth_base::now_ms;
use bytes::Bytes;

/// Everything, by group.
#[derive(Default)]
pub struct State {
    /// The groups that have something.
    pub groups: BTreeMap<String, Group>,
    /// What is wrong with it.
    pub misbehaviour: Misbehaviour,
    /// Done once, after the next `HEAD` of a blob was answered: somebody else is faster.
    pub after_head: Option<fn(&mut State)>,
    revision: u64,
}

/// What a group has.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// By key.
    pub kv: BTreeMap<String, Entry>,
    /// By key.
    pub blobs: BTreeMap<String, Entry>,
    /// By name.
    pub secrets: BTreeMap<String, Secret>,
}

/// A value of a key, or a blob.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its bytes.
    pub value: Bytes,
    /// As it was given.
    pub content_type: Option<String>,
    /// With its quotes.
    pub etag: String,
    /// When it was written.
    pub modified_ms: u64,
    /// When it goes.
    pub expires_ms: Option<u64>,
}

/// A secret.
#[derive(Clone, Debug)]
pub struct Secret {
    /// Its values, oldest first.
    pub versions: Vec<Bytes>,
    /// When the newest was written.
    pub modified_ms: u64,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Nothing.
    #[default]
    None,
    /// It takes requests and never answers.
    Silent,
    /// Its engine is away.
    Unavailable,
    /// The bytes of a blob are not those that its digest is of.
    Corrupt,
    /// The answer breaks off in the middle of a blob.
    Cut,
}

impl State {
    /// A group, made if it is new.
    pub fn group(&mut self, name: &str) -> &mut Group {
        self.groups.entry(name.to_owned()).or_default()
    }

    /// Makes an entry that is written now.
    pub fn entry(&mut self, value: impl Into<Bytes>) -> Entry {
        self.revision += 1;
        Entry {
            value: value.into(),
            content_type: None,
            etag: format!("\"{:x}\"", 0x5f00 + self.revision),
            modified_ms: now_ms(),
            expires_ms: None,
        }
    }

    /// Groups without anything are not there.
    pub(super) fn tidy(&mut self) {
        self.groups.retain(|_, group| {
            !(group.kv.is_empty() && group.blobs.is_empty() && group.secrets.is_empty())
        });
    }
}
