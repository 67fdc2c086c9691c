//! Keeps a ZooKeeper session: a supervisor task connects, reconnects, and publishes the connection and session states.

use std::sync::Arc;

use tokio::sync::watch::Sender;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::{ConnectOptions, RETRY, zk};
use crate::tree::SessionState;

/// Connection and session state, published by the supervisor to all calls and watches.
pub(super) struct ZkClient {
    pub(super) servers: String,
    pub(super) options: ConnectOptions,
    pub(super) connection: Sender<ConnectionState>,
    pub(super) session: Sender<SessionState>,
}

#[derive(Clone)]
pub(super) enum ConnectionState {
    Connected(Arc<zk::Client>),
    /// The client may be there and be looking for a server, or there is none.
    Disconnected {
        since: Instant,
        why: Arc<str>,
    },
}

impl ConnectionState {
    pub(super) fn disconnected(why: impl Into<Arc<str>>) -> Self {
        Self::Disconnected {
            since: Instant::now(),
            why: why.into(),
        }
    }

    /// The client if it can be asked right now. This state may lag behind the client by a moment.
    pub(super) fn client(&self) -> Option<&Arc<zk::Client>> {
        match self {
            Self::Connected(client) if client.state() == zk::SessionState::SyncConnected => {
                Some(client)
            }
            _ => None,
        }
    }
}

pub(super) async fn supervise(zk_client: Arc<ZkClient>) {
    loop {
        let client = Arc::new(zk_client.establish().await);
        let end = zk_client.watch_session(&client).await;
        warn!(servers = %zk_client.servers, session = %client.session_id(), state = %end, "the session ended, opening a new one");
        zk_client.publish(
            ConnectionState::disconnected(format!("the session ended ({end})")),
            SessionState::Expired,
        );
    }
}

impl ZkClient {
    async fn establish(&self) -> zk::Client {
        let mut delays = RETRY.delays();
        let mut failures = 0_u32;
        loop {
            let connector = zk::Client::connector()
                .with_session_timeout(self.options.session_timeout)
                .with_fail_eagerly();
            // The library bounds each attempt by the session timeout; twice that is a bound on its word.
            let attempt = timeout(
                self.options.session_timeout * 2,
                connector.connect(&self.servers),
            )
            .await;
            let why = match attempt {
                Ok(Ok(client)) => {
                    info!(servers = %self.servers, session = %client.session_id(), failures, "connected to ZooKeeper");
                    return client;
                }
                Ok(Err(error)) => error.to_string(),
                Err(elapsed) => elapsed.to_string(),
            };
            if failures == 0 {
                warn!(servers = %self.servers, error = %why, "cannot connect to ZooKeeper, trying on");
            } else {
                debug!(servers = %self.servers, error = %why, failures, "cannot connect to ZooKeeper");
            }
            failures = failures.saturating_add(1);
            self.set_disconnect_reason(&why);
            sleep(delays.next_delay()).await;
        }
    }

    /// Publishes the states of the client's session until a final one, and answers that.
    async fn watch_session(&self, client: &Arc<zk::Client>) -> zk::SessionState {
        let mut states = client.state_watcher();
        let mut state = states.state();
        while !state.is_terminated() {
            if state == zk::SessionState::SyncConnected {
                self.publish(
                    ConnectionState::Connected(client.clone()),
                    SessionState::Connected,
                );
            } else {
                warn!(servers = %self.servers, session = %client.session_id(), "lost the connection to ZooKeeper");
                self.publish(
                    ConnectionState::disconnected("the connection was lost"),
                    SessionState::Disconnected,
                );
            }
            state = states.changed().await;
        }
        state
    }

    // The connection state goes first: whoever is woken by the session's state finds it in place. Both always notify, also
    // of an unchanged value, because a short disconnection may have been skipped.
    fn publish(&self, connection: ConnectionState, state: SessionState) {
        self.connection.send_replace(connection);
        self.session.send_replace(state);
    }

    /// Replaces the reason of the disconnection, and leaves the time at which that began.
    fn set_disconnect_reason(&self, why: &str) {
        self.connection.send_modify(|connection| {
            if let ConnectionState::Disconnected { why: current, .. } = connection {
                *current = why.into();
            }
        });
    }

    pub(super) fn disconnect_reason(&self) -> String {
        match &*self.connection.borrow() {
            ConnectionState::Disconnected { why, .. } => {
                format!("no connection to ZooKeeper at {}: {why}", self.servers)
            }
            ConnectionState::Connected(_) => {
                format!("no connection to ZooKeeper at {}", self.servers)
            }
        }
    }
}
