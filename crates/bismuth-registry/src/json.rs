//! Shows any record as JSON.

use bismuth_model::{
    Backend, ContainerRecord, FunctionId, FunctionRecord, LeaderRecord, NodeFacts, NodeRecord,
    RevisionRecord, Serving, Slot, StoreClaim, TermRecord,
};
use serde_json::Value;

use crate::codec::{self, Record};
use crate::{Layout, ZnodeKind};

/// Why the bytes at a path cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Nothing of ours belongs there.
    #[error("{path} is not a path that Bismuth uses")]
    UnknownPath {
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
        let kind = self
            .znode_kind(path)
            .ok_or_else(|| JsonError::UnknownPath {
                path: path.to_owned(),
            })?;
        let shown = match kind {
            ZnodeKind::Function(_) => show::<FunctionRecord>(bytes),
            ZnodeKind::Backends(_) => show::<Vec<Backend>>(bytes),
            ZnodeKind::Serving(_) => show::<Serving>(bytes),
            ZnodeKind::Slots(_) => show::<Vec<Slot>>(bytes),
            ZnodeKind::Revision(..) => show::<RevisionRecord>(bytes),
            ZnodeKind::Node(_) => show::<NodeRecord>(bytes),
            ZnodeKind::Alive(_) => show::<NodeFacts>(bytes),
            ZnodeKind::Container(..) => show::<ContainerRecord>(bytes),
            ZnodeKind::Route(_) => show::<FunctionId>(bytes),
            ZnodeKind::Store => show::<StoreClaim>(bytes),
            ZnodeKind::Leader => show::<LeaderRecord>(bytes),
            ZnodeKind::Term => show::<TermRecord>(bytes),
            ZnodeKind::Root
            | ZnodeKind::Functions
            | ZnodeKind::Revisions(_)
            | ZnodeKind::Nodes
            | ZnodeKind::Containers(_)
            | ZnodeKind::Routes
            | ZnodeKind::Services
            | ZnodeKind::Election => Ok(as_text(bytes)),
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
