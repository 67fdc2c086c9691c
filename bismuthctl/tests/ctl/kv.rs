//! Keys and groups.

use bismuth_operator::{Call, OperatorClient};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Method;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::TIMEOUT;
use crate::provider::Provider;

/// More than there are in a page.
const BLOBS: usize = 1050;

#[tokio::test]
async fn a_value_is_put_got_and_deleted() {
    let provider = Provider::start().await;
    let kv = async |args: &[&str]| {
        let args = [&["kv"], args, &["--group", "shop"]].concat();
        provider.ctl(&args).await
    };
    let etag = kv(&["put", "cart/1 ü?", "three apples"])
        .await
        .ok()
        .to_owned();
    assert!(etag.starts_with('"'), "{etag}");
    assert_eq!(kv(&["get", "cart/1 ü?"]).await.stdout, "three apples");
    let json = ["get", "cart/1 ü?", "-o", "json"];
    let shown = kv(&json).await.json();
    assert_eq!(
        shown,
        json!({"key": "cart/1 ü?", "etag": etag, "content_type": "application/octet-stream", "value": "three apples"})
    );
    let file = format!("@{}", provider.file("value", b"\xff\x00"));
    let put = ["put", "cart/1 ü?", &file, "--content-type", "image/png"];
    kv(&put).await.ok();
    let shown = kv(&json).await.json();
    assert_eq!(
        (
            &shown["content_type"],
            &shown["value_base64"],
            shown.get("value")
        ),
        (&json!("image/png"), &json!("/wA="), None)
    );
    let piped = ["kv", "put", "piped", "-g", "shop"];
    provider.piped(&piped, b"from a pipe\n").await.ok();
    assert_eq!(kv(&["get", "piped"]).await.stdout, "from a pipe\n");
    kv(&["delete", "piped"]).await.ok();
    kv(&["get", "piped"])
        .await
        .failed(3, &["there is no such key"]);
    kv(&["get", ""]).await.failed_usage();
    let large = vec![b'x'; (1 << 20) + 1];
    provider
        .piped(&piped, &large)
        .await
        .failed(2, &["more than 1048576 bytes"]);
}

#[tokio::test]
async fn conditions_and_lifetimes_are_passed_on() {
    let provider = Provider::start().await;
    let kv = async |args: &[&str]| {
        let args = [&["kv"], args, &["-g", "shop"]].concat();
        provider.ctl(&args).await
    };
    let first = kv(&["put", "lock", "me", "--if-absent", "--ttl", "10m"]).await;
    let first = first.ok().to_owned();
    kv(&["put", "lock", "you", "--if-absent"])
        .await
        .failed(1, &["svcprovider: the condition does not hold"]);
    let listed = kv(&["list", "-o", "json"]).await.json();
    assert!(listed[0]["expires_ms"].is_u64(), "{listed}");
    // A shell takes the quotes away; both are the same ETag.
    let bare = first.trim_matches('"').to_owned();
    let second = kv(&["put", "lock", "me again", "--if-match", &bare]).await;
    let second = second.ok().to_owned();
    kv(&["put", "lock", "late", "--if-match", &first])
        .await
        .failed(1, &["does not hold"]);
    kv(&["delete", "lock", "--if-match", &first])
        .await
        .failed(1, &["does not hold"]);
    kv(&["delete", "lock", "--if-match", &second]).await.ok();
    for wrong in [
        &["--ttl", "0"][..],
        &["--ttl", "soon"],
        &["--if-match", ""],
        &["--if-match", "a", "--if-absent"],
    ] {
        kv(&[&["put", "lock", "x"], wrong].concat())
            .await
            .failed_usage();
    }
}

#[tokio::test]
async fn numbers_are_added_to() {
    let provider = Provider::start().await;
    let incr = async |more: &[&str]| {
        let args = [&["kv", "incr", "hits", "-g", "shop"], more].concat();
        provider.ctl(&args).await
    };
    assert_eq!(incr(&[]).await.ok(), "1");
    assert_eq!(incr(&["--by", "-5"]).await.ok(), "-4");
    assert_eq!(
        incr(&["-o", "json"]).await.json(),
        json!({"key": "hits", "value": -3})
    );
    let put = ["kv", "put", "hits", "many", "-g", "shop"];
    provider.ctl(&put).await.ok();
    incr(&[]).await.failed(1, &["the value is not a number"]);
}

/// Makes 2500 keys below `key/` and one beside it, and as many blobs as are more than a page.
async fn fill(provider: &Provider) {
    let url = provider.services.url().parse().unwrap();
    let surface = OperatorClient::new(&url, provider.services.token_file(), TIMEOUT).unwrap();
    let group = "shop".parse().unwrap();
    let kv = (0..2500).map(|n| Call::kv(Method::PUT, &group, &format!("key/{n:05}")));
    let other = Call::kv(Method::PUT, &group, "other");
    let blobs = (0..BLOBS).map(|n| Call::blob(Method::POST, &group, &format!("key/{n:05}")));
    let puts = kv.chain([other]).chain(blobs);
    // The engine commits together what comes together.
    let puts = puts.map(|put| surface.call(put, Full::new(Bytes::from("x"))));
    let mut puts = stream::iter(puts).buffer_unordered(64);
    while let Some(put) = puts.next().await {
        put.unwrap();
    }
}

#[tokio::test]
async fn a_list_is_followed_through_all_its_pages() {
    let provider = Provider::start().await;
    fill(&provider).await;
    let list = async |what: &str, more: &[&str]| {
        let args = [&[what, "list", "-g", "shop"], more].concat();
        provider.ctl(&args).await
    };
    assert_eq!(list("kv", &[]).await.ok().lines().count(), 2502);
    let listed = list("kv", &["--prefix", "key/", "-o", "json"]).await.json();
    let keys: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|k| &k["key"])
        .collect();
    assert_eq!(keys.len(), 2500);
    assert!(keys.is_sorted_by_key(|key| key.as_str()));
    let blobs = list("blob", &["-o", "json"]).await.json();
    assert_eq!(blobs.as_array().unwrap().len(), BLOBS);
    assert_eq!(blobs[0]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(
        list("kv", &["--prefix", "none"]).await.ok().lines().count(),
        1
    );
}

#[tokio::test]
async fn groups_are_listed_shown_and_purged() {
    let provider = Provider::start().await;
    for group in ["a", "b"] {
        provider
            .ctl(&["kv", "put", "k", "four", "-g", group])
            .await
            .ok();
    }
    provider
        .piped(&["blob", "put", "b", "-g", "a"], b"123")
        .await
        .ok();
    provider
        .piped(&["secret", "set", "a", "s"], b"x")
        .await
        .ok();
    let list = provider.ctl(&["group", "list"]).await.ok().to_owned();
    assert_eq!(list.lines().count(), 3, "{list}");
    let shown = provider.ctl(&["group", "show", "a"]).await.ok().to_owned();
    let line: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line, ["a", "1", "5B", "1", "4B", "1"]);
    let purged = provider.ctl(&["group", "purge", "a", "-o", "json"]).await;
    assert_eq!(purged.json(), json!({"kv": 1, "blobs": 1, "secrets": 1}));
    provider
        .ctl(&["group", "show", "a"])
        .await
        .failed(3, &["the group a has nothing"]);
    assert_eq!(
        provider.ctl(&["group", "purge", "a"]).await.ok(),
        "deleted 0 keys, 0 blobs and 0 secrets of group a"
    );
    let left = provider.ctl(&["group", "list", "-o", "json"]).await.json();
    assert_eq!(left[0]["group"], "b");
}
