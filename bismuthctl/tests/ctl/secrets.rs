//! Secrets: set, listed, rotated, deleted, and never shown.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use bismuth_testkit::http::full;
use bismuth_testkit::{Stub, stub};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::harness::ctl;
use crate::provider::Provider;

const CANARY: &str = "canary-7f3c1e";

/// Svcprovider, with what was written to it in the order that it came: no operator can read a secret.
async fn recording_proxy(provider: &Provider) -> (Stub, Arc<Mutex<Vec<Bytes>>>) {
    let (written, url) = (Arc::<Mutex<Vec<Bytes>>>::default(), provider.services.url());
    let stub = Stub::start({
        let written = Arc::clone(&written);
        move |request: Request<Bytes>| {
            let url = url.clone();
            if matches!(*request.method(), Method::PUT | Method::POST) {
                written.lock().unwrap().push(request.body().clone());
            }
            async move {
                let answer = stub::forward_request(&url, request).await;
                answer.unwrap().map(full)
            }
        }
    });
    (stub.await.unwrap(), written)
}

#[tokio::test]
async fn a_secret_is_set_rotated_listed_and_deleted() {
    let provider = Provider::start().await;
    let (stub, written) = recording_proxy(&provider).await;
    let ctl = provider.at(stub.url());
    let (set, rotate) = (
        "secret set shop db-password",
        "secret rotate shop db-password",
    );
    assert_eq!(ctl.piped(set, b"one\n").await.ok(), "1");
    let file = provider.file("value", b"\x00two");
    assert_eq!(ctl.ok(&format!("{rotate} @{file}")).await, "2");
    let third = ctl.piped(&format!("{set} - -o json"), b"three").await;
    assert_eq!(third.json(), json!({"name": "db-password", "version": 3}));
    assert_eq!(
        *written.lock().unwrap(),
        [&b"one\n"[..], b"\x00two", b"three"],
        "bytes from pipes and files are kept as they are"
    );
    let list = provider.run("secret list shop").await;
    assert!(list.ok().starts_with("NAME"), "{}", list.stdout);
    assert_eq!(list.row()[..2], ["db-password", "3"]);
    let listed = provider.json("secret list shop").await;
    assert_eq!(listed[0]["version"], 3);
    assert!(listed[0].get("value").is_none());

    let rewrapped = provider.json("secret rewrap").await;
    assert_eq!(rewrapped["groups"], 0);
    assert!(rewrapped["master_key"].is_string(), "{rewrapped}");
    let delete = "secret delete shop db-password";
    provider.ok(delete).await;
    let unknown = "svcprovider: there is no secret \"db-password\" in the group";
    provider.fails(delete, 3, &[unknown]).await;
    provider.piped(rotate, b"x").await.failed(3, &[unknown]);
}

#[tokio::test]
async fn a_value_on_the_command_line_is_refused_and_not_repeated() {
    let provider = Provider::start().await;
    for value in ["", "two ", "- ", "--", "-", "@ "] {
        for act in ["set", "rotate"] {
            let line = format!("secret {act} shop name {value}{CANARY}");
            let output = provider.run(&line).await;
            output.failed(2, &["command line", "standard input", "@FILE"]);
            assert!(!output.stderr.contains("canary"), "{}", output.stderr);
        }
    }
    assert!(provider.groups().await.is_empty());
}

#[tokio::test]
async fn an_invalid_secret_is_refused_before_it_is_sent() {
    let provider = Provider::start().await;
    let set = "secret set shop name";
    provider.piped(set, b"").await.failed(2, &["empty"]);
    let large = vec![b'x'; 64 * 1024 + 1];
    let refused = provider.piped(set, &large).await;
    refused.failed(2, &["more than 65536 bytes"]);
    assert_eq!(provider.piped(set, &large[1..]).await.ok(), "1");
    let missing = format!("{set} @/nothing/there");
    provider.fails(&missing, 1, &["read /nothing/there"]).await;
    for group in ["..", "a/b", "''"] {
        let list = format!("secret list {group}");
        assert_eq!(provider.run(&list).await.code, 2, "{group}");
    }
}

#[tokio::test]
async fn no_output_contains_a_secret_or_the_token() {
    let provider = Provider::start().await;
    let token = provider.services.token().unwrap();
    let away = Stub::start(async |_| {
        let problem = json!({"code": "store_unavailable", "component": "svcprovider", "detail": "the store does not answer"});
        let mut answer = Response::new(full(problem.to_string()));
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        answer
    });
    let away = away.await.unwrap();
    let mut said = String::new();
    for url in [provider.services.url(), away.url()] {
        let ctl = provider.at(url);
        for act in ["set shop name", "rotate shop name", "list shop"] {
            let line = format!("-v secret {act}");
            let output = ctl.piped(&line, CANARY.as_bytes()).await;
            said = said + &output.stdout + &output.stderr;
        }
    }
    assert!(
        said.contains("svcprovider: the store does not answer"),
        "{said}"
    );
    assert!(!said.contains(CANARY) && !said.contains(&token), "{said}");
}

#[tokio::test]
async fn a_token_error_says_what_to_do() {
    let provider = Provider::start().await;
    let file = provider.services.token_file();
    let name = file.to_str().unwrap();
    let refused = async |words: &[&str]| {
        let words = [&[name], words].concat();
        provider.fails("group list", 1, &words).await;
    };
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    refused(&["mode 0644", "chmod 600"]).await;
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "another").unwrap();
    refused(&["does not accept the token"]).await;
    std::fs::write(&file, "").unwrap();
    refused(&["holds no token"]).await;
    std::fs::remove_file(&file).unwrap();
    refused(&["no token file", "--svcprovider-token-file"]).await;
    std::fs::create_dir(&file).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
    refused(&["read token file"]).await;
}

#[tokio::test]
async fn an_unreachable_svcprovider_is_named() {
    let mut provider = Provider::start().await;
    provider.services.daemon_mut().kill().await.unwrap();
    let address = provider.services.url().replace("http://", "");
    let list = "secret list shop";
    let words = [&address, "refused", "is it running?", "--svcprovider"];
    provider.fails(list, 1, &words).await;
    let https = format!("{list} --svcprovider https://127.0.0.1");
    provider.fails(&https, 2, &["not an http URL"]).await;
    // The flags stand before and after what they are for.
    for line in [
        "secret --svcprovider x://y list shop",
        "kv list -g shop --svcprovider x://y",
    ] {
        provider.fails(line, 2, &["x://y"]).await;
    }
    let missing = ctl(&format!("{list} --svcprovider-token-file /no/token")).await;
    missing.failed(1, &["/no/token"]);
}
