//! Errors: one line for the operator, and an exit code for each kind.

use std::io;
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
    /// No session with ZooKeeper.
    #[error(transparent)]
    Connect(bismuth_coord::Error),
    /// An error of the registry.
    #[error("{source}{hint}")]
    Registry {
        /// What it said.
        source: RegistryError,
        /// What to do about it, if that is known; with a separator in front.
        hint: &'static str,
    },
    /// A definition that is not allowed.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// Nothing at this path.
    #[error("{path}: there is no such record")]
    NoRecord {
        /// The path.
        path: String,
    },
    /// Not a record.
    #[error(transparent)]
    Record(#[from] JsonError),
    /// The new revision does not run.
    #[error(
        "revision {revision} of function {id} does not run, and requests still go to the old one: container {container} on node {node}: {reason}"
    )]
    RolloutFailed {
        /// The function.
        id: FunctionId,
        /// The new revision.
        revision: Revision,
        /// The container that failed.
        container: ContainerId,
        /// Where it is.
        node: std::net::Ipv4Addr,
        /// What its node says.
        reason: String,
    },
    /// A newer revision was written.
    #[error(
        "revision {revision} of function {id} was replaced by a newer one, or the function was deleted"
    )]
    RolloutOvertaken {
        /// The function.
        id: FunctionId,
        /// The revision that was waited for.
        revision: Revision,
    },
    /// It takes too long.
    #[error(
        "revision {revision} of function {id} did not run within {seconds} s, and requests still go to the old one"
    )]
    RolloutTimeout {
        /// The function.
        id: FunctionId,
        /// The revision that was waited for.
        revision: Revision,
        /// How long it was waited for.
        seconds: u64,
    },
    /// No exchange with a frontend or the API.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// One of our programs refused.
    #[error("{component}: {detail}")]
    Refused {
        /// Which.
        component: String,
        /// In its words.
        detail: String,
        /// The status.
        status: StatusCode,
    },
    /// The function itself answered with an error; its answer was printed.
    #[error("the function answered {0}")]
    FunctionFailed(StatusCode),
    /// The log ended early.
    #[error("the log broke off: {0}")]
    LogBroken(String),
    /// A file that cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that cannot be written.
    #[error("write {}", path.display())]
    WriteFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard input.
    #[error("read standard input")]
    Stdin(#[source] io::Error),
    /// What svcprovider was asked for was not done.
    #[error(transparent)]
    Service(#[from] CallError),
    /// A secret where everybody can read it.
    #[error(
        "the value of a secret is not taken from the command line, which every user of this machine and the shell's history can read: \
         give it on standard input, or in a file as @FILE"
    )]
    SecretInArguments,
    /// Nothing where there must be something.
    #[error("the value is empty")]
    EmptyValue,
    /// Too much.
    #[error("the value has more than {limit} bytes")]
    ValueTooLarge {
        /// What is allowed.
        limit: usize,
    },
    /// Others wrote at the same time.
    #[error(
        "blob {key} was created or deleted by others while it was sent, and is as they left it: try again"
    )]
    BlobContended {
        /// Which.
        key: String,
    },
    /// Other bytes.
    #[error("blob {key} did not arrive as it was sent: its SHA-256 digest is another")]
    Digest {
        /// Which.
        key: String,
    },
    /// The function is deleted, its data is not.
    #[error(
        "function {id} is deleted, but its data in group {group} is not (`bismuthctl group purge {group}` deletes it): {reason}"
    )]
    NotPurged {
        /// The function.
        id: FunctionId,
        /// Its group.
        group: ServiceGroup,
        /// Why.
        reason: String,
    },
    /// containerd's socket or namespace makes no sense.
    #[error(transparent)]
    Containerd(#[from] bismuth_containerd::Error),
    /// containerd does not do what is asked, or is not there.
    #[error("containerd at {}: {refusal}", socket.display())]
    ContainerdCall {
        /// Its socket.
        socket: PathBuf,
        /// What was asked and its words; what is below them says the same in other words.
        refusal: String,
    },
    /// An image.
    #[error(transparent)]
    Image(ImageError),
    /// The node has no claim on the embedded store.
    #[error(
        "node {0} does not have the services' embedded store; `bismuthctl store show` shows which node has"
    )]
    StoreNotHeld(std::net::Ipv4Addr),
    /// Inconsistencies are left.
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
