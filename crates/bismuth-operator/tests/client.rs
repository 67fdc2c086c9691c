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

/// A svcprovider, where it keeps its data, and its client.
async fn start() -> (Services, TempDir, OperatorClient) {
    let dir = tempfile::tempdir().unwrap();
    let services = Services::start_alone(dir.path()).await.unwrap();
    let client = client(&services.url(), &services.token_file());
    (services, dir, client)
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
    let (_services, _dir, client) = start().await;
    client.probe().await.unwrap();
    let put = Call::secret(Method::PUT, &group(), "a b/c");
    let body = Full::new(Bytes::from("value"));
    let made = client.call(put, body).await.unwrap();
    let made: Value = json(&client, made).await.unwrap();
    assert_eq!(made, json!({"name": "a b/c", "version": 1}));
    let delete = Call::secret(Method::DELETE, &group(), "other");
    let error = client.ask(delete).await.unwrap_err();
    assert_eq!(error.refused_with().unwrap(), 404);
    let said = "svcprovider: there is no secret \"other\" in the group";
    assert_eq!(error.to_string(), said);
    let purged = client.purge(&group()).await.unwrap();
    assert_eq!(purged.secrets, 1);
    assert_eq!(client.purge(&group()).await.unwrap(), Purged::default());
}

#[tokio::test]
async fn the_token_is_read_anew_for_every_call() {
    let (services, _dir, client) = start().await;
    let file = services.token_file();
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
    let (mut services, _dir, client) = start().await;
    services.daemon_mut().kill().await.unwrap();
    let begun = Instant::now();
    let error = client.purge(&group()).await.unwrap_err();
    assert!(matches!(error, CallError::Connect { .. }), "{error}");
    assert!(!error.is_unknown_outcome());
    assert!(begun.elapsed() < BOUND * 2, "{:?}", begun.elapsed());
}

#[test]
fn only_the_root_of_an_http_server_is_an_address() {
    for (url, is_one) in [
        ("http://127.0.0.1:9001", true),
        ("http://[::1]:9001/", true),
        ("node:9001", true),
        ("https://127.0.0.1:9001", false),
        ("http://127.0.0.1:9001/group", false),
        ("http://127.0.0.1:9001/?a", false),
        ("/path", false),
        ("http://user:password@host:1", false),
    ] {
        let client = OperatorClient::new(&url.parse().unwrap(), "t".into(), BOUND);
        assert_eq!(client.is_ok(), is_one, "{url}");
    }
}

/// Takes one connection, says `message` when a request has begun, and nothing any more; it reads nothing. If it `ends`, it also says that
/// it sends no more.
async fn falls_silent(message: &'static str, ends: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.readable().await.unwrap();
        stream.write_all(message.as_bytes()).await.unwrap();
        if ends {
            stream.shutdown().await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    format!("http://{address}")
}

/// The upload of a blob that has no end.
async fn upload_endlessly(client: &OperatorClient) -> CallError {
    let endless = futures_util::stream::repeat(Bytes::from(vec![0; 64 * 1024]));
    let endless = StreamBody::new(endless.map(|b| Ok::<_, std::io::Error>(Frame::data(b))));
    let call = Call::blob(Method::PUT, &group(), "large");
    client.call(call, endless).await.unwrap_err()
}

#[tokio::test]
async fn a_refusal_before_the_end_of_the_upload_is_returned() {
    let token = any_token();
    let refusal = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 75\r\n\r\n\
        {\"code\":\"quota\",\"component\":\"svcprovider\",\"detail\":\"the group has no room\"}";
    for ends in [false, true] {
        let client = client(&falls_silent(refusal, ends).await, token.path());
        let error = upload_endlessly(&client).await;
        assert_eq!(error.to_string(), "svcprovider: the group has no room");
    }
}

/// Longer than an answer takes on a busy machine, and short enough to be waited for.
const IDLE_TIMEOUT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_silent_svcprovider_times_out() {
    let token = any_token();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";
    for message in ["", "HTTP/1.1 200", head] {
        let url = falls_silent(message, false).await;
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
    let url = falls_silent("", false).await;
    let client = client(&url, token.path()).with_idle_timeout(IDLE_TIMEOUT);
    let uploading = upload_endlessly(&client);
    let uploaded = tokio::time::timeout(IDLE_TIMEOUT * 20, uploading).await;
    let error = uploaded.expect("it is given up");
    assert!(matches!(error, CallError::Stalled { .. }), "{error}");
}

#[tokio::test]
async fn an_upload_from_a_slow_source_does_not_time_out() {
    let (_services, _dir, client) = start().await;
    let client = client.with_idle_timeout(IDLE_TIMEOUT);
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
