//! Codec of a deployed definition, version 1. Frozen like the records of v1.rs.

use bismuth_model::{FunctionRecord, Revision, RevisionFate, RevisionRecord};
use bytes::Bytes;

use super::wire::{Decode, Encode};
use super::{Error, FieldFault, Record, decode, encode, largest_field, v2};

/// The definition stands in the form of a function record of version 2, which says all that a definition can.
#[derive(Encode, Decode)]
struct Deployed {
    function: v2::Function,
    fate: Fate,
}

#[derive(Encode, Decode)]
enum Fate {
    Pending,
    Proven,
    Failed(String),
}

impl Record for RevisionRecord {
    const NAME: &'static str = "revision record";

    fn encode(&self) -> Result<Bytes, Error> {
        let function = FunctionRecord {
            // The revision is in the path.
            revision: Revision(0),
            definition: self.definition.clone(),
            created_ms: self.created_ms,
            updated_ms: self.created_ms,
        };
        let wire = Deployed {
            function: v2::Function::from(&function),
            fate: match &self.fate {
                RevisionFate::Pending => Fate::Pending,
                RevisionFate::Proven => Fate::Proven,
                RevisionFate::Failed { reason } => Fate::Failed(reason.clone()),
            },
        };
        encode::<Self, _>(&wire, || largest_field(&self.definition))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let wire = decode::<Self, Deployed>(bytes)?;
        let function =
            FunctionRecord::try_from(wire.function).map_err(|FieldFault { field, reason }| {
                Error::Field {
                    record: Self::NAME,
                    field,
                    reason,
                }
            })?;
        Ok(Self {
            definition: function.definition,
            created_ms: function.created_ms,
            fate: match wire.fate {
                Fate::Pending => RevisionFate::Pending,
                Fate::Proven => RevisionFate::Proven,
                Fate::Failed(reason) => RevisionFate::Failed { reason },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use bismuth_model::{FunctionDefinition, InvokeMode, SecretUse};

    use super::*;

    /// A record of every fate reads back, and its bytes are those of a function record of version 2 and the fate: what
    /// is in ZooKeeper on somebody's machines never changes.
    #[test]
    fn the_form_is_that_of_a_function_record_of_version_2_and_the_fate() {
        let mode = InvokeMode::Executable(vec!["/bin/ls".to_owned()]);
        let mut definition = FunctionDefinition::new("alpine".parse().unwrap(), mode);
        definition.secrets.push(SecretUse {
            name: "key".to_owned(),
            env: Some("KEY".to_owned()),
            file: None,
        });
        let function = FunctionRecord {
            revision: Revision(0),
            definition: definition.clone(),
            created_ms: 3,
            updated_ms: 3,
        };
        let definition_bytes = function.encode().unwrap();
        for (fate, tail) in [
            (RevisionFate::Pending, b"\x00".as_slice()),
            (RevisionFate::Proven, b"\x01"),
            (
                RevisionFate::Failed {
                    reason: "no".to_owned(),
                },
                b"\x02\x02no",
            ),
        ] {
            let record = RevisionRecord {
                definition: definition.clone(),
                created_ms: 3,
                fate,
            };
            let bytes = record.encode().unwrap();
            assert_eq!(bytes[..], [b"\x01", &definition_bytes[1..], tail].concat());
            assert_eq!(RevisionRecord::decode(&bytes).unwrap(), record);
        }
    }
}
