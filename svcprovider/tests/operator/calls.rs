//! Calls of the operator API, and their refusals.

use bismuth_operator::Call;
use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use serde_json::json;

use crate::harness::{Harness, group};

fn secret(method: Method, name: &str) -> Call {
    Call::secret(method, &group("shop"), name)
}

#[tokio::test]
async fn secrets_are_set_rotated_listed_and_deleted() {
    let harness = Harness::start();
    let name = "a b/c";
    for (version, call) in [
        (1, secret(Method::PUT, name)),
        (2, secret(Method::PUT, name)),
        (3, Call::rotate(&group("shop"), name)),
    ] {
        let stored = harness.answered(call, "value").await;
        assert_eq!(stored, json!({"name": name, "version": version}));
    }
    let list = || Call::secrets(Method::GET, &group("shop"));
    let listed = harness.answered(list(), "").await;
    assert_eq!(listed["secrets"][0]["name"], name);
    assert_eq!(listed["secrets"][0]["version"], 3);
    let rewrapped = harness.answered(Call::rewrap(), "").await;
    assert_eq!(rewrapped["groups"], 0, "there is one master key");
    let deleted = harness.answered(secret(Method::DELETE, name), "").await;
    assert_eq!(deleted, json!({"name": name}));
    let none = harness.answered(list(), "").await;
    assert_eq!(none, json!({"secrets": []}));
    harness.end().await;
}

#[tokio::test]
async fn what_cannot_be_done_with_a_secret_is_refused_by_its_code() {
    let harness = Harness::start();
    let (shop, too_large) = (group("shop"), (64 << 10) + 1);
    for (call, body, status, code) in [
        (Call::rotate(&shop, "none"), 1, 404, "unknown_secret"),
        (secret(Method::DELETE, "none"), 0, 404, "unknown_secret"),
        (secret(Method::PUT, "empty"), 0, 400, "empty_secret"),
        (secret(Method::PUT, "large"), too_large, 413, "too_large"),
        (secret(Method::GET, "read"), 0, 405, "method_not_allowed"),
        (
            Call::secrets(Method::PUT, &shop),
            1,
            405,
            "method_not_allowed",
        ),
    ] {
        let asked = format!("{call:?}");
        let refused = harness.refused(call, vec![b'x'; body]).await;
        assert_eq!(refused, (status, code.to_owned()), "{asked}");
    }
    harness.end().await;
}

#[tokio::test]
async fn groups_are_listed_in_pages_and_shown_until_they_are_purged() {
    let harness = Harness::start();
    for name in ["another", "shop"] {
        let put = Call::kv(Method::PUT, &group(name), "k");
        let body = Full::new(Bytes::from("four"));
        harness.client.call(put, body).await.unwrap();
    }
    let page = || Call::new(Method::GET, "/group").query("limit", "1");
    let first = harness.answered(page(), "").await;
    assert_eq!(first["groups"][0]["group"], "another");
    assert_eq!(first["next"], "another");
    let rest = harness.answered(page().query("after", "another"), "").await;
    assert_eq!(rest["groups"][0]["group"], "shop");
    assert_eq!(rest.get("next"), None);

    let show = || Call::group(Method::GET, &group("shop"));
    let shown = harness.answered(show(), "").await;
    assert_eq!(shown["kv"], json!({"bytes": 5, "count": 1}));
    let purged = harness.answered(Call::purge(&group("shop")), "").await;
    assert_eq!(purged, json!({"kv": 1, "blobs": 0, "secrets": 0}));
    let gone = harness.refused(show(), "").await;
    assert_eq!(gone, (404, "unknown_group".to_owned()));
    let nowhere = harness
        .refused(Call::new(Method::GET, "/elsewhere"), "")
        .await;
    assert_eq!(nowhere, (404, "unknown_path".to_owned()));
    harness.end().await;
}
