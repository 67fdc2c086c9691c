//! HTTP upgrades: WebSocket, and a raw echo.

use futures_util::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::answers::{Body, full, with_status};

/// Answers a WebSocket handshake (RFC 6455) and echoes text and binary messages.
pub(crate) fn websocket(request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return with_status(StatusCode::BAD_REQUEST, "a WebSocket needs a key\n");
    };
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(async move {
        let upgraded = match hyper::upgrade::on(request).await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return eprintln!("echo-server: upgrade: {error}"),
        };
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
        let (sink, messages) = socket.split();
        let echoed = messages.filter(|message| {
            let content = message
                .as_ref()
                .is_ok_and(|message| message.is_text() || message.is_binary());
            std::future::ready(content || message.is_err())
        });
        if let Err(error) = echoed.forward(sink).await {
            eprintln!("echo-server: WebSocket: {error}");
        }
    });
    let mut response = switching("websocket");
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Upgrades to "echo": every byte comes back, and the end of what is sent ends what is answered.
pub(crate) fn raw(request: Request<Incoming>) -> Response<Body> {
    if request
        .headers()
        .get(header::UPGRADE)
        .is_none_or(|protocol| protocol != "echo")
    {
        return with_status(StatusCode::UPGRADE_REQUIRED, "upgrade to \"echo\" only\n");
    }
    tokio::spawn(async move {
        let upgraded = match hyper::upgrade::on(request).await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return eprintln!("echo-server: upgrade: {error}"),
        };
        let (mut reader, mut writer) = tokio::io::split(upgraded);
        if let Err(error) = tokio::io::copy(&mut reader, &mut writer).await {
            eprintln!("echo-server: upgraded connection: {error}");
        }
    });
    switching("echo")
}

fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
        .headers_mut()
        .insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}
