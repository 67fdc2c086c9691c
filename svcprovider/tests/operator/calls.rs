//! Calls of the operator API, and their refusals.

use bismuth_model::ServiceGroup;
use bismuth_operator::{Call, CallError, json};
use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::Harness;

fn group(name: &str) -> ServiceGroup {
    name.parse().unwrap()
}

fn secret(method: Method, name: &str) -> Call {
    Call::secret(method, &group("shop"), name)
}

async fn answered(harness: &Harness, call: Call, body: impl Into<Bytes>) -> Value {
    let answer = harness.client.call(call, Full::new(body.into())).await;
    json(&harness.client, answer.unwrap()).await.unwrap()
}

async fn refused(harness: &Harness, call: Call, body: impl Into<Bytes>) -> (u16, String) {
    match harness.client.call(call, Full::new(body.into())).await {
        Err(CallError::Refused(no)) => (no.status.as_u16(), no.code),
        other => panic!("it is not refused: {other:?}"),
    }
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
        let stored = answered(&harness, call, "value").await;
        assert_eq!(stored, json!({"name": name, "version": version}));
    }
    let list = || Call::secrets(Method::GET, &group("shop"));
    let listed = answered(&harness, list(), "").await;
    assert_eq!(listed["secrets"][0]["name"], name);
    assert_eq!(listed["secrets"][0]["version"], 3);
    let rewrapped = answered(&harness, Call::rewrap(), "").await;
    assert_eq!(rewrapped["groups"], 0, "there is one master key");
    let deleted = answered(&harness, secret(Method::DELETE, name), "").await;
    assert_eq!(deleted, json!({"name": name}));
    let none = answered(&harness, list(), "").await;
    assert_eq!(none, json!({"secrets": []}));
    harness.end().await;
}

#[tokio::test]
async fn what_cannot_be_done_with_a_secret_is_refused_by_its_code() {
    let harness = Harness::start();
    for (call, body, status, code) in [
        (
            Call::rotate(&group("shop"), "none"),
            1,
            404,
            "unknown_secret",
        ),
        (secret(Method::DELETE, "none"), 0, 404, "unknown_secret"),
        (secret(Method::PUT, "empty"), 0, 400, "empty_secret"),
        (
            secret(Method::PUT, "large"),
            (64 << 10) + 1,
            413,
            "too_large",
        ),
        (secret(Method::GET, "read"), 0, 405, "method_not_allowed"),
        (
            Call::secrets(Method::PUT, &group("shop")),
            1,
            405,
            "method_not_allowed",
        ),
    ] {
        let asked = format!("{call:?}");
        let refused = refused(&harness, call, vec![b'x'; body]).await;
        assert_eq!(refused, (status, code.to_owned()), "{asked}");
    }
    harness.end().await;
}

#[tokio::test]
async fn groups_are_listed_in_pages_and_shown_until_they_are_purged() {
    let harness = Harness::start();
    for name in ["another", "shop"] {
        let put = Call::kv(Method::PUT, &group(name), "k");
        harness
            .client
            .call(put, Full::new(Bytes::from("four")))
            .await
            .unwrap();
    }
    let page = || Call::new(Method::GET, "/group").query("limit", "1");
    let first = answered(&harness, page(), "").await;
    assert_eq!(
        (&first["groups"][0]["group"], &first["next"]),
        (&json!("another"), &json!("another"))
    );
    let rest = answered(&harness, page().query("after", "another"), "").await;
    assert_eq!(
        (&rest["groups"][0]["group"], rest.get("next")),
        (&json!("shop"), None)
    );

    let show = || Call::group(Method::GET, &group("shop"));
    let shown = answered(&harness, show(), "").await;
    assert_eq!(shown["kv"], json!({"bytes": 5, "count": 1}));
    let purged = answered(&harness, Call::purge(&group("shop")), "").await;
    assert_eq!(purged, json!({"kv": 1, "blobs": 0, "secrets": 0}));
    let gone = refused(&harness, show(), "").await;
    assert_eq!(gone, (404, "unknown_group".to_owned()));
    let nowhere = refused(&harness, Call::new(Method::GET, "/elsewhere"), "").await;
    assert_eq!(nowhere, (404, "unknown_path".to_owned()));
    harness.end().await;
}
