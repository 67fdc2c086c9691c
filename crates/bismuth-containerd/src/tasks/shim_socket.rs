//! Removes an orphaned shim and its socket. When the call that starts a shim is cut off (bismuthd was killed, or a deadline passed), containerd
//! may leave behind the shim's socket, and the shim itself behind it. The task is not there then, so nobody else ends them.
//!
//! ```text
//!   task gone ─► socket? ─┬─ none ──► nothing is left          (the usual end: the shim removes it)
//!                         ├─ nobody listens ──► remove it
//!                         └─ still served after 2 s ──► kill the shim of that id, remove it
//! ```
//!
//! containerd `pkg/shim/util_unix.go` (`runtime/v2/shim` in 1.6), `SocketAddress`: `/run/containerd/s/{sha256 of
//! "{address of containerd}/{namespace}/{container id}"}`, a path in containerd's own mount namespace.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use crate::client::Containerd;
use crate::images::Digest;

/// Where shims listen, whatever containerd's state directory is (containerd `defaults/defaults_unix.go`).
const SHIM_SOCKET_DIR: &str = "run/containerd/s";

/// The name of the socket of a container's own shim.
fn socket_name(containerd: &Path, namespace: &str, id: &str) -> String {
    let named = containerd.join(namespace).join(id);
    let digest = Digest::of(named.as_os_str().as_encoded_bytes());
    digest.as_str().trim_start_matches("sha256:").to_owned()
}

/// How long a shim whose task was deleted may take to end by itself; normally milliseconds.
const EXIT_GRACE: Duration = Duration::from_secs(2);
/// Between two probes of the socket.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What there is of a socket.
#[derive(Debug, PartialEq, Eq)]
enum Socket {
    Gone,
    Stale,
    Served,
}

/// Removes what is left of the shim of a container whose task is gone.
pub(super) async fn remove(containerd: &Containerd, id: &str) {
    // Whatever is in the way here costs a process or an empty file, and is no reason to keep the container's record.
    let Ok(server) = containerd.server_process().await else {
        return;
    };
    let name = socket_name(containerd.socket(), containerd.namespace(), id);
    // As that process sees it: it may have a mount namespace of its own.
    let path = PathBuf::from(format!(
        "/proc/{}/root/{SHIM_SOCKET_DIR}/{name}",
        server.pid
    ));
    let end = Instant::now() + EXIT_GRACE;
    while probe(&path) == Socket::Served && Instant::now() < end {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let found = probe(&path);
    if found == Socket::Gone {
        return;
    }
    let (namespace, id) = (containerd.namespace().to_owned(), id.to_owned());
    let removed = tokio::task::spawn_blocking(move || {
        let killed = match found {
            Socket::Served => kill_shims(&namespace, &id)?,
            Socket::Stale | Socket::Gone => 0,
        };
        std::fs::remove_file(&path)?;
        io::Result::Ok((id, killed))
    });
    match removed.await {
        Ok(Ok((id, killed))) => {
            tracing::info!(
                container = id,
                killed,
                "removed what containerd left of a shim"
            );
        }
        Ok(Err(error)) => tracing::warn!(%error, "cannot remove what containerd left of a shim"),
        Err(_panicked) => {}
    }
}

fn probe(path: &Path) -> Socket {
    match UnixStream::connect(path) {
        Ok(_) => Socket::Served,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Socket::Stale,
        Err(_) => Socket::Gone,
    }
}

/// Kills the shims that were started for a container; returns how many.
fn kill_shims(namespace: &str, id: &str) -> io::Result<usize> {
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        // Opened before it is looked at, so that it is the one that is killed. It may have ended since it was listed.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        if is_shim_of(&command.unwrap_or_default(), namespace, id) {
            pidfd_send_signal(&pidfd, Signal::KILL)?;
            killed += 1;
        }
    }
    Ok(killed)
}

/// `containerd-shim-… -namespace NAMESPACE -id ID …`, as containerd starts them.
fn is_shim_of(command: &[u8], namespace: &str, id: &str) -> bool {
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let has = |flag: &[u8], value: &str| {
        let mut pairs = words.windows(2);
        pairs.any(|pair| pair[0] == flag && pair[1] == value.as_bytes())
    };
    let program = words.first().copied().unwrap_or_default();
    let program = program.rsplit(|byte| *byte == b'/').next();
    program.is_some_and(|name| name.starts_with(b"containerd-shim"))
        && has(b"-namespace", namespace)
        && has(b"-id", id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_is_served_stale_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(probe(&path), Socket::Gone);
        let served = UnixListener::bind(&path).unwrap();
        assert_eq!(probe(&path), Socket::Served);
        drop(served);
        assert_eq!(probe(&path), Socket::Stale);
    }

    #[test]
    fn only_the_shim_of_that_container_is_meant() {
        let command =
            b"/usr/bin/containerd-shim-runc-v2\0-namespace\0bismuth\0-id\0a\0-address\0/c.sock\0";
        assert!(is_shim_of(command, "bismuth", "a"));
        assert!(!is_shim_of(command, "bismuth", "b"));
        assert!(!is_shim_of(command, "other", "a"));
        assert!(!is_shim_of(
            b"vi\0-namespace\0bismuth\0-id\0a",
            "bismuth",
            "a"
        ));
        assert!(!is_shim_of(b"", "bismuth", "a"));
    }
}
