//! Server-sent events, upgrades, trailers, interim and early responses.

use anyhow::{Context, Result, bail, ensure};
use bismuth_testkit::http::{self as client, full};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use crate::common::{BodyReader, Deployed, channel_body, echo_server, header, soon};

#[tokio::test(flavor = "multi_thread")]
async fn each_server_sent_event_is_seen_before_the_next_is_triggered() -> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let answer = client::send(Request::get(deployed.url("/sse?n=5")).body(full(""))?).await?;
    ensure!(
        header(&answer, "content-type") == "text/event-stream",
        "{answer:?}"
    );
    let mut reader = BodyReader::new(answer);
    for number in 0..5 {
        client::post(&deployed.url("/trigger"), "").await?;
        let event = reader.event().await?;
        ensure!(
            event == format!("id: {number}\ndata: event {number}\n\n"),
            "{event:?}"
        );
    }
    ensure!(reader.rest().await?.is_empty(), "more than five events");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_echoes_through_both_hops_until_it_is_closed() -> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let url = deployed.url("/ws").replacen("http", "ws", 1);
    let uri: http::Uri = url.parse()?;
    let authority = uri.authority().context("no host")?.as_str();
    let stream = TcpStream::connect(authority).await?;
    let (mut socket, answer) = tokio_tungstenite::client_async(&url, stream).await?;
    ensure!(
        !header(&answer, "x-bismuth-container-id").is_empty(),
        "{answer:?}"
    );

    let large = Bytes::from(vec![7; 200_000]);
    for message in [
        Message::text("hello"),
        Message::text("grüße"),
        Message::binary(large),
        Message::text(""),
    ] {
        socket.send(message.clone()).await?;
        let echoed = soon("an echo", socket.next())
            .await?
            .context("the socket ended")??;
        ensure!(echoed == message, "{message:?} came back as {echoed:?}");
    }
    let reason = CloseFrame {
        code: CloseCode::Normal,
        reason: "that was all".into(),
    };
    socket.close(Some(reason.clone())).await?;
    match soon("the close", socket.next()).await? {
        Some(Ok(Message::Close(Some(frame)))) => ensure!(frame == reason, "{frame:?}"),
        other => bail!("not a close: {other:?}"),
    }
    ensure!(
        soon("the end", socket.next()).await?.is_none(),
        "something after the close"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_carries_any_bytes_and_its_halves_close_apart() -> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let mut raw = deployed.connect().await?;
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly bytes",
        deployed.path("/upgrade")
    );
    raw.send(head).await?;
    let answer = raw.head().await?;
    ensure!(
        answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: echo"),
        "{answer}"
    );
    ensure!(
        raw.exactly(11).await? == b"early bytes",
        "bytes that came with the head are lost"
    );
    let all: Vec<u8> = (0..=255).collect();
    raw.send(&all).await?;
    ensure!(raw.exactly(256).await? == all, "not every byte comes back");
    raw.send("the last").await?;
    raw.finish().await?;
    let rest = raw.rest().await?;
    ensure!(rest == "the last", "after one half was closed: {rest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_in_both_directions() -> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sent", HeaderValue::from_static("at the end"));
    let frames = stream::iter([
        Ok(Frame::data(Bytes::from("abc"))),
        Ok(Frame::trailers(trailers)),
    ]);
    let request = Request::post(deployed.url("/trailers"))
        .header("trailer", "x-sent")
        .header("te", "trailers")
        .body(StreamBody::new(frames).boxed_unsync())?;
    let mut reader = BodyReader::new(client::send(request).await?);
    let received = reader.rest().await?;
    ensure!(received == r#"[["x-sent","at the end"]]"#, "{received}");
    ensure!(
        reader.trailers["x-body-bytes"] == "3",
        "{:?}",
        reader.trailers
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_answered_before_the_next_is_sent() -> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let (pieces, body) = channel_body();
    let sent = client::send(Request::post(deployed.url("/echo")).body(body)?);
    pieces.send("first\n".into())?;
    let mut reader = BodyReader::new(sent.await?);
    ensure!(reader.until("\n").await? == "first\n");
    for number in 0..20 {
        let line = format!("line {number}\n");
        pieces.send(line.clone().into())?;
        ensure!(reader.until("\n").await? == line);
    }
    drop(pieces);
    ensure!(reader.rest().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_waits_for_100_continue_is_asked_for_only_when_the_function_reads_it()
-> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let expecting = |rest: &str| {
        let path = deployed.path(rest);
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
        )
    };

    let mut raw = deployed.connect().await?;
    raw.send(expecting("/sink")).await?;
    let interim = raw.head().await?;
    ensure!(interim.starts_with("http/1.1 100 "), "{interim}");
    raw.send("hello").await?;
    let answer = raw.head().await?;
    ensure!(answer.starts_with("http/1.1 200 "), "{answer}");
    ensure!(raw.rest().await? == "5", "not five bytes");

    let mut raw = deployed.connect().await?;
    raw.send(expecting("/early")).await?;
    let answer = raw.head().await?;
    ensure!(
        answer.starts_with("http/1.1 403 "),
        "the body was asked for: {answer}"
    );
    let rest = raw.rest().await?;
    ensure!(rest.contains("not reading that"), "{rest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_before_the_body_was_sent() -> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let mut raw = deployed.connect().await?;
    let path = deployed.path("/early");
    raw.send(format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n"
    ))
    .await?;
    raw.send(vec![b'x'; 100_000]).await?;
    let answer = raw.head().await?;
    ensure!(answer.starts_with("http/1.1 403 "), "{answer}");
    let body = raw.exactly("not reading that\n".len()).await?;
    ensure!(
        body == b"not reading that\n",
        "{:?}",
        String::from_utf8_lossy(&body)
    );
    Ok(())
}
