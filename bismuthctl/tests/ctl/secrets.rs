//! Secrets: set, listed, rotated, deleted, and never shown.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use bismuth_testkit::http::full;
use bismuth_testkit::{Stub, stub};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::harness::{ctl, run};
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
                stub::forward_request(&url, request)
                    .await
                    .unwrap()
                    .map(full)
            }
        }
    });
    (stub.await.unwrap(), written)
}

#[tokio::test]
async fn a_secret_is_set_rotated_listed_and_deleted() {
    let provider = Provider::start().await;
    let (stub, written) = recording_proxy(&provider).await;
    let url = &stub.url();
    let set = ["secret", "set", "shop", "db-password"];
    assert_eq!(provider.piped_at(url, &set, b"one\n").await.ok(), "1");
    let file = format!("@{}", provider.file("value", b"\x00two"));
    let rotate = ["secret", "rotate", "shop", "db-password", &file];
    assert_eq!(provider.ctl_at(url, &rotate).await.ok(), "2");
    let json = [&set[..], &["-", "-o", "json"]].concat();
    assert_eq!(
        provider.piped_at(url, &json, b"three").await.json(),
        json!({"name": "db-password", "version": 3})
    );
    assert_eq!(
        *written.lock().unwrap(),
        [&b"one\n"[..], b"\x00two", b"three"],
        "bytes from pipes and files are kept as they are"
    );
    let list = provider
        .ctl(&["secret", "list", "shop"])
        .await
        .ok()
        .to_owned();
    assert!(list.starts_with("NAME"), "{list}");
    let line: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((line[0], line[1]), ("db-password", "3"));
    let listed = provider
        .ctl(&["secret", "list", "shop", "-o", "json"])
        .await
        .json();
    assert_eq!(listed[0]["version"], 3);
    assert!(listed[0].get("value").is_none());

    let rewrap = provider.ctl(&["secret", "rewrap", "-o", "json"]).await;
    let rewrapped = rewrap.json();
    assert_eq!(rewrapped["groups"], 0);
    assert!(rewrapped["master_key"].is_string(), "{rewrapped}");
    let delete = ["secret", "delete", "shop", "db-password"];
    provider.ctl(&delete).await.ok();
    provider
        .ctl(&delete)
        .await
        .failed(3, &["no secret \"db-password\""]);
    provider.piped(&rotate[..4], b"x").await.failed(
        3,
        &["svcprovider: there is no secret \"db-password\" in the group"],
    );
}

#[tokio::test]
async fn a_value_on_the_command_line_is_refused_and_not_repeated() {
    let provider = Provider::start().await;
    for value in [
        &[CANARY][..],
        &["two", CANARY],
        &["-", CANARY],
        &["--canary-7f3c1e"],
        &["-canary-7f3c1e"],
        &["@", CANARY],
    ] {
        for act in ["set", "rotate"] {
            let args = [&["secret", act, "shop", "name"], value].concat();
            let output = provider.ctl(&args).await;
            output.failed(2, &["command line", "standard input", "@FILE"]);
            assert!(!output.stderr.contains("canary"), "{}", output.stderr);
        }
    }
    assert!(provider.groups().await.is_empty());
}

#[tokio::test]
async fn an_invalid_secret_is_refused_before_it_is_sent() {
    let provider = Provider::start().await;
    let set = ["secret", "set", "shop", "name"];
    provider.piped(&set, b"").await.failed(2, &["empty"]);
    let large = vec![b'x'; 64 * 1024 + 1];
    provider
        .piped(&set, &large)
        .await
        .failed(2, &["more than 65536 bytes"]);
    assert_eq!(provider.piped(&set, &large[1..]).await.ok(), "1");
    let missing = [&set[..], &["@/nothing/there"]].concat();
    provider
        .ctl(&missing)
        .await
        .failed(1, &["read /nothing/there"]);
    for group in ["..", "a/b", ""] {
        assert_eq!(provider.ctl(&["secret", "list", group]).await.code, 2);
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
        for act in ["set", "rotate"] {
            let args = ["-v", "secret", act, "shop", "name"];
            let output = provider.piped_at(&url, &args, CANARY.as_bytes()).await;
            said = said + &output.stdout + &output.stderr;
        }
        let list = ["-v", "secret", "list", "shop"];
        let output = provider.ctl_at(&url, &list).await;
        said = said + &output.stdout + &output.stderr;
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
    let (list, file) = (["group", "list"], provider.services.token_file());
    let name = file.to_str().unwrap().to_owned();
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    provider
        .ctl(&list)
        .await
        .failed(1, &[&name, "mode 0644", "chmod 600"]);
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "another").unwrap();
    provider
        .ctl(&list)
        .await
        .failed(1, &["does not accept the token", &name]);
    std::fs::write(&file, "").unwrap();
    provider
        .ctl(&list)
        .await
        .failed(1, &[&name, "holds no token"]);
    std::fs::remove_file(&file).unwrap();
    provider
        .ctl(&list)
        .await
        .failed(1, &["no token file", &name, "--svcprovider-token-file"]);
    std::fs::create_dir(&file).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
    provider
        .ctl(&list)
        .await
        .failed(1, &["read token file", &name]);
}

#[tokio::test]
async fn an_unreachable_svcprovider_is_named() {
    let mut provider = Provider::start().await;
    provider.services.daemon_mut().kill().await.unwrap();
    let address = provider.services.url().replace("http://", "");
    provider
        .ctl(&["secret", "list", "shop"])
        .await
        .failed(1, &[&address, "refused", "is it running?", "--svcprovider"]);
    let https = [
        "secret",
        "list",
        "shop",
        "--svcprovider",
        "https://127.0.0.1",
    ];
    provider.ctl(&https).await.failed(2, &["not an http URL"]);
    // The flags stand before and after what they are for.
    for args in [
        &["secret", "--svcprovider", "x://y", "list", "shop"][..],
        &["kv", "list", "-g", "shop", "--svcprovider", "x://y"],
    ] {
        run(&mut provider.command(args)).await.failed(2, &["x://y"]);
    }
    ctl(&[
        "secret",
        "list",
        "shop",
        "--svcprovider-token-file",
        "/no/token",
    ])
    .await
    .failed(1, &["/no/token"]);
}
