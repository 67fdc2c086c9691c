//! Any record as JSON, for people.

use bismuth_model::{
    Backend, ContainerRecord, FunctionId, FunctionRecord, NodeFacts, NodeRecord, StoreClaim,
};
use serde_json::Value;

use crate::codec::{self, Record};
use crate::{Layout, Place};

/// Why the bytes at a path cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Nothing of ours belongs there.
    #[error("{path} is not a place where Bismuth keeps anything")]
    UnknownPlace {
        /// The path as given.
        path: String,
    },
    /// What is there is not what belongs there.
    #[error("{path}: {source}")]
    Record {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        source: codec::Error,
    },
}

impl Layout {
    /// The record that `bytes` are, which were read at `path`. Nodes that hold nothing (directories, locks) are
    /// `null`, or their bytes as text if they hold something all the same.
    ///
    /// # Errors
    /// The path is none of ours, or the bytes are not what belongs there.
    pub fn json(&self, path: &str, bytes: &[u8]) -> Result<Value, JsonError> {
        let place = self.place(path).ok_or_else(|| JsonError::UnknownPlace {
            path: path.to_owned(),
        })?;
        let shown = match place {
            Place::Function(_) => show::<FunctionRecord>(bytes),
            Place::Backends(_) => show::<Vec<Backend>>(bytes),
            Place::Node(_) => show::<NodeRecord>(bytes),
            Place::Alive(_) => show::<NodeFacts>(bytes),
            Place::Container(..) => show::<ContainerRecord>(bytes),
            Place::Route(_) => show::<FunctionId>(bytes),
            Place::Store => show::<StoreClaim>(bytes),
            Place::Root
            | Place::Functions
            | Place::Nodes
            | Place::Containers(_)
            | Place::Routes
            | Place::Services
            | Place::Election => Ok(as_text(bytes)),
        };
        shown.map_err(|source| JsonError::Record {
            path: path.to_owned(),
            source,
        })
    }
}

fn show<R: Record>(bytes: &[u8]) -> Result<Value, codec::Error> {
    R::decode(bytes).map(|record| record.to_json())
}

fn as_text(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        Value::Null
    } else {
        Value::String(String::from_utf8_lossy(bytes).into_owned())
    }
}
