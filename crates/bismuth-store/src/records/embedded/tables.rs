//! The tables of the database file: encoding of keys and rows.
//!
//! ```text
//!   record   (keyspace, group, key)          → revision, times, charge, content type, and the value if it is small
//!   value    (keyspace, group, key)          → the value if it is not
//!   counter  (keyspace, group)               → usage, last revision
//!   expiry   (time, keyspace, group, key)    → nothing: what sweep walks
//!   commit   ()                              → number of the last commit, which tells whether one that failed was made
//! ```
//!
//! Values above [`INLINE`] are apart, so that listing reads keys and no values.

use bytes::{Buf as _, Bytes};
use redb::TableDefinition;

use crate::records::pending_batch::{Counter, Owner};
use crate::records::{Keyspace, Meta, Record, RecordKey, Revision, Usage};

pub(super) const RECORD: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("record");
pub(super) const VALUE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("value");
pub(super) const COUNTER: TableDefinition<'static, &[u8], (u64, u64, u64)> =
    TableDefinition::new("counter");
pub(super) const EXPIRY: TableDefinition<'static, &[u8], ()> = TableDefinition::new("expiry");
pub(super) const COMMIT: TableDefinition<'static, (), u64> = TableDefinition::new("commit");

/// The largest value, in bytes, that is stored with its record: some of them still share a page of 4 KiB.
pub(super) const INLINE: usize = 1024;

/// The first byte of a row. Another layout will have another.
const VERSION: u8 = 1;
const HAS_EXPIRY: u8 = 1;
const HAS_CONTENT_TYPE: u8 = 2;
const VALUE_IS_APART: u8 = 4;

/// `keyspace, length of the group, group`: what all keys of an owner begin with, and no other.
pub(super) fn owner_key(keyspace: Keyspace, group: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + group.len() + 64);
    key.push(keyspace.code());
    // Groups are names of at most some hundred bytes; what is longer would only share a prefix with itself.
    key.extend_from_slice(&u16::try_from(group.len()).unwrap_or(u16::MAX).to_be_bytes());
    key.extend_from_slice(group.as_bytes());
    key
}

/// The key of a record.
pub(super) fn row_key(record_key: &RecordKey) -> Vec<u8> {
    let mut key = owner_key(record_key.keyspace, &record_key.group);
    key.extend_from_slice(record_key.key.as_bytes());
    key
}

/// The key in the index of expiries: in the order of time.
pub(super) fn expiry_key(expires_ms: u64, row_key: &[u8]) -> Vec<u8> {
    [&expires_ms.to_be_bytes(), row_key].concat()
}

/// Time and record's key of an entry in the index of expiries.
pub(super) fn split_expiry_key(key: &[u8]) -> Option<(u64, &[u8])> {
    let (time, row_key) = key.split_first_chunk()?;
    Some((u64::from_be_bytes(*time), row_key))
}

/// Whose a key is.
pub(super) fn parse_owner(key: &[u8]) -> Option<(Owner, &[u8])> {
    let (&[keyspace, high, low], rest) = key.split_first_chunk()?;
    let (group, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
    let owner = Owner {
        keyspace: Keyspace::from_code(keyspace)?,
        group: std::str::from_utf8(group).ok()?.to_owned(),
    };
    Some((owner, rest))
}

/// A row of [`RECORD`], taken apart.
pub(super) struct Row<'a> {
    pub(super) meta: Meta,
    /// `None` if the value is in [`VALUE`].
    pub(super) value: Option<&'a [u8]>,
}

/// The row of a record.
pub(super) fn encode(record: &Record) -> Vec<u8> {
    let apart = record.value.len() > INLINE;
    let inline = if apart { &[] } else { &*record.value };
    let meta = &record.meta;
    let mut row = Vec::with_capacity(40 + inline.len());
    let mut flags = 0;
    for (flag, set) in [
        (HAS_EXPIRY, meta.expires_ms.is_some()),
        (HAS_CONTENT_TYPE, meta.content_type.is_some()),
        (VALUE_IS_APART, apart),
    ] {
        flags |= if set { flag } else { 0 };
    }
    row.extend_from_slice(&[VERSION, flags]);
    for number in [meta.revision.0, meta.modified_ms, meta.charge] {
        row.extend_from_slice(&number.to_le_bytes());
    }
    if let Some(expires_ms) = meta.expires_ms {
        row.extend_from_slice(&expires_ms.to_le_bytes());
    }
    if let Some(content_type) = &meta.content_type {
        let length = u32::try_from(content_type.len()).unwrap_or(u32::MAX);
        row.extend_from_slice(&length.to_le_bytes());
        row.extend_from_slice(content_type.as_bytes());
    }
    row.extend_from_slice(inline);
    row
}

/// Takes a row apart; `None` if it is none.
pub(super) fn decode(row: &[u8]) -> Option<Row<'_>> {
    let (&[version, flags], mut rest) = row.split_first_chunk()?;
    if version != VERSION {
        return None;
    }
    let revision = Revision(rest.try_get_u64_le().ok()?);
    let modified_ms = rest.try_get_u64_le().ok()?;
    let charge = rest.try_get_u64_le().ok()?;
    let expires_ms = match flags & HAS_EXPIRY {
        0 => None,
        _ => Some(rest.try_get_u64_le().ok()?),
    };
    let content_type = match flags & HAS_CONTENT_TYPE {
        0 => None,
        _ => Some(take_text(&mut rest)?),
    };
    let meta = Meta {
        revision,
        content_type,
        modified_ms,
        expires_ms,
        charge,
    };
    let value = (flags & VALUE_IS_APART == 0).then_some(rest);
    Some(Row { meta, value })
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(rest.try_get_u32_le().ok()?).ok()?;
    let text = rest.split_off(..length)?;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

/// A counter as it is stored.
pub(super) fn counter_row(counter: &Counter) -> (u64, u64, u64) {
    (counter.usage.bytes, counter.usage.count, counter.revision)
}

/// A stored counter.
pub(super) fn counter((bytes, count, revision): (u64, u64, u64)) -> Counter {
    Counter {
        usage: Usage { bytes, count },
        revision,
    }
}

/// A record of a row and its value.
pub(super) fn record(meta: Meta, value: &[u8]) -> Record {
    Record {
        value: Bytes::copy_from_slice(value),
        meta,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_row_is_read_back(
            (revision, modified_ms, charge) in any::<(u64, u64, u64)>(), expires_ms in any::<Option<u64>>(),
            content_type in prop::option::of(".{0,40}"), length in prop_oneof![0_usize..40, INLINE - 2..INLINE + 2],
        ) {
            let meta = Meta { revision: Revision(revision), content_type, modified_ms, expires_ms, charge };
            let value = vec![7; length];
            let row = encode(&record(meta.clone(), &value));
            let decoded = decode(&row).unwrap();
            prop_assert_eq!(decoded.meta, meta);
            prop_assert_eq!(decoded.value, (length <= INLINE).then_some(value.as_slice()));
        }

        #[test]
        fn no_bytes_make_decoding_panic(row in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&row);
            let _ = parse_owner(&row);
            let _ = split_expiry_key(&row);
        }
    }

    #[test]
    fn owners_do_not_share_a_prefix() {
        let key = row_key(&RecordKey::new("ab", Keyspace::Kv, "c"));
        assert!(!key.starts_with(&owner_key(Keyspace::Kv, "a")));
        let (owner, rest) = parse_owner(&key).unwrap();
        assert_eq!(
            (owner.keyspace, owner.group.as_str(), rest),
            (Keyspace::Kv, "ab", b"c".as_slice())
        );
    }

    #[test]
    fn a_stored_row_of_the_first_layout_stays_readable() {
        let golden = b"\x01\x03\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x01\0\0\0tv";
        let row = decode(golden).unwrap();
        assert_eq!(row.meta.revision, Revision(5));
        assert_eq!(row.meta.modified_ms, 6);
        assert_eq!(row.meta.charge, 7);
        assert_eq!(row.meta.expires_ms, Some(8));
        assert_eq!(row.meta.content_type.as_deref(), Some("t"));
        assert_eq!(row.value, Some(b"v".as_slice()));
    }
}
