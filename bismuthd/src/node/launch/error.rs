//! The errors of a start, and the status and code that requests get for each.

use std::time::Instant;

use bismuth_containerd::images::ImageError;
use bismuth_containerd::tasks::Exit;
use http::StatusCode;
use thiserror::Error;

use super::init_ready::InitNotReady;
use super::inject::InjectError;
use super::server_ready::ServerNotReady;
use super::user::UserError;
use crate::logs::copier::LogCopierError;
use crate::node::slot::StartFailure;
use crate::node::state_dir::StateError;
use crate::svcprovider::SecretsError;

/// Why a container was not started.
#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("get the image")]
    Image(#[source] ImageError),
    /// All ranges of host ids are taken.
    #[error("find a range of user ids for the function")]
    Ids(#[source] bismuth_sandbox::ids::Error),
    #[error("make the namespaces")]
    Namespaces(#[source] bismuth_sandbox::namespaces::Error),
    #[error("listen for the container's service requests")]
    ServiceSocket(#[source] bismuth_sandbox::netns::Error),
    #[error("make the container's token")]
    Token(#[source] std::io::Error),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Inject(InjectError),
    #[error("mount the root filesystem")]
    Rootfs(#[source] bismuth_sandbox::rootfs::Error),
    #[error("find the user")]
    User(#[from] UserError),
    #[error("open the log")]
    Log(#[from] LogCopierError),
    #[error("build the runtime spec of the container")]
    Spec(#[source] bismuth_containerd::spec::SpecError),
    #[error("start the container")]
    Containerd(#[source] bismuth_containerd::Error),
    #[error("the program {program:?} cannot be run: {message}")]
    Program { program: String, message: String },
    #[error("watch the process")]
    Process(#[source] bismuth_sandbox::process::Error),
    /// A descriptor could not be shared or registered with the runtime.
    #[error("watch a descriptor of the container")]
    Watch(#[source] std::io::Error),
    #[error("{act} {}", path.display())]
    Directory {
        act: &'static str,
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("the program ended before it answered: {exit}{tail}")]
    Died {
        exit: Exit,
        /// The last lines it printed, introduced, or empty.
        tail: String,
    },
    #[error("{source}{tail}")]
    NotReady {
        source: ServerNotReady,
        /// The last lines it printed, introduced, or empty.
        tail: String,
    },
    /// The program answered once and has ended since; the text says how.
    #[error("{0}")]
    Ended(String),
    #[error("wait for bismuth-init in the container")]
    Init(#[source] InitNotReady),
    #[error("save the state of the container")]
    State(#[from] StateError),
    /// The slot was taken away while it was being started.
    #[error("the start was cancelled")]
    Cancelled,
    /// A thread of ours panicked; logged there.
    #[error("an internal step of the start failed")]
    Internal,
}

impl LaunchError {
    /// A word for programs and the status that a waiting request gets.
    pub fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Image(_) => (StatusCode::BAD_GATEWAY, "image_unavailable"),
            Self::User(_) => (StatusCode::BAD_GATEWAY, "user_unknown"),
            Self::Program { .. } => (StatusCode::BAD_GATEWAY, "program_not_runnable"),
            Self::Died { .. } | Self::Ended(_) => (StatusCode::BAD_GATEWAY, "program_ended"),
            Self::NotReady {
                source: ServerNotReady::NotListening { .. } | ServerNotReady::NotHealthy { .. },
                ..
            } => (StatusCode::GATEWAY_TIMEOUT, "startup_timeout"),
            Self::Secrets(SecretsError::Unavailable { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, "secrets_unavailable")
            }
            Self::Secrets(_) => (StatusCode::BAD_GATEWAY, "secret_unusable"),
            Self::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "container_removed"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "node_failure"),
        }
    }

    /// Whether the same start may succeed later without the deployer changing anything: the registry is away,
    /// containerd restarts, the node has run out of something, or a step of ours failed. What the deployer has to mend
    /// is not (the image, the user, the program, a secret), nor is a program that does not answer.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Image(error) => error.is_transient(),
            Self::Secrets(error) => matches!(error, SecretsError::Unavailable { .. }),
            Self::NotReady { source, .. } => matches!(source, ServerNotReady::System(_)),
            Self::Inject(error) => matches!(error, InjectError::Io(_)),
            // The runtime's own words may be about the definition, such as a working directory that is not there.
            Self::Containerd(bismuth_containerd::Error::Failed(failure)) => {
                is_about_exhaustion(failure.source.message())
            }
            Self::User(_)
            | Self::Program { .. }
            | Self::Spec(_)
            | Self::Died { .. }
            | Self::Ended(_)
            | Self::Cancelled => false,
            Self::Containerd(_)
            | Self::Ids(_)
            | Self::Namespaces(_)
            | Self::ServiceSocket(_)
            | Self::Token(_)
            | Self::Rootfs(_)
            | Self::Log(_)
            | Self::Process(_)
            | Self::Watch(_)
            | Self::Directory { .. }
            | Self::Init(_)
            | Self::State(_)
            | Self::Internal => true,
        }
    }

    /// What requests are told until `until`.
    pub fn into_failure(self, until: Instant) -> StartFailure {
        let (status, code) = self.kind();
        StartFailure {
            status,
            code,
            reason: bismuth_base::chain(&self),
            until,
        }
    }

    /// Tells a program that cannot be run from secrets that could not be injected.
    pub(super) fn from_inject(error: InjectError, command: &[String]) -> Self {
        if error.is_about_the_program() {
            return Self::Program {
                program: command.first().cloned().unwrap_or_default(),
                message: error.to_string(),
            };
        }
        Self::Inject(error)
    }

    /// Tells a program that cannot be run from a runtime that does not work, by the runtime's message.
    ///
    /// runc and crun report it only as text, which ends up in the RPC's message. runc 1.1: `exec: "/x": stat /x: no such
    /// file or directory`, `exec /x: exec format error`. crun 1.8: ``executable file `/x` not found``, `open executable:
    /// Permission denied`, ``exec container process `/x`: Exec format error``.
    pub(super) fn from_start(error: bismuth_containerd::Error, command: &[String]) -> Self {
        let program = command.first().map_or("", String::as_str);
        let message = bismuth_base::chain(&error);
        let about_program = [
            &format!("exec: \"{program}\""),
            &format!("exec {program}:"),
            "executable file",
            "open executable",
            "exec container process",
        ];
        let about_program = about_program.iter().any(|part| message.contains(part));
        if about_program && !is_about_exhaustion(&message) {
            return Self::Program {
                program: program.to_owned(),
                message,
            };
        }
        Self::Containerd(error)
    }
}

/// Whether the machine had run out of something. containerd and the runtimes pass the operating system's errors on as text:
/// ENOSPC, EDQUOT, ENOMEM, EAGAIN (processes), EMFILE and ENFILE, in the words of Go's and C's libraries.
fn is_about_exhaustion(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "no space left on device",
        "cannot allocate memory",
        "resource temporarily unavailable",
        "too many open files",
        "disk quota exceeded",
    ]
    .iter()
    .any(|error| message.contains(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::fakes;

    #[test]
    fn transient_failures_are_told_from_those_the_deployer_has_to_fix() {
        let died = LaunchError::Died {
            exit: Exit {
                status: 1,
                at: std::time::SystemTime::UNIX_EPOCH,
            },
            tail: String::new(),
        };
        let user = UserError::Unknown {
            kind: "user",
            name: "nobody-here".into(),
            file: "/etc/passwd",
        };
        let broken = ImageError::IncompleteBody {
            act: "get blob".into(),
            reference: "image".into(),
            registry: "registry".into(),
            message: "end of file before message length reached".into(),
        };
        let secrets_away = SecretsError::Unavailable {
            reason: "no answer".into(),
        };
        let exhausted = LaunchError::NotReady {
            source: ServerNotReady::System(std::io::ErrorKind::OutOfMemory.into()),
            tail: String::new(),
        };
        let restarting = bismuth_containerd::Error::DeadlineExceeded {
            act: "create task",
            object: "c".into(),
            after: std::time::Duration::from_secs(10),
        };
        for (error, transient) in [
            (exhausted, true),
            (LaunchError::Containerd(restarting), true),
            (LaunchError::Image(fakes::registry_away()), true),
            (LaunchError::Image(fakes::image_unknown()), false),
            (LaunchError::Image(broken), false),
            (LaunchError::User(user), false),
            (died, false),
            (LaunchError::Secrets(secrets_away), true),
            (LaunchError::Internal, true),
        ] {
            assert_eq!(error.is_transient(), transient, "{error}");
        }
    }

    #[test]
    fn exhaustion_is_recognised_in_messages_of_the_runtime() {
        let full = "OCI runtime create failed: mkdir /run/x: no space left on device: unknown";
        let no_dir = "OCI runtime create failed: chdir to cwd (\"/a\"): no such file or directory";
        assert!(is_about_exhaustion(full));
        assert!(!is_about_exhaustion(no_dir));
    }
}
