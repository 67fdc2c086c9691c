//! Sends one ZooKeeper request with a deadline, retries reads, and classifies errors.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::{ConnectionState, ZkClient};
use super::zk;
use crate::error::{Cause, Error, Result};
use crate::tree::{CreateMode, Version, Versioned};

/// Everybody may read and write: access to ZooKeeper is limited by the network it is in.
const OPEN_TO_ALL: zk::Acls<'static> = zk::Acls::anyone_all();

impl ZkClient {
    /// The client, as soon as it is connected, but not for longer than `connected_wait` after it was not.
    pub(super) async fn connected(&self, act: &'static str, path: &str) -> Result<Arc<zk::Client>> {
        let mut connection = self.connection.subscribe();
        let since = match &*connection.borrow() {
            ConnectionState::Disconnected { since, .. } => *since,
            ConnectionState::Connected(_) => Instant::now(),
        };
        let up = connection.wait_for(|connection| connection.client().is_some());
        if let Ok(Ok(connection)) = timeout_at(since + self.options.connected_wait, up).await
            && let Some(client) = connection.client()
        {
            return Ok(client.clone());
        }
        Err(Error::Unavailable {
            act,
            path: path.to_owned(),
            source: self.disconnect_reason().into(),
        })
    }

    /// Asks until there is an answer or the deadline passes.
    pub(super) async fn read<T, F>(
        &self,
        act: &'static str,
        path: &str,
        ask: impl Fn(Arc<zk::Client>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, zk::Error>>,
    {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let client = self.connected(act, path).await?;
            let source = match answer(&client, deadline, ask(client.clone())).await {
                Ok(value) => return Ok(value),
                Err(RequestError::Failed(error)) => match classify(act, path, error) {
                    ErrorClass::Answer(error) => return Err(error),
                    ErrorClass::Unexpected(source) => {
                        return Err(Error::Refused {
                            act,
                            path: path.to_owned(),
                            source,
                        });
                    }
                    ErrorClass::Lost(source) => source,
                },
                Err(RequestError::Lost(source)) => source,
            };
            if Instant::now() >= deadline {
                return Err(Error::Unavailable {
                    act,
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }

    /// Asks once.
    pub(super) async fn change<T, F>(
        &self,
        act: &'static str,
        path: &str,
        ask: impl FnOnce(Arc<zk::Client>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, zk::Error>>,
    {
        let client = self.connected(act, path).await?;
        let deadline = Instant::now() + self.options.timeout;
        match answer(&client, deadline, ask(client.clone())).await {
            Ok(value) => Ok(value),
            Err(RequestError::Failed(error)) => {
                Err(classify(act, path, error).into_change_error(act, path))
            }
            Err(RequestError::Lost(source)) => Err(Error::UnknownOutcome {
                act,
                path: path.to_owned(),
                source,
            }),
        }
    }
}

pub(super) enum RequestError<E> {
    /// The library answered with an error.
    Failed(E),
    /// There was no answer.
    Lost(Cause),
}

/// Waits for the answer to a request, the loss of the connection, or the deadline. An answer that is there is
/// preferred over the others. The library takes a dropped request as it is: sent, with nobody waiting.
pub(super) async fn answer<T, E>(
    client: &zk::Client,
    deadline: Instant,
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, RequestError<E>> {
    tokio::select! {
        biased;
        result = request => result.map_err(RequestError::Failed),
        state = disconnected(client) => Err(RequestError::Lost(format!("the session is now {state}").into())),
        () = sleep_until(deadline) => Err(RequestError::Lost("no answer came in time".into())),
    }
}

pub(super) async fn disconnected(client: &zk::Client) -> zk::SessionState {
    let mut states = client.state_watcher();
    let mut state = states.state();
    while state == zk::SessionState::SyncConnected {
        state = states.changed().await;
    }
    state
}

pub(super) enum ErrorClass {
    /// The service answered, or refused, and nothing was changed.
    Answer(Error),
    /// The connection ended before an answer.
    Lost(Cause),
    /// Something that should not be, and that says nothing about what was changed.
    Unexpected(Cause),
}

impl ErrorClass {
    pub(super) fn into_change_error(self, act: &'static str, path: &str) -> Error {
        match self {
            Self::Answer(error) => error,
            Self::Lost(source) | Self::Unexpected(source) => Error::UnknownOutcome {
                act,
                path: path.to_owned(),
                source,
            },
        }
    }
}

pub(super) fn classify(act: &'static str, path: &str, error: zk::Error) -> ErrorClass {
    use zk::Error as E;
    let path = path.to_owned();
    match error {
        E::NoNode => ErrorClass::Answer(Error::NotFound { act, path }),
        E::NodeExists => ErrorClass::Answer(Error::AlreadyExists { path }),
        E::BadVersion => ErrorClass::Answer(Error::BadVersion { act, path }),
        E::NotEmpty => ErrorClass::Answer(Error::NotEmpty { path }),
        E::NoChildrenForEphemerals => ErrorClass::Answer(Error::EphemeralParent { path }),
        // The server is overloaded and did not take the request.
        E::Throttled => ErrorClass::Answer(Error::Unavailable {
            act,
            path,
            source: error.into(),
        }),
        E::NoAuth
        | E::InvalidAcl
        | E::QuotaExceeded
        | E::MarshallingError
        | E::Unimplemented
        | E::NotReadOnly
        | E::BadArguments(_) => ErrorClass::Answer(Error::Refused {
            act,
            path,
            source: error.into(),
        }),
        // `Custom` is what a socket says. In all of these the client has left the connected state already.
        E::ConnectionLoss
        | E::SessionExpired
        | E::SessionMoved
        | E::ClientClosed
        | E::AuthFailed
        | E::Timeout
        | E::NoHosts
        | E::Custom(_) => ErrorClass::Lost(error.into()),
        other => ErrorClass::Unexpected(other.into()),
    }
}

pub(super) fn versioned(client: &zk::Client, data: Vec<u8>, stat: zk::Stat) -> Versioned {
    Versioned {
        data: Bytes::from(data),
        version: Version(stat.version),
        created_ms: u64::try_from(stat.ctime).unwrap_or(0),
        modified_ms: u64::try_from(stat.mtime).unwrap_or(0),
        ephemeral: stat.ephemeral_owner != 0,
        mine: stat.ephemeral_owner != 0 && stat.ephemeral_owner == client.session_id().0,
    }
}

pub(super) fn options_of(mode: CreateMode) -> zk::CreateOptions<'static> {
    match mode {
        CreateMode::Persistent => zk::CreateMode::Persistent.with_acls(OPEN_TO_ALL),
        CreateMode::Ephemeral => zk::CreateMode::Ephemeral.with_acls(OPEN_TO_ALL),
    }
}
