//! Secrets: set, listed, rotated, deleted, and never shown.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use bismuth_operator::fake::{Misbehaviour, write_token};
use serde_json::json;

use crate::harness::{ctl, run};
use crate::provider::Provider;

const CANARY: &str = "canary-7f3c1e";

fn versions(provider: &Provider, group: &str, name: &str) -> Vec<Vec<u8>> {
    let state = provider.0.state();
    let versions = &state.groups[group].secrets[name].versions;
    versions.iter().map(|value| value.to_vec()).collect()
}

#[tokio::test]
async fn a_secret_is_set_rotated_listed_and_deleted() {
    let provider = Provider::start().await;
    let set = ["secret", "set", "shop", "db-password"];
    assert_eq!(provider.piped(&set, b"one\n").await.ok(), "1");
    let file = format!("@{}", provider.file("value", b"\x00two"));
    let rotate = ["secret", "rotate", "shop", "db-password", &file];
    assert_eq!(provider.ctl(&rotate).await.ok(), "2");
    let json = [&set[..], &["-", "-o", "json"]].concat();
    assert_eq!(
        provider.piped(&json, b"three").await.json(),
        json!({"name": "db-password", "version": 3})
    );
    assert_eq!(
        versions(&provider, "shop", "db-password"),
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

    assert_eq!(
        provider
            .ctl(&["secret", "rewrap", "-o", "json"])
            .await
            .json(),
        json!({"groups": 0, "master_key": "2026"})
    );
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
            let ran = provider.ctl(&args).await;
            ran.failed(2, &["command line", "standard input", "@FILE"]);
            assert!(!ran.stderr.contains("canary"), "{}", ran.stderr);
        }
    }
    assert!(provider.0.state().groups.is_empty());
}

#[tokio::test]
async fn what_cannot_be_a_secret_is_not_sent() {
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
async fn nothing_that_is_said_holds_a_secret_or_the_token() {
    let provider = Provider::start().await;
    let token = std::fs::read_to_string(provider.0.token_file()).unwrap();
    let mut said = String::new();
    for mood in [Misbehaviour::None, Misbehaviour::Unavailable] {
        provider.0.state().misbehaviour = mood;
        for act in ["set", "rotate"] {
            let args = ["-v", "secret", act, "shop", "name"];
            let ran = provider.piped(&args, CANARY.as_bytes()).await;
            said = said + &ran.stdout + &ran.stderr;
        }
        let ran = provider.ctl(&["-v", "secret", "list", "shop"]).await;
        said = said + &ran.stdout + &ran.stderr;
    }
    assert!(
        said.contains("svcprovider: the store does not answer"),
        "{said}"
    );
    assert!(
        !said.contains(CANARY) && !said.contains(token.trim()),
        "{said}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_the_token_is_said_with_what_to_do() {
    let provider = Provider::start().await;
    let (list, file) = (["group", "list"], provider.0.token_file());
    let name = file.to_str().unwrap().to_owned();
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    provider
        .ctl(&list)
        .await
        .failed(1, &[&name, "mode 0644", "chmod 600"]);
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    write_token(&file, "another").unwrap();
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
async fn a_svcprovider_that_is_away_is_named() {
    let mut provider = Provider::start().await;
    provider.0.stop().await;
    let address = provider.0.url().replace("http://", "");
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
