//! Waiting until bismuth-init takes connections, and then taking its socket's directory away from
//! the function's user, so that nothing in the container can put another socket in its place.
//!
//! It blocks its thread, as waiting for a server does and for the same reasons.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bismuth_init::host;
use bismuth_sandbox::process::Process;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// bismuth-init is up in about a millisecond.
const FIRST_WAIT: Duration = Duration::from_micros(100);
/// Cheap, and far below what a person notices.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

/// Why bismuth-init does not answer.
#[derive(Debug, Error)]
pub enum AgentNotReady {
    /// It ended.
    #[error("bismuth-init ended")]
    Died,
    /// It does not listen.
    #[error("bismuth-init does not listen after {} ms", .0.as_millis())]
    Late(Duration),
    /// It is no longer wanted.
    #[error("the start was cancelled")]
    Cancelled,
    /// Watching its process failed.
    #[error("watch bismuth-init")]
    Watch(#[source] bismuth_sandbox::process::Error),
    /// Its directory could not be taken away from the function.
    #[error("seal {}", path.display())]
    Seal {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Blocks until the socket at `run_dir`/[`bismuth_init::SOCKET_NAME`] takes a connection.
pub(super) fn wait(
    run_dir: &Path,
    process: &Process,
    bound: Duration,
    cancelled: &CancellationToken,
) -> Result<(), AgentNotReady> {
    let started = Instant::now();
    let mut delay = FIRST_WAIT;
    let socket = super::agent_socket(run_dir);
    while UnixStream::connect(&socket).is_err() {
        if cancelled.is_cancelled() {
            return Err(AgentNotReady::Cancelled);
        }
        if started.elapsed() >= bound {
            return Err(AgentNotReady::Late(started.elapsed()));
        }
        if process.wait(delay).map_err(AgentNotReady::Watch)? {
            return Err(AgentNotReady::Died);
        }
        delay = (delay * 2).min(LONGEST_WAIT);
    }
    host::seal(run_dir).map_err(|source| AgentNotReady::Seal {
        path: run_dir.to_owned(),
        source,
    })
}
