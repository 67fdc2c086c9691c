//! Encodes and decodes the records in the tree.
//!
//! ```text
//!  most records:    ├ version ┤├─ bincode form of the record of that version ─┤     v1.rs, v2.rs, wire.rs
//!  backend list:    ├ IPv4 + container id, 20 bytes each, repeated ───────────┤     bismuth-model
//!  slot list:       ├ the same with revision, role, flags, 30 bytes each ──────┤     bismuth-model
//!  worker node:     ├ 0 or 1 ─┤                                                     not schedulable, schedulable
//! ```
//!
//! A record is written in the oldest version that can say it and read in any. Reading bytes of any kind, from anybody, ends in a
//! record or an [`Error`]; it neither panics nor allocates more than a few megabytes.

mod election;
mod revision;
mod serving;
mod store_claim;
#[cfg(test)]
mod tests;
mod v1;
mod v2;
mod wire;

use std::fmt::Display;

use bismuth_coord::MAX_DATA_BYTES;
use bismuth_model::{Backend, ContainerRecord, FunctionId, FunctionRecord, NodeFacts, NodeRecord};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

/// Why bytes are not a record, or a record does not become bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing there.
    #[error("decode {record}: there are no bytes")]
    Empty {
        /// What was to be read.
        record: &'static str,
    },
    /// Written by a later program, or not by one of ours.
    #[error("decode {record}: version {version} is unknown to this program")]
    UnknownVersion {
        /// What was to be read.
        record: &'static str,
        /// The byte in front.
        version: u8,
    },
    /// Not the form of this record.
    #[error("decode {record}: {reason}")]
    Malformed {
        /// What was to be read.
        record: &'static str,
        /// Where it stopped making sense.
        reason: String,
    },
    /// Well-formed, but a value is none that the model has.
    #[error("decode {record}: {field}: {reason}")]
    Field {
        /// What was to be read.
        record: &'static str,
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// More than a znode may hold.
    #[error(
        "{record} has {bytes} bytes, at most {MAX_DATA_BYTES} are allowed; most of them are in {field}"
    )]
    TooLarge {
        /// What was to be written.
        record: &'static str,
        /// The part that takes most of it; `.` is the whole record.
        field: String,
        /// Its encoded size.
        bytes: usize,
    },
}

/// A field whose value the model does not have.
struct FieldFault {
    field: &'static str,
    reason: String,
}

impl FieldFault {
    fn new(field: &'static str, reason: impl Display) -> Self {
        Self {
            field,
            reason: reason.to_string(),
        }
    }
}

/// Something that a node of the tree holds.
pub trait Record: Sized + Serialize {
    /// What it is called in errors.
    const NAME: &'static str;

    /// The bytes to store.
    ///
    /// # Errors
    /// [`Error::TooLarge`] with the field that is to blame.
    fn encode(&self) -> Result<Bytes, Error>;

    /// The record in these bytes.
    ///
    /// # Errors
    /// Everything but [`Error::TooLarge`].
    fn decode(bytes: &[u8]) -> Result<Self, Error>;

    /// The record as an operator reads it.
    fn to_json(&self) -> Value {
        json_of(self)
    }
}

impl Record for FunctionRecord {
    const NAME: &'static str = "function record";

    fn encode(&self) -> Result<Bytes, Error> {
        let largest = || largest_field(&self.definition);
        if self.definition.secrets.is_empty() {
            encode::<Self, _>(&v1::Function::from(self), largest)
        } else {
            encode_in::<Self, _>(v2::VERSION, &v2::Function::from(self), largest)
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let record = match bytes.first() {
            Some(&v2::VERSION) => decode_in::<Self, v2::Function>(v2::VERSION, bytes)?.try_into(),
            _ => decode::<Self, v1::Function>(bytes)?.try_into(),
        };
        record.map_err(|FieldFault { field, reason }| Error::Field {
            record: Self::NAME,
            field,
            reason,
        })
    }
}

impl Record for ContainerRecord {
    const NAME: &'static str = "container record";

    fn encode(&self) -> Result<Bytes, Error> {
        encode::<Self, _>(&v1::Container::from(self), || largest_field(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode::<Self, v1::Container>(bytes).map(Into::into)
    }
}

impl Record for NodeFacts {
    const NAME: &'static str = "node facts";

    fn encode(&self) -> Result<Bytes, Error> {
        encode::<Self, _>(&v1::Facts::from(self), || largest_field(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode::<Self, v1::Facts>(bytes).map(Into::into)
    }
}

/// What a route holds: the function it leads to.
impl Record for FunctionId {
    const NAME: &'static str = "route";

    fn encode(&self) -> Result<Bytes, Error> {
        encode::<Self, _>(&v1::RouteTarget::from(self), || ".".to_owned())
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode::<Self, v1::RouteTarget>(bytes).map(Into::into)
    }

    fn to_json(&self) -> Value {
        serde_json::json!({ "function_id": self })
    }
}

impl Record for Vec<Backend> {
    const NAME: &'static str = "backend list";

    fn encode(&self) -> Result<Bytes, Error> {
        fitting::<Self>(Backend::encode_list(self), || ".".to_owned())
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        Backend::decode_list(bytes).map_err(|error| Error::Malformed {
            record: Self::NAME,
            reason: error.to_string(),
        })
    }
}

impl Record for NodeRecord {
    const NAME: &'static str = "node record";

    fn encode(&self) -> Result<Bytes, Error> {
        Ok(Bytes::from_static(if self.schedulable {
            &[1]
        } else {
            &[0]
        }))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match bytes {
            [] => Err(Error::Empty { record: Self::NAME }),
            [0] => Ok(Self { schedulable: false }),
            [1] => Ok(Self { schedulable: true }),
            _ => Err(Error::Malformed {
                record: Self::NAME,
                reason: "expected one byte, 0 or 1".to_owned(),
            }),
        }
    }
}

fn encode<R: Record, W: wire::Encode>(
    wire: &W,
    largest: impl FnOnce() -> String,
) -> Result<Bytes, Error> {
    encode_in::<R, W>(v1::VERSION, wire, largest)
}

fn encode_in<R: Record, W: wire::Encode>(
    version: u8,
    wire: &W,
    largest: impl FnOnce() -> String,
) -> Result<Bytes, Error> {
    let mut bytes = vec![version];
    wire::encode(wire, &mut bytes).map_err(|fault| Error::Malformed {
        record: R::NAME,
        reason: fault.to_string(),
    })?;
    fitting::<R>(bytes, largest)
}

fn fitting<R: Record>(bytes: Vec<u8>, largest: impl FnOnce() -> String) -> Result<Bytes, Error> {
    if bytes.len() > MAX_DATA_BYTES {
        return Err(Error::TooLarge {
            record: R::NAME,
            field: largest(),
            bytes: bytes.len(),
        });
    }
    Ok(bytes.into())
}

fn decode<R: Record, W: wire::Decode<()>>(bytes: &[u8]) -> Result<W, Error> {
    decode_in::<R, W>(v1::VERSION, bytes)
}

fn decode_in<R: Record, W: wire::Decode<()>>(version: u8, bytes: &[u8]) -> Result<W, Error> {
    let malformed = |reason| Error::Malformed {
        record: R::NAME,
        reason,
    };
    match bytes {
        [] => Err(Error::Empty { record: R::NAME }),
        _ if bytes.len() > MAX_DATA_BYTES => Err(malformed(format!(
            "{} bytes are more than a znode holds",
            bytes.len()
        ))),
        [found, rest @ ..] if *found == version => {
            let (wire, used) = wire::decode(rest).map_err(|fault| malformed(fault.to_string()))?;
            if used < rest.len() {
                return Err(malformed(format!(
                    "{} bytes are left over",
                    rest.len() - used
                )));
            }
            Ok(wire)
        }
        [version, ..] => Err(Error::UnknownVersion {
            record: R::NAME,
            version: *version,
        }),
    }
}

fn json_of(record: &impl Serialize) -> Value {
    // The records have no maps with keys other than strings, which is all that can fail here.
    serde_json::to_value(record).unwrap_or(Value::Null)
}

/// The path of the member that holds most of a record, as far down as one member does.
fn largest_field(record: &impl Serialize) -> String {
    let mut path = Vec::new();
    let mut value = json_of(record);
    while let Value::Object(members) = value {
        let total: usize = members.values().map(json_size).sum();
        let Some((name, member)) = members
            .into_iter()
            .max_by_key(|(_, member)| json_size(member))
        else {
            break;
        };
        if json_size(&member) * 2 < total && !path.is_empty() {
            break;
        }
        path.push(name);
        value = member;
    }
    if path.is_empty() {
        ".".to_owned()
    } else {
        path.join(".")
    }
}

fn json_size(value: &Value) -> usize {
    value.to_string().len()
}
