//! Errors of calls to containerd, and which of them can be retried.
//!
//! Every error names the act and the object ("create task 6f1c…") and keeps the gRPC status it came from. The variant
//! tells the caller what to do: [`Error::NotFound`] is success for a teardown, [`Error::Unavailable`] and
//! [`Error::DeadlineExceeded`] leave the outcome unknown (list again, then decide), the rest will not get better by
//! trying the same again.

use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, Status};

/// The result of a conversation with containerd.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A call that containerd, or the connection to it, answered with an error.
#[derive(Debug, thiserror::Error)]
#[error("{act} {object}: {} (grpc {:?})", source.message(), source.code())]
pub struct Failure {
    /// What was attempted, as a verb phrase: "create task".
    pub act: &'static str,
    /// What it was attempted on: a container id, a digest, a snapshot key.
    pub object: String,
    /// The status as it came over the wire, or as the transport made it.
    #[source]
    pub source: Box<Status>,
}

/// An error of this crate. See the module's text for what each variant asks of the caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object does not exist.
    #[error(transparent)]
    NotFound(Failure),
    /// The object exists already.
    #[error(transparent)]
    AlreadyExists(Failure),
    /// The object is in a state that forbids the act (a running task cannot be deleted).
    #[error(transparent)]
    FailedPrecondition(Failure),
    /// containerd could not be reached, or went away during the call: the outcome is unknown.
    #[error(transparent)]
    Unavailable(Failure),
    /// containerd did not answer within the deadline: the outcome is unknown.
    #[error("{act} {object}: no answer from containerd within {after:?} (grpc DeadlineExceeded)")]
    DeadlineExceeded {
        /// What was attempted.
        act: &'static str,
        /// What it was attempted on.
        object: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// containerd refused or failed the call for another reason; for runtime errors the message carries the words of
    /// the shim and of runc or crun.
    #[error(transparent)]
    Failed(Failure),
    /// containerd's answer lacks something the protocol promises.
    #[error("{act} {object}: malformed answer from containerd: {reason}")]
    MalformedAnswer {
        /// What was attempted.
        act: &'static str,
        /// What it was attempted on.
        object: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The path cannot be a Unix socket's.
    #[error("containerd socket {}: {reason}", path.display())]
    InvalidSocket {
        /// The path as given.
        path: PathBuf,
        /// Why it cannot be used.
        reason: &'static str,
    },
    /// A namespace, lease or label that cannot be sent.
    #[error("{what} {value:?} is not valid: {reason}")]
    InvalidName {
        /// What kind of name: "containerd namespace", "lease".
        what: &'static str,
        /// The name as given.
        value: String,
        /// Why it cannot be used.
        reason: &'static str,
    },
    /// The containerd process could not be looked at.
    #[error("inspect the process behind {}", socket.display())]
    InspectPeer {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// An OCI runtime spec could not be turned into JSON.
    #[error("encode the runtime spec of {container}")]
    EncodeSpec {
        /// The container it was for.
        container: String,
        /// The encoder's error.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Sorts a gRPC status into the variant that says what to do about it.
    pub fn from_status(act: &'static str, object: impl Into<String>, status: Status) -> Self {
        // A status with a source was made on our side of the socket out of a transport error; tonic calls some of
        // these `Unknown` (a connection that broke during the call), which would read like containerd's own words.
        let transport = std::error::Error::source(&status).is_some();
        let code = status.code();
        let failure = Failure {
            act,
            object: object.into(),
            source: Box::new(status),
        };
        match code {
            _ if transport => Self::Unavailable(failure),
            Code::NotFound => Self::NotFound(failure),
            Code::AlreadyExists => Self::AlreadyExists(failure),
            Code::FailedPrecondition => Self::FailedPrecondition(failure),
            Code::Unavailable | Code::Aborted | Code::Cancelled => Self::Unavailable(failure),
            // The deadline was containerd's own (or that of its shim), not ours; for the caller it is the same
            // unknown outcome.
            Code::DeadlineExceeded => Self::Unavailable(failure),
            _ => Self::Failed(failure),
        }
    }

    /// The object was not there: what a teardown wants to hear.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// The call may or may not have taken effect; list again before deciding.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::DeadlineExceeded { .. })
    }
}

/// The answer, or `None` if the object does not exist.
pub(crate) fn unless_missing<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(error) if error.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// The answer, or `None` if the object exists already.
pub(crate) fn unless_exists<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(Error::AlreadyExists(_)) => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_act_the_object_and_the_code() {
        let error = Error::from_status("delete task", "abc", Status::not_found("no such process"));
        assert!(error.is_not_found());
        assert_eq!(
            error.to_string(),
            "delete task abc: no such process (grpc NotFound)"
        );
    }

    #[test]
    fn codes_become_the_variant_that_says_what_to_do() {
        let sorted = |code| Error::from_status("x", "y", Status::new(code, "z"));
        assert!(matches!(
            sorted(Code::AlreadyExists),
            Error::AlreadyExists(_)
        ));
        assert!(matches!(
            sorted(Code::FailedPrecondition),
            Error::FailedPrecondition(_)
        ));
        assert!(matches!(sorted(Code::Internal), Error::Failed(_)));
        assert!(matches!(sorted(Code::Unknown), Error::Failed(_)));
        for code in [
            Code::Unavailable,
            Code::Aborted,
            Code::Cancelled,
            Code::DeadlineExceeded,
        ] {
            assert!(sorted(code).is_outcome_unknown(), "{code:?}");
        }
    }

    #[test]
    fn a_broken_connection_is_unavailable_whatever_code_the_transport_chose() {
        let broken = Status::from_error(Box::new(std::io::Error::other("broken pipe")));
        assert_eq!(broken.code(), Code::Unknown);
        assert!(matches!(
            Error::from_status("x", "y", broken),
            Error::Unavailable(_)
        ));
    }
}
