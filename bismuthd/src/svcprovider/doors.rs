//! The doors that should be there: written by the drivers, read by the keeper.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bismuth_handover::{Attachment, TokenDigest};
use bismuth_model::ContainerId;
use tokio::sync::Notify;

use super::plan::Wanted;

/// The doors of this node's containers; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Services {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    doors: Mutex<BTreeMap<ContainerId, Door>>,
    changed: Notify,
}

/// One door.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// Whose it is.
    pub attachment: Attachment,
    /// What this process has of it.
    pub socket: DoorSocket,
}

/// The listening socket of a door.
#[derive(Clone, Debug)]
pub(super) enum DoorSocket {
    /// Held here.
    Held(Arc<OwnedFd>),
    /// Made by an earlier process; the container's directory, where its namespaces are pinned.
    Lost(PathBuf),
}

impl Services {
    /// A container was given a new door. The door of its last start is gone.
    pub fn open(&self, attachment: Attachment, socket: OwnedFd) {
        let socket = DoorSocket::Held(Arc::new(socket));
        self.put(Door { attachment, socket });
    }

    /// A container that an earlier process started has a door. `dir` is where its namespaces are pinned.
    pub fn remember(&self, attachment: Attachment, dir: PathBuf) {
        let socket = DoorSocket::Lost(dir);
        self.put(Door { attachment, socket });
    }

    /// A container is gone, and its door with it, if it had one.
    pub fn close(&self, container: ContainerId) {
        if self.doors().remove(&container).is_some() {
            self.shared.changed.notify_one();
        }
    }

    fn put(&self, door: Door) {
        self.doors().insert(door.attachment.container, door);
        self.shared.changed.notify_one();
    }

    /// Returns when a door has come or gone since the last call. Cancel safe.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// All doors, for planning.
    pub(super) fn wanted(&self) -> BTreeMap<ContainerId, Wanted> {
        let wanted = |door: &Door| Wanted {
            token: door.attachment.token,
            has_socket: matches!(door.socket, DoorSocket::Held(_)),
        };
        let doors = self.doors();
        doors.iter().map(|(id, door)| (*id, wanted(door))).collect()
    }

    /// One door, if it is still there.
    pub(super) fn get(&self, container: ContainerId) -> Option<Door> {
        self.doors().get(&container).cloned()
    }

    /// Keeps a socket that was found again, unless its container was started anew meanwhile.
    pub(super) fn found(&self, container: ContainerId, token: TokenDigest, socket: OwnedFd) {
        if let Some(door) = self.doors().get_mut(&container)
            && door.attachment.token == token
        {
            door.socket = DoorSocket::Held(Arc::new(socket));
        }
    }

    fn doors(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Door>> {
        self.shared
            .doors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
