//! Answers the handover requests of one connected bismuthd.

use std::sync::Arc;
use std::time::Duration;

use bismuth_base::chain;
use bismuth_handover::{
    Answer, Connection, NodeName, Received, Request, SecretValue, TransportError,
};
use bismuth_store::secrets::SecretStore;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::socket_table::SocketTable;

/// bismuthd greets as soon as it is connected.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves it until its end.
pub(super) async fn serve(
    mut connection: Connection,
    sockets: Arc<SocketTable>,
    secrets: Arc<dyn SecretStore>,
) {
    let node = match tokio::time::timeout(HELLO_TIMEOUT, connection.handshake()).await {
        Ok(Ok(node)) => node,
        Ok(Err(error)) => {
            warn!(
                error = chain(&error),
                "a connection to the handover socket failed in the handshake"
            );
            return;
        }
        Err(_elapsed) => {
            warn!("a connection to the handover socket sent no Hello in time");
            return;
        }
    };
    info!(%node, "bismuthd is connected");
    match serve_requests(&mut connection, &node, &sockets, &*secrets).await {
        TransportError::Closed => info!(%node, "bismuthd has left; its containers are served on"),
        error => warn!(%node, error = chain(&error), "the connection of a bismuthd broke"),
    }
}

/// Answers requests; returns why there are no more.
async fn serve_requests(
    connection: &mut Connection,
    node: &NodeName,
    sockets: &SocketTable,
    secrets: &dyn SecretStore,
) -> TransportError {
    loop {
        let answered = match connection.next().await {
            Ok(received) => handle_request(connection, node, sockets, secrets, received).await,
            Err(end) => return end,
        };
        if let Err(end) = answered {
            return end;
        }
    }
}

async fn handle_request(
    connection: &mut Connection,
    node: &NodeName,
    sockets: &SocketTable,
    secrets: &dyn SecretStore,
    received: Received,
) -> Result<(), TransportError> {
    use std::os::fd::AsFd as _;
    let number = received.number;
    let mut socket = None;
    let answer = match (received.request, received.listener) {
        (Request::List, _) => {
            return connection
                .send_held_sockets(number, &sockets.held_sockets(node))
                .await;
        }
        (Request::Attach(attachment), Some(listener)) => {
            let container = attachment.container;
            debug!(%container, function = %attachment.function, group = %attachment.group, "attaching");
            done(sockets.attach(node, attachment, listener))
        }
        (Request::Detach(container), _) => {
            debug!(%container, "detaching");
            sockets.detach(node, container);
            Answer::Done
        }
        (Request::Duplicate(container), _) => match sockets.duplicate(node, container) {
            Ok(found) => {
                socket = found;
                match socket {
                    Some(_) => Answer::Listener,
                    None => Answer::Absent,
                }
            }
            failed => done(failed.map(drop)),
        },
        (Request::Secret { group, name }, _) => {
            match secrets.get(group.as_str(), &name, None).await {
                Ok(Some(secret)) => secret_answer(secret.value),
                Ok(None) => Answer::Absent,
                Err(error) => refused(error.to_string()),
            }
        }
        (Request::Hello { .. } | Request::Attach(_), _) => refused("unexpected request".to_owned()),
    };
    let socket = socket.as_ref().map(|socket| socket.as_fd());
    connection.answer(number, answer, socket).await
}

fn secret_answer(mut value: Zeroizing<Vec<u8>>) -> Answer {
    match SecretValue::new(std::mem::take(&mut *value)) {
        Some(value) => Answer::Secret(value),
        None => refused("the secret is longer than a message may be".to_owned()),
    }
}

fn done(result: std::io::Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => refused(error.to_string()),
    }
}

fn refused(reason: String) -> Answer {
    Answer::Refused { reason }
}
