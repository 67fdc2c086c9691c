//! The socket of a shim, which containerd leaves behind when the call that starts the shim is cut off: bismuthd was killed, or a
//! deadline passed. The task is not there then, nothing listens, and nobody else removes the file.
//!
//! containerd `pkg/shim/util_unix.go` (`runtime/v2/shim` in 1.6), `SocketAddress`: `/run/containerd/s/{sha256 of
//! "{address of containerd}/{namespace}/{container id}"}`, a path in containerd's own mount namespace.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::client::Containerd;

/// Where shims listen, whatever containerd's state directory is (containerd `defaults/defaults_unix.go`).
const SOCKETS: &str = "run/containerd/s";

/// The name of the socket of a container's own shim.
fn socket_name(containerd: &Path, namespace: &str, id: &str) -> String {
    let named = containerd.join(namespace).join(id);
    let digest = Sha256::digest(named.as_os_str().as_encoded_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Removes the socket of a container whose task is gone, if it is there and nobody listens.
pub(super) async fn remove_stale(containerd: &Containerd, id: &str) {
    // Whatever is in the way is found again by the next teardown, and costs an empty file until then.
    let Ok(server) = containerd.server_process().await else {
        return;
    };
    let name = socket_name(containerd.socket(), containerd.namespace(), id);
    // As that process sees it: it may have a mount namespace of its own.
    let path = PathBuf::from(format!("/proc/{}/root/{SOCKETS}/{name}", server.pid));
    let removed = tokio::task::spawn_blocking(move || remove_unless_served(&path)).await;
    match removed {
        Ok(Ok(true)) => tracing::info!(
            container = id,
            "removed the socket of a shim that never was"
        ),
        Ok(Err(error)) => tracing::debug!(container = id, %error, "cannot remove a shim's socket"),
        Ok(Ok(false)) | Err(_) => {}
    }
}

fn remove_unless_served(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map(|()| true)
        }
        // A shim answers, or there is nothing.
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_socket_that_nobody_serves_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(!remove_unless_served(&path).unwrap());
        let served = UnixListener::bind(&path).unwrap();
        assert!(!remove_unless_served(&path).unwrap());
        drop(served);
        assert!(remove_unless_served(&path).unwrap());
        assert!(!path.exists());
    }
}
