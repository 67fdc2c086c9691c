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
    let kv = async |line: &str| provider.run(&format!("kv {line} --group shop")).await;
    let etag = kv("put 'cart/1 ü?' 'three apples'").await.ok().to_owned();
    assert!(etag.starts_with('"'), "{etag}");
    assert_eq!(kv("get 'cart/1 ü?'").await.stdout, "three apples");
    let shown = kv("get 'cart/1 ü?' -o json").await.json();
    assert_eq!(
        shown,
        json!({"key": "cart/1 ü?", "etag": etag, "content_type": "application/octet-stream", "value": "three apples"})
    );
    let file = provider.file("value", b"\xff\x00");
    let put = format!("put 'cart/1 ü?' @{file} --content-type image/png");
    kv(&put).await.ok();
    let shown = kv("get 'cart/1 ü?' -o json").await.json();
    assert_eq!(shown["content_type"], "image/png");
    assert_eq!(shown["value_base64"], "/wA=");
    assert_eq!(shown.get("value"), None);
    let piped = "kv put piped -g shop";
    provider.piped(piped, b"from a pipe\n").await.ok();
    assert_eq!(kv("get piped").await.stdout, "from a pipe\n");
    kv("delete piped").await.ok();
    kv("get piped").await.failed(3, &["there is no such key"]);
    kv("get ''").await.failed_usage();
    let large = provider.piped(piped, &vec![b'x'; (1 << 20) + 1]).await;
    large.failed(2, &["more than 1048576 bytes"]);
}

#[tokio::test]
async fn conditions_and_lifetimes_are_passed_on() {
    let provider = Provider::start().await;
    let kv = async |line: &str| provider.run(&format!("kv {line} -g shop")).await;
    let first = kv("put lock me --if-absent --ttl 10m").await;
    let first = first.ok();
    let refused = kv("put lock you --if-absent").await;
    refused.failed(1, &["svcprovider: the condition does not hold"]);
    let listed = kv("list -o json").await.json();
    assert!(listed[0]["expires_ms"].is_u64(), "{listed}");
    // A shell takes the quotes away; both are the same ETag.
    let bare = first.trim_matches('"');
    let second = kv(&format!("put lock 'me again' --if-match {bare}")).await;
    for line in ["put lock late", "delete lock"] {
        let refused = kv(&format!("{line} --if-match {first}")).await;
        refused.failed(1, &["does not hold"]);
    }
    let delete = format!("delete lock --if-match {}", second.ok());
    kv(&delete).await.ok();
    for wrong in [
        "--ttl 0",
        "--ttl soon",
        "--if-match ''",
        "--if-match a --if-absent",
    ] {
        kv(&format!("put lock x {wrong}")).await.failed_usage();
    }
}

#[tokio::test]
async fn numbers_are_added_to() {
    let provider = Provider::start().await;
    let incr = "kv incr hits -g shop";
    assert_eq!(provider.ok(incr).await, "1");
    assert_eq!(provider.ok(&format!("{incr} --by -5")).await, "-4");
    let third = provider.json(incr).await;
    assert_eq!(third, json!({"key": "hits", "value": -3}));
    provider.ok("kv put hits many -g shop").await;
    provider
        .fails(incr, 1, &["the value is not a number"])
        .await;
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
    let lines = async |line: &str| provider.ok(line).await.lines().count();
    assert_eq!(lines("kv list -g shop").await, 2502);
    let listed = provider.json("kv list -g shop --prefix key/").await;
    let keys = listed.as_array().unwrap().iter();
    let keys: Vec<&Value> = keys.map(|k| &k["key"]).collect();
    assert_eq!(keys.len(), 2500);
    assert!(keys.is_sorted_by_key(|key| key.as_str()));
    let blobs = provider.json("blob list -g shop").await;
    assert_eq!(blobs.as_array().unwrap().len(), BLOBS);
    assert_eq!(blobs[0]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(lines("kv list -g shop --prefix none").await, 1);
}

#[tokio::test]
async fn groups_are_listed_shown_and_purged() {
    let provider = Provider::start().await;
    provider.ok("kv put k four -g a").await;
    provider.ok("kv put k four -g b").await;
    provider.piped("blob put b -g a", b"123").await.ok();
    provider.piped("secret set a s", b"x").await.ok();
    let list = provider.ok("group list").await;
    assert_eq!(list.lines().count(), 3, "{list}");
    let shown = provider.run("group show a").await;
    assert_eq!(shown.row(), ["a", "1", "5B", "1", "4B", "1"]);
    let purged = provider.json("group purge a").await;
    assert_eq!(purged, json!({"kv": 1, "blobs": 1, "secrets": 1}));
    provider
        .fails("group show a", 3, &["the group a has nothing"])
        .await;
    assert_eq!(
        provider.ok("group purge a").await,
        "deleted 0 keys, 0 blobs and 0 secrets of group a"
    );
    assert_eq!(provider.groups().await, ["b"]);
}
