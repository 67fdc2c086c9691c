//! The records of the blob index and of objects' states: encoding, and the writes that change them.

use bytes::Bytes;

use super::{Blob, charge};
use crate::objects::ObjectId;
use crate::records::{
    Change, Condition, EngineError, Keyspace, Record, RecordKey, Revision, Write,
};

/// The first byte of an entry. Another layout will have another.
const VERSION: u8 = 1;
/// Groups that states of objects are in.
const STATE_GROUPS: u128 = 64;
/// The state of an object that is written.
const WRITING: &[u8] = b"writing";
/// The state of an object that is to be removed.
const GARBAGE: &[u8] = b"garbage";

/// An entry of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) blob: Blob,
    /// Where its bytes are.
    pub(super) object: ObjectId,
}

impl Entry {
    pub(super) fn decode(record_key: &RecordKey, record: Record) -> Result<Self, EngineError> {
        let Some((object, size, sha256)) = parse(&record.value) else {
            let reason = format!("the entry of {:?} is unreadable", record_key.key);
            return Err(EngineError::broken("the index of blobs", reason));
        };
        let blob = Blob {
            revision: record.meta.revision,
            size,
            sha256,
            content_type: record.meta.content_type,
            modified_ms: record.meta.modified_ms,
        };
        Ok(Self { blob, object })
    }
}

/// `version, object, size, SHA-256`.
fn parse(value: &[u8]) -> Option<(ObjectId, u64, [u8; 32])> {
    let (&version, rest) = value.split_first()?;
    let (object, rest) = rest.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    if version != VERSION {
        return None;
    }
    let object = ObjectId(u128::from_be_bytes(*object));
    Some((object, u64::from_be_bytes(*size), rest.try_into().ok()?))
}

/// The change that puts an entry into the index.
pub(super) fn put_entry(
    key: &str,
    object: ObjectId,
    size: u64,
    sha256: &[u8; 32],
    content_type: Option<String>,
) -> Change {
    let object = object.0.to_be_bytes();
    let value: [&[u8]; 4] = [&[VERSION], &object, &size.to_be_bytes(), sha256];
    Change::Put {
        value: Bytes::from(value.concat()),
        content_type,
        ttl_ms: None,
        charge: charge(key, size),
    }
}

/// The state of an object that is not in the index, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ObjectState {
    Writing,
    Garbage,
}

impl ObjectState {
    pub(super) fn decode(record: &Record) -> Option<Self> {
        match &*record.value {
            value if value == WRITING => Some(Self::Writing),
            value if value == GARBAGE => Some(Self::Garbage),
            _ => None,
        }
    }
}

/// Where the state of an object is. Not all in one group, though no function sees any of them: who changes a group holds its lock, and a
/// node that stops in the middle of that must not stop all others' uploads.
pub(super) fn state_key(object: ObjectId) -> RecordKey {
    let group = format!("{:02x}", object.0 % STATE_GROUPS);
    RecordKey::new(group, Keyspace::Object, object.to_string())
}

/// Says that an object is written: for the first time, or still.
pub(super) fn mark_writing(object: ObjectId, condition: Condition) -> Write {
    put_state(object, condition, WRITING)
}

/// Says that an object is to be removed.
pub(super) fn mark_garbage(object: ObjectId) -> Write {
    put_state(object, Condition::Always, GARBAGE)
}

/// Says that an object is to be removed, if its state is still this one.
pub(super) fn mark_garbage_if(object: ObjectId, revision: Revision) -> Write {
    put_state(object, Condition::OneOf(vec![revision]), GARBAGE)
}

/// Forgets the state of an object, if it is still this one.
pub(super) fn delete_state(object: ObjectId, revision: Revision) -> Write {
    let this = Condition::OneOf(vec![revision]);
    Write::new(state_key(object), this, Change::Delete)
}

fn put_state(object: ObjectId, condition: Condition, state: &'static [u8]) -> Write {
    Write::new(state_key(object), condition, Change::put(state, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_back_and_anything_else_refused() {
        let Change::Put { value, charge, .. } = put_entry("key", ObjectId(7), 300, &[9; 32], None)
        else {
            unreachable!("an entry is put");
        };
        assert_eq!(charge, 303);
        assert_eq!(parse(&value), Some((ObjectId(7), 300, [9; 32])));
        assert_eq!(parse(&value[..value.len() - 1]), None);
        assert_eq!(parse(&[&value[..], &[0]].concat()), None);
        assert_eq!(parse(&[&[2], &value[1..]].concat()), None);
    }
}
