//! The blob API.

use std::sync::atomic::Ordering;

use bismuth_model::ServiceQuotas;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::harness::Harness;

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 251) as u8).collect()
}

#[tokio::test]
async fn post_creates_put_replaces_and_delete_removes() {
    let (harness, function) = Harness::with_function().await;
    let none = function.call("PUT", "/blob/v1/x", "no").await;
    none.assert_problem(404, "not_found", "a replacement of nothing");
    let (all, png) = (bytes(300_000), ("content-type", "image/png"));
    let created = function.with("POST", "/blob/v1/x", png, all.clone()).await;
    assert_eq!(created.status, 201);
    let twice = function.call("POST", "/blob/v1/x", "no").await;
    twice.assert_problem(409, "blob_exists", "created twice");
    let got = function.get("/blob/v1/x").await;
    assert_eq!((got.status.as_u16(), &*got.body), (200, &*all));
    assert_eq!(got.header("content-type"), "image/png");
    assert_eq!(got.header("content-length"), "300000");
    assert_eq!(got.header("etag"), created.header("etag"));
    assert_eq!(got.header("repr-digest"), created.header("repr-digest"));
    let head = function.call("HEAD", "/blob/v1/x", "").await;
    assert_eq!(
        (head.header("content-length"), head.body.len()),
        ("300000", 0)
    );
    assert_eq!(function.call("PUT", "/blob/v1/x", "").await.status, 204);
    let got = function.get("/blob/v1/x").await;
    assert_eq!((got.status.as_u16(), got.body.len()), (200, 0));
    assert_eq!(got.header("content-length"), "0");
    assert_eq!(function.call("DELETE", "/blob/v1/x", "").await.status, 204);
    assert_eq!(function.call("DELETE", "/blob/v1/x", "").await.status, 404);
    harness.end().await;
}

#[tokio::test]
async fn conditions_decide_instead_of_the_method() {
    let (harness, function) = Harness::with_function().await;
    let none = ("if-none-match", "*");
    let first = function.with("PUT", "/blob/v1/x", none, "1").await;
    assert_eq!(first.status, 201);
    let second = function.with("PUT", "/blob/v1/x", none, "2").await;
    second.assert_problem(412, "precondition_failed", "a second one");
    let tag = ("if-match", first.header("etag"));
    for (method, body, status) in [("POST", "3", 204), ("DELETE", "", 412), ("GET", "", 412)] {
        let reply = function.with(method, "/blob/v1/x", tag, body).await;
        assert_eq!(reply.status, status, "{method}");
    }
    let now = function.get("/blob/v1/x").await;
    assert_eq!(now.body, "3");
    let same = ("if-none-match", now.header("etag"));
    let unchanged = function.with("GET", "/blob/v1/x", same, "").await;
    assert_eq!(unchanged.status, 304);
    harness.end().await;
}

#[tokio::test]
async fn a_range_is_answered_with_that_part() {
    let (harness, function) = Harness::with_function().await;
    let all = bytes(200_000);
    let created = function.call("POST", "/blob/v1/x", all.clone()).await;
    for (range, part, said) in [
        ("0-9", 0..10, "bytes 0-9/200000"),
        ("65530-65545", 65_530..65_546, "bytes 65530-65545/200000"),
        ("-5", 199_995..200_000, "bytes 199995-199999/200000"),
        ("199999-", 199_999..200_000, "bytes 199999-199999/200000"),
    ] {
        let field = format!("bytes={range}");
        let reply = function
            .with("GET", "/blob/v1/x", ("range", &field), "")
            .await;
        assert_eq!(
            (reply.status.as_u16(), &*reply.body),
            (206, &all[part]),
            "{range}"
        );
        assert_eq!(reply.header("content-range"), said);
    }
    for (range, status, said) in [
        ("bytes=0-1,5-6", 200, ""),
        ("bytes=200000-", 416, "bytes */200000"),
        ("bytes=5-1", 400, ""),
    ] {
        let reply = function
            .with("GET", "/blob/v1/x", ("range", range), "")
            .await;
        assert_eq!(reply.status, status, "{range}");
        assert_eq!(reply.header("content-range"), said, "{range}");
        assert_eq!(reply.body == all, status == 200, "{range}");
    }
    let date = function.get("/blob/v1/x").await;
    let date = date.header("last-modified");
    for (tag, status) in [
        (created.header("etag"), 206),
        ("\"0\"", 200),
        // In its second there may have been another blob.
        (date, 200),
    ] {
        let request = function
            .request("GET", "/blob/v1/x")
            .header("range", "bytes=0-0");
        let reply = function.send(request.header("if-range", tag), "").await;
        assert_eq!(reply.status, status);
    }
    harness.end().await;
}

#[tokio::test]
async fn a_digest_that_does_not_match_changes_nothing() {
    use base64::Engine as _;
    let (harness, function) = Harness::with_function().await;
    let digest = |bytes: &[u8]| {
        let encoded = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(bytes));
        format!("sha-256=:{encoded}:")
    };
    for name in ["repr-digest", "content-digest"] {
        for (value, code) in [
            (&*digest(b"other"), "digest_mismatch"),
            ("sha-256=abc", "bad_digest"),
        ] {
            let field = (name, value);
            let reply = function.with("POST", "/blob/v1/x", field, "text").await;
            reply.assert_problem(400, code, name);
        }
    }
    assert_eq!(function.get("/blob/v1/x").await.status, 404);
    assert_eq!(harness.store.objects(), 0);
    let right = ("repr-digest", &*digest(b"text"));
    let stored = function.with("POST", "/blob/v1/x", right, "text").await;
    assert_eq!(stored.status, 201);
    assert_eq!(stored.header("repr-digest"), right.1);
    harness.end().await;
}

#[tokio::test]
async fn a_broken_upload_leaves_the_old_blob() {
    let (harness, function) = Harness::with_function().await;
    function.call("POST", "/blob/v1/x", "old").await;
    let half = bytes(500_000);
    function.cut_off("PUT /blob/v1/x", 1_000_000, &half).await;
    assert_eq!(function.get("/blob/v1/x").await.body, "old");
    assert_eq!(harness.store.objects(), 1);
    harness.end().await;
}

#[tokio::test]
async fn the_bare_list_is_an_array_of_all_keys_and_a_part_says_where_it_goes_on() {
    let (harness, function) = Harness::with_function().await;
    assert_eq!(function.get("/blob/v1/").await.json(), json!([]));
    let keys: Vec<String> = (0..250).map(|n| format!("k/{n:03} \"&")).collect();
    for n in 0..250 {
        let key = format!("/blob/v1/k/{n:03}%20%22%26");
        assert_eq!(function.call("POST", &key, "x").await.status, 201);
    }
    let all = function.get("/blob/v1/").await;
    assert_eq!(all.json(), json!(keys));
    assert_eq!(all.header("content-type"), "application/json");
    let mut target = "/blob/v1/?prefix=k/&limit=100".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = function.get(&target).await;
        seen.extend(page.json().as_array().unwrap().clone());
        match page.header("link").strip_suffix(">; rel=\"next\"") {
            Some(next) => target = next[1..].to_owned(),
            None => break,
        }
    }
    assert_eq!(json!(seen), json!(keys));
    let details = function.get("/blob/v1/?details&limit=1").await.json();
    assert_eq!(details["blobs"][0]["size"], 1);
    assert_eq!(details["next"], keys[0]);
    let digest = Sha256::digest("x");
    let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(details["blobs"][0]["sha256"], digest);
    harness.end().await;
}

#[tokio::test]
async fn exceeded_quotas_and_unavailable_engines_have_their_own_status() {
    let mut harness = Harness::start().await;
    let quotas = ServiceQuotas {
        blob_bytes: Some(100),
        blob_count: Some(1),
        ..ServiceQuotas::default()
    };
    let function = harness.function_with("a", quotas).await;
    let large = function.call("POST", "/blob/v1/x", bytes(100)).await;
    large.assert_problem(413, "too_large", "more than the group may have");
    let fits = function.call("POST", "/blob/v1/x", bytes(99)).await;
    assert_eq!(fits.status, 201);
    let another = function.call("POST", "/blob/v1/y", "").await;
    another.assert_problem(507, "quota_exceeded", "one more");
    harness.store.away.store(true, Ordering::SeqCst);
    for (method, target) in [
        ("GET", "/blob/v1/x"),
        ("GET", "/blob/v1/"),
        ("PUT", "/blob/v1/x"),
        ("DELETE", "/blob/v1/x"),
    ] {
        let reply = function.call(method, target, "").await;
        assert_eq!(reply.status, 503, "{method} {target}");
    }
    harness.end().await;
}

#[tokio::test]
async fn dates_are_conditions_where_there_are_no_tags() {
    let (harness, function) = Harness::with_function().await;
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT";
    function.call("POST", "/blob/v1/x", "1").await;
    let got = function.get("/blob/v1/x").await;
    let (tag, modified) = (got.header("etag"), got.header("last-modified"));
    for (name, date, status) in [
        ("if-modified-since", modified, 304),
        ("if-modified-since", long_ago, 200),
        ("if-unmodified-since", modified, 200),
        ("if-unmodified-since", long_ago, 412),
        ("if-unmodified-since", "yesterday", 200),
    ] {
        let reply = function.with("GET", "/blob/v1/x", (name, date), "").await;
        assert_eq!(reply.status, status, "{name}: {date}");
    }
    let until = |date| ("if-unmodified-since", date);
    for (method, target, date, status) in [
        ("PUT", "/blob/v1/x", long_ago, 412),
        ("DELETE", "/blob/v1/x", long_ago, 412),
        // What the method asks for comes first.
        ("POST", "/blob/v1/x", modified, 409),
        ("PUT", "/blob/v1/none", modified, 404),
        ("DELETE", "/blob/v1/none", modified, 404),
        ("PUT", "/blob/v1/x", modified, 204),
        ("POST", "/blob/v1/new", long_ago, 201),
        ("DELETE", "/blob/v1/new", "nonsense", 204),
    ] {
        let reply = function.with(method, target, until(date), "2").await;
        assert_eq!(reply.status, status, "{method} {target} {date}");
    }
    // A tag says more than a date.
    let request = function
        .request("PUT", "/blob/v1/x")
        .header("if-match", tag);
    let request = request.header("if-unmodified-since", modified);
    assert_eq!(function.send(request, "3").await.status, 412);
    assert_eq!(function.get("/blob/v1/x").await.body, "2");
    harness.end().await;
}

#[tokio::test]
async fn a_body_with_a_content_encoding_is_refused_and_not_stored() {
    let (harness, function) = Harness::with_function().await;
    function.call("POST", "/blob/v1/x", "old").await;
    let gzip = ("content-encoding", "gzip");
    for (method, target) in [
        ("PUT", "/blob/v1/x"),
        ("PUT", "/kv/v1/x"),
        ("POST", "/kv/v1/?batch"),
    ] {
        let reply = function.with(method, target, gzip, "zzz").await;
        reply.assert_problem(415, "content_encoding", target);
        assert_eq!(reply.header("accept-encoding"), "identity");
        assert!(reply.detail().contains("Content-Encoding"), "{reply:?}");
    }
    assert_eq!(function.get("/blob/v1/x").await.body, "old");
    assert_eq!(function.get("/kv/v1/x").await.status, 404);
    let plain = ("content-encoding", "identity");
    let reply = function.with("PUT", "/blob/v1/x", plain, "new").await;
    assert_eq!(reply.status, 204);
    harness.end().await;
}
