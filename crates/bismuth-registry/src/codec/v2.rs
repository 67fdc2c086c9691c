//! Version 2 of the function record: version 1, and the secrets that the program is given. Frozen like version 1.
//!
//! A record without secrets is written in version 1, so that programs of before can read all that they could ever run.

use bismuth_model::{FunctionRecord, SecretUse};

use super::wire::{Decode, Encode};
use super::{FieldFault, v1};

/// The byte in front of a record of this version.
pub(super) const VERSION: u8 = 2;

#[derive(Encode, Decode)]
pub(super) struct Function {
    first: v1::Function,
    secrets: Vec<Secret>,
}

#[derive(Encode, Decode)]
struct Secret {
    name: String,
    env: Option<String>,
    file: Option<String>,
}

impl From<&FunctionRecord> for Function {
    fn from(record: &FunctionRecord) -> Self {
        let secrets = record.definition.secrets.iter().map(|secret| {
            let SecretUse { name, env, file } = secret.clone();
            Secret { name, env, file }
        });
        Self {
            first: record.into(),
            secrets: secrets.collect(),
        }
    }
}

impl TryFrom<Function> for FunctionRecord {
    type Error = FieldFault;

    fn try_from(wire: Function) -> Result<Self, FieldFault> {
        let mut record = Self::try_from(wire.first)?;
        let secrets = wire.secrets.into_iter().map(|secret| {
            let Secret { name, env, file } = secret;
            SecretUse { name, env, file }
        });
        record.definition.secrets = secrets.collect();
        Ok(record)
    }
}
