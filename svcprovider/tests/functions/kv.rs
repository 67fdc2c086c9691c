//! The key/value API.

use std::sync::atomic::Ordering;

use bismuth_model::ServiceQuotas;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::Harness;

#[tokio::test]
async fn a_value_comes_back_as_it_was_set() {
    let (harness, function) = Harness::with_function().await;
    let text = ("content-type", "text/plain; charset=utf-8");
    let target = "/kv/v1/dir/%C3%A4%20b";
    let timed = format!("{target}?ttl=100");
    let set = function.with("PUT", &timed, text, "hello").await;
    assert_eq!((set.status.as_u16(), set.body.len()), (201, 0));
    let got = function.get("/kv/v1/dir%2F%c3%a4%20b").await;
    assert_eq!((got.status.as_u16(), &got.body[..]), (200, &b"hello"[..]));
    assert_eq!(got.header("content-type"), text.1);
    assert_eq!(got.header("etag"), set.header("etag"));
    assert!(got.header("last-modified").ends_with("GMT") && got.header("expires").ends_with("GMT"));
    let head = function.call("HEAD", target, "").await;
    assert_eq!((head.header("content-length"), head.body.len()), ("5", 0));
    let again = function.call("POST", target, vec![0; 1 << 20]).await;
    assert_eq!(again.status, 204);
    let got = function.get(target).await;
    assert_eq!(got.body.len(), 1 << 20);
    assert_eq!(got.header("content-type"), "application/octet-stream");
    assert_eq!(function.call("DELETE", target, "").await.status, 204);
    assert_eq!(function.get(target).await.code(), "not_found");
    assert_eq!(function.call("DELETE", target, "").await.status, 404);
    harness.end().await;
}

#[tokio::test]
async fn conditions_decide() {
    let (harness, function) = Harness::with_function().await;
    let any = ("if-none-match", "*");
    let first = function.with("PUT", "/kv/v1/lock", any, "me").await;
    assert_eq!(first.status, 201);
    let second = function.with("PUT", "/kv/v1/lock", any, "you").await;
    assert_eq!(second.status, 412);
    assert_eq!(second.header("etag"), first.header("etag"));
    let stale = ("if-match", "\"ffff\", \"zz\"");
    let tag = ("if-match", first.header("etag"));
    for (method, condition, body, status) in [
        ("DELETE", stale, "", 412),
        ("PUT", tag, "still me", 204),
        ("PUT", tag, "late", 412),
    ] {
        let reply = function.with(method, "/kv/v1/lock", condition, body).await;
        assert_eq!(reply.status, status, "{method} {body}");
    }
    let now = function.get("/kv/v1/lock").await;
    assert_eq!(now.body, "still me");
    let same = ("if-none-match", now.header("etag"));
    let unchanged = function.with("GET", "/kv/v1/lock", same, "").await;
    assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0));
    let none = function.with("GET", "/kv/v1/none", tag, "").await;
    assert_eq!(none.status, 412);
    let unquoted = ("if-match", "unquoted");
    let bad = function.with("PUT", "/kv/v1/lock", unquoted, "x").await;
    bad.assert_problem(400, "bad_condition", "unquoted");
    assert_eq!(function.get("/kv/v1/lock").await.body, "still me");
    harness.end().await;
}

#[tokio::test]
async fn a_counter_counts_and_only_post_is_special() {
    let (harness, function) = Harness::with_function().await;
    for (target, body, sum) in [
        ("/kv/v1/n/incr", "", "1"),
        ("/kv/v1/n/incr?by=41", "", "42"),
        ("/kv/v1/n/incr", "{\"by\":-2}", "40"),
    ] {
        let reply = function.call("POST", target, body).await;
        assert_eq!((reply.status.as_u16(), &*reply.body), (200, sum.as_bytes()));
        assert_eq!(reply.header("content-type"), "application/json");
    }
    assert_eq!(function.get("/kv/v1/n").await.body, "40");
    let most = format!("/kv/v1/n/incr?by={}", i64::MAX);
    let most = function.call("POST", &most, "").await;
    most.assert_problem(409, "out_of_range", "the largest number");
    function.call("PUT", "/kv/v1/t", "text").await;
    let text = function.call("POST", "/kv/v1/t/incr", "").await;
    text.assert_problem(409, "not_a_number", "text");
    for (target, body) in [
        ("?by=1.5", ""),
        ("?by=", ""),
        ("", "{\"by\":\"1\"}"),
        ("", "[1]"),
        ("?ttl=0", ""),
    ] {
        let target = format!("/kv/v1/n/incr{target}");
        let reply = function.call("POST", &target, body).await;
        assert_eq!(reply.status, 400, "{target} {body}");
    }
    assert_eq!(function.get("/kv/v1/n").await.body, "40");
    // Keys that look like an increment.
    for (method, target, body, status) in [
        ("PUT", "/kv/v1/n/incr", "a", 201),
        ("POST", "/kv/v1/n%2Fincr", "b", 204),
        ("POST", "/kv/v1/incr", "c", 201),
    ] {
        let reply = function.call(method, target, body).await;
        assert_eq!(reply.status, status, "{method} {target}");
    }
    assert_eq!(function.get("/kv/v1/n/incr").await.body, "b");
    harness.end().await;
}

#[tokio::test]
async fn a_listing_comes_in_pages() {
    let (harness, function) = Harness::with_function().await;
    for key in ["a", "b/1", "b/2", "b/3", "c"] {
        function.call("PUT", &format!("/kv/v1/{key}"), key).await;
    }
    let list = async |target: &str| function.get(target).await.json();
    let page = list("/kv/v1/?prefix=b%2F&limit=2").await;
    let key = |page: &serde_json::Value, index: usize| page["keys"][index]["key"].clone();
    assert_eq!((key(&page, 0), key(&page, 1)), (json!("b/1"), json!("b/2")));
    assert_eq!((&page["next"], key(&page, 2)), (&json!("b/2"), json!(null)));
    assert_eq!(page["keys"][0]["size"], 3);
    let page = list("/kv/v1/?prefix=b/&limit=2&after=b/2").await;
    assert_eq!((key(&page, 0), key(&page, 1)), (json!("b/3"), json!(null)));
    assert_eq!(page.get("next"), None);
    let all = list("/kv/v1").await;
    assert_eq!(all["keys"].as_array().unwrap().len(), 5);
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=1&limit=2",
        "colour=red",
        "prefix=%zz",
        "after=%00",
    ] {
        let reply = function.get(&format!("/kv/v1/?{bad}")).await;
        reply.assert_problem(400, "bad_query", bad);
    }
    harness.end().await;
}

#[tokio::test]
async fn a_batch_is_made_whole_or_not_at_all() {
    let (harness, function) = Harness::with_function().await;
    let batch = async |document: serde_json::Value| {
        let body = document.to_string();
        function.call("POST", "/kv/v1/?batch", body).await
    };
    let done = batch(json!({"write": [
        {"key": "a", "value": "aGk=", "content_type": "text/plain"},
        {"key": "n", "add": 3},
        {"key": "n", "add": 4},
    ]}))
    .await;
    assert_eq!(done.status, 200, "{done:?}");
    let done = done.json();
    assert_eq!(done["written"][2]["sum"], 7);
    assert_eq!(done["written"][0]["created"], true);
    let tag = &done["written"][0]["etag"];
    let refused = batch(json!({"write": [
        {"key": "a", "value": "bm8=", "if_match": tag},
        {"key": "n", "delete": true},
        {"key": "missing", "delete": true},
    ]}))
    .await;
    refused.assert_problem(404, "not_found", "a deletion of nothing");
    assert!(refused.detail().contains("write[2]"), "{refused:?}");
    let got = batch(json!({"get": ["n", "missing", "a"]})).await.json();
    let values = [0, 1, 2].map(|index| got["values"][index]["value"].clone());
    assert_eq!(values, [json!("Nw=="), json!(null), json!("aGk=")]);
    for bad in [
        json!({}),
        json!([]),
        json!({"get": []}),
        json!({"get": ["a"], "write": []}),
        json!({"get": ["../a"]}),
        json!({"write": [{"key": "a"}]}),
        json!({"write": [{"key": "a", "value": "!"}]}),
        json!({"write": [{"key": "a", "value": "", "add": 1}]}),
        json!({"write": [{"key": "", "add": 1}]}),
        json!({"write": [{"key": "a", "value": "", "ttl": 0}]}),
        json!({"write": [{"key": "a", "value": "", "if_match": "x"}]}),
        json!({"get": vec!["a"; 129]}),
    ] {
        assert_eq!(batch(bad.clone()).await.status, 400, "{bad}");
    }
    assert_eq!(function.call("POST", "/kv/v1/", "{}").await.status, 400);
    harness.end().await;
}

#[tokio::test]
async fn bad_keys_and_bodies_change_nothing() {
    let (harness, function) = Harness::with_function().await;
    let long = "a".repeat(513);
    for key in [
        "a%00b",
        "a/../b",
        "a/%2e%2e",
        "%ff",
        "%",
        "a//b",
        "a/",
        &long,
        &"%41".repeat(513),
    ] {
        let reply = function.call("PUT", &format!("/kv/v1/{key}"), "x").await;
        reply.assert_problem(400, "bad_key", key);
    }
    let large = vec![0; (1 << 20) + 1];
    let large = function.call("PUT", "/kv/v1/x", large).await;
    large.assert_problem(413, "too_large", "more than a mebibyte");
    for ttl in ["0", "-1", "x", "1e3", "99999999999999999999"] {
        let target = format!("/kv/v1/x?ttl={ttl}");
        let reply = function.call("PUT", &target, "").await;
        assert_eq!(reply.status, 400, "{ttl}");
    }
    function.cut_off("PUT /kv/v1/x", 10, b"half").await;
    let chunked = "transfer-encoding: chunked\r\n";
    let mut endless = function.begin("PUT /kv/v1/x", chunked).await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..17 {
        // It may be told to stop before it has said everything.
        let _sent = endless.write_all(chunk.as_bytes()).await;
    }
    let mut answer = [0; 12];
    endless.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    let listed = function.get("/kv/v1/?limit=1").await.json();
    assert_eq!(listed["keys"], json!([]));
    harness.end().await;
}

#[tokio::test]
async fn exceeded_quotas_and_failed_engines_have_their_own_status() {
    let mut harness = Harness::start().await;
    let quotas = ServiceQuotas {
        kv_bytes: Some(10),
        kv_keys: Some(2),
        ..ServiceQuotas::default()
    };
    let function = harness.function_with("a", quotas).await;
    for (target, value, refused) in [
        ("/kv/v1/a", "12345", None),
        ("/kv/v1/b", "1234567890", Some((413, "too_large"))),
        ("/kv/v1/b", "12345", Some((507, "quota_exceeded"))),
        ("/kv/v1/b", "1", None),
        ("/kv/v1/c", "", Some((507, "quota_exceeded"))),
    ] {
        let reply = function.call("PUT", target, value).await;
        match refused {
            Some((status, code)) => reply.assert_problem(status, code, value),
            None => assert_eq!(reply.status, 201, "{target} {value}"),
        }
    }
    harness.store.full.store(true, Ordering::SeqCst);
    let full = function.call("PUT", "/kv/v1/a", "1").await;
    full.assert_problem(507, "disk_full", "a full disk");
    harness.store.full.store(false, Ordering::SeqCst);
    harness.store.away.store(true, Ordering::SeqCst);
    let away = function.get("/kv/v1/a").await;
    assert_eq!(
        (away.status.as_u16(), away.header("retry-after")),
        (503, "1")
    );
    let said = String::from_utf8_lossy(&away.body).into_owned();
    assert!(!said.contains("10.1.2.3"), "{said}");
    harness.store.away.store(false, Ordering::SeqCst);
    assert_eq!(function.get("/kv/v1/a").await.body, "12345");
    harness.end().await;
}

#[tokio::test]
async fn dates_are_conditions_of_keys_too() {
    let (harness, function) = Harness::with_function().await;
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT";
    function.call("PUT", "/kv/v1/n", "1").await;
    let got = function.get("/kv/v1/n").await;
    let modified = got.header("last-modified");
    let (since, until) = ("if-modified-since", "if-unmodified-since");
    for (method, key, name, date, status) in [
        ("GET", "n", since, modified, 304),
        ("GET", "n", since, long_ago, 200),
        ("GET", "n", until, long_ago, 412),
        ("PUT", "n", until, long_ago, 412),
        ("POST", "n/incr", until, long_ago, 412),
        ("DELETE", "n", until, long_ago, 412),
        // Only reads have to do with it.
        ("PUT", "n", since, modified, 204),
        ("PUT", "new", until, long_ago, 201),
        ("DELETE", "none", until, long_ago, 404),
    ] {
        let body = if method == "PUT" { "2" } else { "" };
        let target = format!("/kv/v1/{key}");
        let reply = function.with(method, &target, (name, date), body).await;
        assert_eq!(reply.status, status, "{method} {target} {name}: {date}");
    }
    let now = function.get("/kv/v1/n").await;
    let until = ("if-unmodified-since", now.header("last-modified"));
    let deleted = function.with("DELETE", "/kv/v1/n", until, "").await;
    assert_eq!(deleted.status, 204);
    harness.end().await;
}

#[tokio::test]
async fn a_wrong_digest_and_a_content_range_are_refused() {
    let (harness, function) = Harness::with_function().await;
    let zeros = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
    for (service, method) in [("kv", "PUT"), ("blob", "POST")] {
        let target = format!("/{service}/v1/x");
        for (field, code) in [
            (("content-digest", zeros), "digest_mismatch"),
            (("content-range", "bytes 0-1/10"), "content_range"),
        ] {
            let reply = function.with(method, &target, field, "ab").await;
            reply.assert_problem(400, code, &target);
        }
        assert_eq!(function.get(&target).await.status, 404);
    }
    // As the SHA-256 of "ab" is.
    let right = "sha-256=:+44g/C5MPySMYMOb1lLzwTRymLuXe4tNWQO4UFViBgM=:";
    let right = ("content-digest", right);
    let reply = function.with("PUT", "/kv/v1/x", right, "ab").await;
    assert_eq!(reply.status, 201);
    harness.end().await;
}
