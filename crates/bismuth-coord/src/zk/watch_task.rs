//! One task per watch: forwards its events, and sets the watch again after a reconnect or a new session.

use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::warn;

use super::client::ZkClient;
use super::{Inner, RETRY, zk};
use crate::error::Result;
use crate::watch::{Event, WatchSender};

/// Ends a watch's task when the watch is dropped, and keeps the tree going until then.
pub(super) struct WatchTaskGuard {
    pub(super) task: AbortHandle,
    pub(super) _tree: Arc<Inner>,
}

impl Drop for WatchTaskGuard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries events from the library's unbounded queue to the reader's bounded one, over any number of connections.
pub(super) async fn forward_events(
    zk_client: Arc<ZkClient>,
    path: String,
    mut watcher: zk::PersistentWatcher,
    sender: WatchSender,
) {
    loop {
        forward_events_until_reconnect(&mut watcher, &sender).await;
        // The old watcher goes when the new one is in place, so the library has nothing to take back.
        watcher = zk_client.set_watch_again(&path).await;
        sender.send(Event::Lost);
    }
}

/// Returns when the watch must be set anew: on another connection, or in another session.
async fn forward_events_until_reconnect(watcher: &mut zk::PersistentWatcher, sender: &WatchSender) {
    loop {
        let event = watcher.changed().await;
        let path = event.path;
        match (event.event_type, event.session_state) {
            (zk::EventType::NodeCreated, _) => sender.send(Event::Created { path }),
            (zk::EventType::NodeDataChanged, _) => sender.send(Event::Changed { path }),
            (zk::EventType::NodeDeleted, _) => sender.send(Event::Deleted { path }),
            // Recursive watches have none: the child itself is told of.
            (zk::EventType::NodeChildrenChanged, _) => {}
            (zk::EventType::Session, zk::SessionState::SyncConnected) => return,
            (zk::EventType::Session, state) if state.is_terminated() => return,
            (zk::EventType::Session, _) => {}
        }
    }
}

impl ZkClient {
    /// Sets the watch on the next connection, however long it takes until there is one.
    async fn set_watch_again(&self, path: &str) -> zk::PersistentWatcher {
        let mut delays = RETRY.delays();
        let mut connection = self.connection.subscribe();
        loop {
            if connection
                .wait_for(|connection| connection.client().is_some())
                .await
                .is_err()
            {
                // This client is ours, so its sender is there; waiting is the answer to what cannot be.
                std::future::pending::<()>().await;
            }
            match self.set_watch(path).await {
                Ok(watcher) => return watcher,
                Err(error) => {
                    warn!(
                        path,
                        error = &error as &dyn std::error::Error,
                        "cannot watch again, trying on"
                    );
                    sleep(delays.next_delay()).await;
                }
            }
        }
    }

    pub(super) async fn set_watch(&self, path: &str) -> Result<zk::PersistentWatcher> {
        let mode = zk::AddWatchMode::PersistentRecursive;
        self.read("watch", path, |client| async move {
            client.watch(path, mode).await
        })
        .await
    }
}
