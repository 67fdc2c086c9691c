//! The service sockets that this node should have: written by the drivers, read by the reconciler.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bismuth_handover::{Attachment, TokenDigest};
use bismuth_model::ContainerId;
use tokio::sync::Notify;

use super::plan::Wanted;

/// The service sockets of this node's containers; clones share them.
#[derive(Clone, Debug, Default)]
pub struct ServiceSockets {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    sockets: Mutex<BTreeMap<ContainerId, ServiceSocket>>,
    changed: Notify,
}

/// The service socket of one container.
#[derive(Clone, Debug)]
pub(super) struct ServiceSocket {
    pub attachment: Attachment,
    /// What this process has of it.
    pub state: SocketState,
}

/// Who has the listening socket itself.
#[derive(Clone, Debug)]
pub(super) enum SocketState {
    /// Held here.
    Held(Arc<OwnedFd>),
    /// Made by an earlier process; the container's directory, where its namespaces are pinned.
    Lost(PathBuf),
}

impl ServiceSockets {
    /// Adds the socket of a container that is being started, in place of that of its last start.
    pub fn add(&self, attachment: Attachment, socket: OwnedFd) {
        let state = SocketState::Held(Arc::new(socket));
        self.insert(ServiceSocket { attachment, state });
    }

    /// Adds the socket of a container that an earlier process started. `dir` is where its namespaces are pinned.
    pub fn recover(&self, attachment: Attachment, dir: PathBuf) {
        let state = SocketState::Lost(dir);
        self.insert(ServiceSocket { attachment, state });
    }

    /// Removes the socket of a container that is gone, if it had one.
    pub fn remove(&self, container: ContainerId) {
        if self.sockets().remove(&container).is_some() {
            self.shared.changed.notify_one();
        }
    }

    fn insert(&self, socket: ServiceSocket) {
        self.sockets().insert(socket.attachment.container, socket);
        self.shared.changed.notify_one();
    }

    /// Returns when a socket was added or removed since the last call. Cancel safe.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// All sockets, for planning.
    pub(super) fn wanted(&self) -> BTreeMap<ContainerId, Wanted> {
        let wanted = |socket: &ServiceSocket| Wanted {
            token: socket.attachment.token,
            has_socket: matches!(socket.state, SocketState::Held(_)),
        };
        let sockets = self.sockets();
        sockets
            .iter()
            .map(|(id, socket)| (*id, wanted(socket)))
            .collect()
    }

    pub(super) fn get(&self, container: ContainerId) -> Option<ServiceSocket> {
        self.sockets().get(&container).cloned()
    }

    /// Keeps a socket that was found again, unless its container was started anew meanwhile.
    pub(super) fn set_held(&self, container: ContainerId, token: TokenDigest, found: OwnedFd) {
        if let Some(socket) = self.sockets().get_mut(&container)
            && socket.attachment.token == token
        {
            socket.state = SocketState::Held(Arc::new(found));
        }
    }

    fn sockets(&self) -> MutexGuard<'_, BTreeMap<ContainerId, ServiceSocket>> {
        self.shared
            .sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
