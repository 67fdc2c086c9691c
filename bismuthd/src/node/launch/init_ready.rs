//! Waits until bismuth-init accepts connections, then closes its socket's directory to the function's user.
//!
//! Nothing in the container can put another socket in its place then.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bismuth_init::host;
use bismuth_sandbox::process::WatchedProcess;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;

/// bismuth-init is up in about a millisecond.
const FIRST_WAIT: Duration = Duration::from_micros(100);
/// Cheap, and far below what a person notices.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

/// Why bismuth-init does not answer.
#[derive(Debug, Error)]
pub enum InitNotReady {
    #[error("bismuth-init ended")]
    Died,
    #[error("bismuth-init does not listen after {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the start was cancelled")]
    Cancelled,
    #[error("wait for bismuth-init")]
    System(#[from] io::Error),
    #[error("seal {}", path.display())]
    Seal { path: PathBuf, source: io::Error },
}

/// Returns when the socket at `run_dir`/[`bismuth_init::SOCKET_NAME`] takes connections and is sealed.
pub(super) async fn wait(
    run_dir: &Path,
    process: &WatchedProcess,
    bound: Duration,
    cancelled: &CancellationToken,
) -> Result<(), InitNotReady> {
    tokio::select! {
        biased;
        listens = listens(run_dir, bound) => listens?,
        () = process.ended() => return Err(InitNotReady::Died),
        () = cancelled.cancelled() => return Err(InitNotReady::Cancelled),
    }
    let dir = run_dir.to_owned();
    // Changing a directory may wait for the disk.
    let sealed = tokio::task::spawn_blocking(move || host::seal(&dir)).await;
    let sealed = sealed.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    sealed.map_err(|source| InitNotReady::Seal {
        path: run_dir.to_owned(),
        source,
    })
}

async fn listens(run_dir: &Path, bound: Duration) -> Result<(), InitNotReady> {
    let socket = super::init_socket(run_dir);
    let mut attempts = Attempts::begin(FIRST_WAIT, LONGEST_WAIT)?;
    while UnixStream::connect(&socket).await.is_err() {
        if attempts.elapsed() >= bound {
            return Err(InitNotReady::Timeout(attempts.elapsed()));
        }
        attempts.next().await?;
    }
    Ok(())
}
