//! Errors: one line for the operator, and an exit code for each kind.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use bismuth_base::chain;
use bismuth_containerd::images::ImageError;
use bismuth_model::{ContainerId, DefinitionError, FunctionId, Revision, ServiceGroup};
use bismuth_operator::CallError;
use bismuth_registry::{Error as RegistryError, JsonError};
use http::StatusCode;

use crate::client::ClientError;
use crate::terminal::escaped;

const FAILURE: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(bismuth_coord::Error),
    #[error("{source}{hint}")]
    Registry {
        source: RegistryError,
        /// What to do about it, if that is known; with a separator in front.
        hint: &'static str,
    },
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("{path}: there is no such record")]
    NoRecord { path: String },
    #[error(transparent)]
    Record(#[from] JsonError),
    #[error(
        "revision {revision} of function {id} does not run, and requests still go to the old one: container {container} on node {node}: {reason}"
    )]
    RolloutFailed {
        id: FunctionId,
        revision: Revision,
        container: ContainerId,
        node: std::net::Ipv4Addr,
        reason: String,
    },
    #[error(
        "revision {revision} of function {id} was replaced by a newer one, or the function was deleted"
    )]
    RolloutOvertaken { id: FunctionId, revision: Revision },
    #[error("node {ip} is not alive; --force assigns to it all the same")]
    NodeNotAlive { ip: Ipv4Addr },
    #[error(
        "node {ip} has {cores} cores and {memory} bytes of memory, less than the function may use; --force assigns to it all the same"
    )]
    NodeTooSmall {
        ip: Ipv4Addr,
        cores: u32,
        memory: u64,
    },
    #[error("function {id} has no earlier revision that has run")]
    NoEarlierRevision { id: FunctionId },
    #[error("revision {revision} of function {id} is not kept")]
    RevisionUnknown { id: FunctionId, revision: Revision },
    #[error(
        "revision {revision} of function {id} did not run within {seconds} s, and requests still go to the old one"
    )]
    RolloutTimeout {
        id: FunctionId,
        revision: Revision,
        seconds: u64,
    },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{component}: {detail}")]
    Refused {
        component: String,
        /// In its words.
        detail: String,
        status: StatusCode,
    },
    /// The function itself answered with an error; its answer was printed.
    #[error("the function answered {0}")]
    FunctionFailed(StatusCode),
    #[error("the log broke off: {0}")]
    LogBroken(String),
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {}", path.display())]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("read standard input")]
    Stdin(#[source] io::Error),
    #[error(transparent)]
    Service(#[from] CallError),
    /// A secret where everybody can read it.
    #[error(
        "the value of a secret is not taken from the command line, which every user of this machine and the shell's history can read: \
         give it on standard input, or in a file as @FILE"
    )]
    SecretInArguments,
    #[error("the value is empty")]
    EmptyValue,
    #[error("the value has more than {limit} bytes")]
    ValueTooLarge { limit: usize },
    #[error(
        "blob {key} was created or deleted by others while it was sent, and is as they left it: try again"
    )]
    BlobContended { key: String },
    #[error("blob {key} did not arrive as it was sent: its SHA-256 digest is another")]
    Digest { key: String },
    #[error(
        "function {id} is deleted, but its data in group {group} is not (`bismuthctl group purge {group}` deletes it): {reason}"
    )]
    NotPurged {
        id: FunctionId,
        group: ServiceGroup,
        reason: String,
    },
    /// containerd's socket or namespace makes no sense.
    #[error(transparent)]
    Containerd(#[from] bismuth_containerd::Error),
    #[error("containerd at {}: {refusal}", socket.display())]
    ContainerdCall {
        socket: PathBuf,
        /// What was asked and its words; what is below them says the same in other words.
        refusal: String,
    },
    #[error(transparent)]
    Image(ImageError),
    #[error(
        "node {0} does not have the services' embedded store; `bismuthctl store show` shows which node has"
    )]
    StoreNotHeld(std::net::Ipv4Addr),
    #[error("{0} inconsistenc{plural} {found}", plural = if *.0 == 1 { "y" } else { "ies" }, found = if *.1 { "left" } else { "found" })]
    Inconsistencies(usize, bool),
    /// Standard output.
    #[error("write to standard output")]
    Write(#[source] io::Error),
}

impl Error {
    /// The line for standard error; `None` if nobody is there to read the answer any more, as in
    /// `bismuthctl … | head`.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        if self.is_nobody_reading() {
            return None;
        }
        // Functions and foreign systems have words in it.
        let line = chain(self);
        Some(format!("bismuthctl: error: {}", escaped(&line)))
    }

    /// 1 failed, 2 not allowed, 3 not found.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        use RegistryError as R;
        match self {
            Self::Registry {
                source:
                    R::FunctionUnknown { .. }
                    | R::NodeUnknown { .. }
                    | R::ContainerUnknown { .. }
                    | R::BackendUnknown { .. },
                ..
            } => NOT_FOUND,
            Self::NoRecord { .. }
            | Self::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            } => NOT_FOUND,
            Self::Image(ImageError::UnknownImage { .. }) => NOT_FOUND,
            Self::Service(error) if error.is_not_found() => NOT_FOUND,
            Self::Definition(_)
            | Self::Service(CallError::Url { .. })
            | Self::SecretInArguments
            | Self::EmptyValue
            | Self::ValueTooLarge { .. }
            | Self::Record(JsonError::UnknownPath { .. }) => USAGE,
            Self::Write(_) if self.is_nobody_reading() => 0,
            _ => FAILURE,
        }
    }

    fn is_nobody_reading(&self) -> bool {
        matches!(self, Self::Write(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<RegistryError> for Error {
    fn from(source: RegistryError) -> Self {
        let hint = match &source {
            RegistryError::NotBootstrapped { .. } => ": `bismuthctl bootstrap` makes it",
            RegistryError::NodeUnknown { .. } => ": `bismuthctl provision` makes it a node",
            RegistryError::NodeInUse { .. } => {
                ": remove its backends first (`bismuthctl remove-backend`)"
            }
            RegistryError::UnknownOutcome { .. } => ": look before you try again",
            _ => "",
        };
        Self::Registry { source, hint }
    }
}
