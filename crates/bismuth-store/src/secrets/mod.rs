//! Secrets: sealed before they reach an engine, and verified when they are read back.
//!
//! ```text
//!  master key (a file) ──seals──► data key of the group ──seals──┬─► values of its secrets      AAD: group, name, version
//!   keyring.rs                     data_key.rs                   └─► manifest of the group      AAD: group
//!                                  Keyspace::DataKey "current"       name ─► version, digest of the record of its values
//!
//!  set rotate delete ─► read data key, manifest, record (one state, group_secrets.rs) ─► plan ─► one batch, if the manifest is still that one
//!  get               ─► read data key, manifest, record (one state, group_secrets.rs) ─► digest as the manifest says? ─► open
//! ```
//!
//! In `Keyspace::Secret` of a group are its manifest (`m`) and for each secret one record (`v/{name}`) with its current value and the one
//! before, so that what is kept of old values is bounded. The last secret takes manifest and data key with it: what was sealed under
//! the key, in old pages of a disk or in backups, can then be opened by nobody.
//!
//! Who can write to the engine, but has no master key, can
//! - read the names of secrets, which are keys of records, and how long values are, but no value;
//! - break secrets: a record that was edited, replayed, swapped, removed or added is refused as [`SecretError::Broken`], and neither served
//!   nor said not to be there. To delete a secret repairs what is wrong with its record, to purge the group what is wrong with the manifest;
//! - put back *everything* of a group as it once was, or remove everything of it. That cannot be told from inside the store: the newest
//!   state would have to be known elsewhere. Keep who may write to the engine few.
//!
//! To change the master key while serving: put a new line in front of the file, on every node that shares the records; call
//! [`Secrets::rewrap`] on each until it has nothing left to do; then remove the old line.

mod data_key;
mod error;
mod group_secrets;
pub mod keyring;
mod manifest;
mod rewrap;
pub mod seal;
mod secret;
mod start;
mod store;
mod versions;

pub use error::{Flaw, SecretError};
pub use keyring::{Keyring, KeyringError};
pub use rewrap::Rewrapped;
pub use secret::{Secret, SecretStore};
pub use start::{MasterKeysError, master_keys};
pub use store::{ListedSecret, Secrets, StoredSecret};

/// Bytes of the longest value.
pub const MAX_VALUE_BYTES: usize = 64 << 10;

/// Secrets of one group at most: the manifest is read with each of them, and stays below the mebibyte that a record may have, names of
/// 512 bytes included.
///
/// Both a read and a change cost what the manifest is long, so filling a group costs the square of its secrets. What that is
/// (`examples/full_group`, names of ten bytes, one core): a read takes 17 µs in a group of one secret, 54 µs in one of 300, 150 µs in a
/// full one; a change, most of which is its commit, 0.5 ms, 0.7 ms, 0.8 ms; filling a group writes 30 MB of manifests. Unoptimised
/// ciphers are a hundred times slower, which is why tests fill no more groups than they must.
pub const MAX_SECRETS: usize = 1000;
