//! Calls to svcprovider, and to servers that misbehave.

#![allow(clippy::unwrap_used)] // What fails here fails the test.

use std::path::Path;
use std::time::{Duration, Instant};

use bismuth_model::ServiceGroup;
use bismuth_operator::{Call, CallError, OperatorClient, Purged, json, read_body};
use bismuth_testkit::cluster::Services;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Method;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

const BOUND: Duration = Duration::from_millis(500);

fn client(url: &str, token_file: &Path) -> OperatorClient {
    OperatorClient::new(&url.parse().unwrap(), token_file.to_owned(), BOUND).unwrap()
}

/// A svcprovider, and where it keeps its data.
async fn start() -> (Services, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Services::start_alone(dir.path()).await.unwrap(), dir)
}

/// A token for a server that does not look at it.
fn any_token() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(&file, "token").unwrap();
    file
}

fn group() -> ServiceGroup {
    "shop".parse().unwrap()
}

#[tokio::test]
async fn a_call_is_answered_and_a_refusal_has_svcproviders_message() {
    let (services, _dir) = start().await;
    let client = client(&services.url(), &services.token_file());
    client.probe().await.unwrap();
    let put = Call::secret(Method::PUT, &group(), "a b/c");
    let body = Full::new(Bytes::from("value"));
    let made: Value = json(&client, client.call(put, body).await.unwrap())
        .await
        .unwrap();
    assert_eq!(made, json!({"name": "a b/c", "version": 1}));
    let error = client
        .ask(Call::secret(Method::DELETE, &group(), "other"))
        .await
        .unwrap_err();
    assert_eq!(error.refused_with().unwrap(), 404);
    assert_eq!(
        error.to_string(),
        "svcprovider: there is no secret \"other\" in the group"
    );
    let purged = client.purge(&group()).await.unwrap();
    assert_eq!(purged.secrets, 1);
    assert_eq!(client.purge(&group()).await.unwrap(), Purged::default());
}

#[tokio::test]
async fn the_token_is_read_anew_for_every_call() {
    let (services, _dir) = start().await;
    let file = services.token_file();
    let client = client(&services.url(), &file);
    client.probe().await.unwrap();
    let right = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "another\n").unwrap();
    let error = client.probe().await.unwrap_err();
    assert!(matches!(error, CallError::Unauthorized { .. }), "{error}");
    std::fs::write(&file, right).unwrap();
    client.probe().await.unwrap();
    std::fs::remove_file(&file).unwrap();
    let error = client.probe().await.unwrap_err();
    assert!(matches!(error, CallError::Token(_)), "{error}");
}

#[tokio::test]
async fn a_failed_connect_is_not_an_unknown_outcome() {
    let (mut services, _dir) = start().await;
    let client = client(&services.url(), &services.token_file());
    services.daemon_mut().kill().await.unwrap();
    let begun = Instant::now();
    let error = client.purge(&group()).await.unwrap_err();
    assert!(matches!(error, CallError::Connect { .. }), "{error}");
    assert!(!error.is_unknown_outcome());
    assert!(begun.elapsed() < BOUND * 2, "{:?}", begun.elapsed());
}

#[test]
fn only_the_root_of_an_http_server_is_an_address() {
    for good in ["http://127.0.0.1:9001", "http://[::1]:9001/", "node:9001"] {
        assert!(
            OperatorClient::new(&good.parse().unwrap(), "t".into(), BOUND).is_ok(),
            "{good}"
        );
    }
    for bad in [
        "https://127.0.0.1:9001",
        "http://127.0.0.1:9001/group",
        "http://127.0.0.1:9001/?a",
        "/path",
        "http://user:password@host:1",
    ] {
        assert!(
            OperatorClient::new(&bad.parse().unwrap(), "t".into(), BOUND).is_err(),
            "{bad}"
        );
    }
}

/// Answers 413 after the head of the request, and reads no further. If it `ends`, it also says that it sends no more.
async fn refuses_early(ends: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.readable().await.unwrap();
        let body = r#"{"code":"quota","component":"svcprovider","detail":"the group has no room"}"#;
        let answer = format!(
            "HTTP/1.1 413 Payload Too Large\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        if ends {
            stream.shutdown().await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_refusal_before_the_end_of_the_upload_is_returned() {
    let token = any_token();
    for ends in [false, true] {
        let client = client(&refuses_early(ends).await, token.path());
        let endless = futures_util::stream::repeat(Bytes::from(vec![0; 64 * 1024]));
        let endless = StreamBody::new(endless.map(|b| Ok::<_, std::io::Error>(Frame::data(b))));
        let call = Call::blob(Method::PUT, &group(), "large");
        let error = client.call(call, endless).await.unwrap_err();
        assert_eq!(error.to_string(), "svcprovider: the group has no room");
    }
}

/// Longer than an answer takes on a busy machine, and short enough to be waited for.
const IDLE_TIMEOUT: Duration = Duration::from_millis(300);

/// Takes one connection, reads the head of a request, says `says`, and nothing any more.
async fn falls_silent(says: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.readable().await.unwrap();
        stream.write_all(says.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_silent_svcprovider_times_out() {
    let token = any_token();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";
    for says in ["", "HTTP/1.1 200", head] {
        let url = falls_silent(says).await;
        let client = client(&url, token.path()).with_idle_timeout(IDLE_TIMEOUT);
        let asking = async {
            let answer = client.ask(Call::kv(Method::GET, &group(), "k")).await?;
            read_body(&client, answer).await
        };
        let asked = tokio::time::timeout(IDLE_TIMEOUT * 20, asking).await;
        let error = asked.expect("it is given up").unwrap_err();
        assert!(matches!(error, CallError::Stalled { .. }), "{error}");
        assert!(error.is_unknown_outcome());
        assert!(error.to_string().contains("silent for 300 ms"), "{error}");
    }
}

#[tokio::test]
async fn an_upload_that_svcprovider_does_not_read_times_out() {
    let token = any_token();
    let url = falls_silent("").await;
    let client = client(&url, token.path()).with_idle_timeout(IDLE_TIMEOUT);
    let endless = futures_util::stream::repeat(Bytes::from(vec![0; 64 * 1024]));
    let endless = StreamBody::new(endless.map(|b| Ok::<_, std::io::Error>(Frame::data(b))));
    let uploading = client.call(Call::blob(Method::PUT, &group(), "large"), endless);
    let uploaded = tokio::time::timeout(IDLE_TIMEOUT * 20, uploading).await;
    let error = uploaded.expect("it is given up").unwrap_err();
    assert!(matches!(error, CallError::Stalled { .. }), "{error}");
}

#[tokio::test]
async fn an_upload_from_a_slow_source_does_not_time_out() {
    let (services, _dir) = start().await;
    let client = client(&services.url(), &services.token_file()).with_idle_timeout(IDLE_TIMEOUT);
    let slow = futures_util::stream::iter(["a", "b", "c"]).then(async |text| {
        tokio::time::sleep(IDLE_TIMEOUT * 2).await;
        Ok::<_, std::io::Error>(Frame::data(Bytes::from(text)))
    });
    let post = Call::blob(Method::POST, &group(), "slow");
    client.call(post, StreamBody::new(slow)).await.unwrap();
    let get = Call::blob(Method::GET, &group(), "slow");
    let stored = client.ask(get).await.unwrap();
    assert_eq!(read_body(&client, stored).await.unwrap(), "abc");
}
