//! The key/value API.

use std::sync::atomic::Ordering;

use bismuth_model::ServiceQuotas;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{HOST, Harness};

#[tokio::test]
async fn a_value_comes_back_as_it_was_set() {
    let mut harness = Harness::start().await;
    let function = harness.function("a").await;
    let text = ("content-type", "text/plain; charset=utf-8");
    let set = function
        .with("PUT", "/kv/v1/dir/%C3%A4%20b?ttl=100", text, "hello")
        .await;
    assert_eq!((set.status.as_u16(), set.body.len()), (201, 0));
    let got = function.get("/kv/v1/dir%2F%c3%a4%20b").await;
    assert_eq!((got.status.as_u16(), &got.body[..]), (200, &b"hello"[..]));
    assert_eq!(got.header("content-type"), text.1);
    assert_eq!(got.header("etag"), set.header("etag"));
    assert!(got.header("last-modified").ends_with("GMT") && got.header("expires").ends_with("GMT"));
    let head = function.call("HEAD", "/kv/v1/dir/%C3%A4%20b", "").await;
    assert_eq!((head.header("content-length"), head.body.len()), ("5", 0));
    let again = function
        .call("POST", "/kv/v1/dir/%C3%A4%20b", vec![0; 1 << 20])
        .await;
    assert_eq!(again.status, 204);
    let got = function.get("/kv/v1/dir/%C3%A4%20b").await;
    assert_eq!(
        (got.body.len(), got.header("content-type")),
        (1 << 20, "application/octet-stream")
    );
    assert_eq!(
        function
            .call("DELETE", "/kv/v1/dir/%C3%A4%20b", "")
            .await
            .status,
        204
    );
    assert_eq!(
        function.get("/kv/v1/dir/%C3%A4%20b").await.code(),
        "not_found"
    );
    assert_eq!(
        function
            .call("DELETE", "/kv/v1/dir/%C3%A4%20b", "")
            .await
            .status,
        404
    );
    harness.end().await;
}

#[tokio::test]
async fn conditions_decide() {
    let mut harness = Harness::start().await;
    let function = harness.function("a").await;
    let any = ("if-none-match", "*");
    let first = function.with("PUT", "/kv/v1/lock", any, "me").await;
    assert_eq!(first.status, 201);
    let second = function.with("PUT", "/kv/v1/lock", any, "you").await;
    assert_eq!(
        (second.status.as_u16(), second.header("etag")),
        (412, first.header("etag"))
    );
    let stale = ("if-match", "\"ffff\", \"zz\"");
    assert_eq!(
        function
            .with("DELETE", "/kv/v1/lock", stale, "")
            .await
            .status,
        412
    );
    let tag = ("if-match", first.header("etag"));
    assert_eq!(
        function
            .with("PUT", "/kv/v1/lock", tag, "still me")
            .await
            .status,
        204
    );
    assert_eq!(
        function
            .with("PUT", "/kv/v1/lock", tag, "late")
            .await
            .status,
        412
    );
    let now = function.get("/kv/v1/lock").await;
    assert_eq!(now.body, "still me");
    let same = ("if-none-match", now.header("etag"));
    let unchanged = function.with("GET", "/kv/v1/lock", same, "").await;
    assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0));
    assert_eq!(
        function.with("GET", "/kv/v1/none", tag, "").await.status,
        412
    );
    let bad = function
        .with("PUT", "/kv/v1/lock", ("if-match", "unquoted"), "x")
        .await;
    assert_eq!(
        (bad.status.as_u16(), bad.code().as_str()),
        (400, "bad_condition")
    );
    assert_eq!(function.get("/kv/v1/lock").await.body, "still me");
    harness.end().await;
}

#[tokio::test]
async fn a_counter_counts_and_only_post_is_special() {
    let mut harness = Harness::start().await;
    let function = harness.function("a").await;
    for (target, body, sum) in [
        ("/kv/v1/n/incr", "", "1"),
        ("/kv/v1/n/incr?by=41", "", "42"),
        ("/kv/v1/n/incr", "{\"by\":-2}", "40"),
    ] {
        let reply = function.call("POST", target, body).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.body[..]),
            (200, sum.as_bytes())
        );
        assert_eq!(reply.header("content-type"), "application/json");
    }
    assert_eq!(function.get("/kv/v1/n").await.body, "40");
    let most = format!("/kv/v1/n/incr?by={}", i64::MAX);
    assert_eq!(
        function.call("POST", &most, "").await.code(),
        "out_of_range"
    );
    function.call("PUT", "/kv/v1/t", "text").await;
    let text = function.call("POST", "/kv/v1/t/incr", "").await;
    assert_eq!(
        (text.status.as_u16(), text.code().as_str()),
        (409, "not_a_number")
    );
    for (target, body) in [
        ("?by=1.5", ""),
        ("?by=", ""),
        ("", "{\"by\":\"1\"}"),
        ("", "[1]"),
        ("?ttl=0", ""),
    ] {
        let reply = function
            .call("POST", &format!("/kv/v1/n/incr{target}"), body)
            .await;
        assert_eq!(reply.status, 400, "{target} {body}");
    }
    assert_eq!(function.get("/kv/v1/n").await.body, "40");
    // Keys that look like an increment.
    assert_eq!(function.call("PUT", "/kv/v1/n/incr", "a").await.status, 201);
    assert_eq!(
        function.call("POST", "/kv/v1/n%2Fincr", "b").await.status,
        204
    );
    assert_eq!(function.call("POST", "/kv/v1/incr", "c").await.status, 201);
    assert_eq!(function.get("/kv/v1/n/incr").await.body, "b");
    harness.end().await;
}

#[tokio::test]
async fn a_listing_comes_in_pages() {
    let mut harness = Harness::start().await;
    let function = harness.function("a").await;
    for key in ["a", "b/1", "b/2", "b/3", "c"] {
        function.call("PUT", &format!("/kv/v1/{key}"), key).await;
    }
    let page = function.get("/kv/v1/?prefix=b%2F&limit=2").await.json();
    let keys = |page: &serde_json::Value| -> Vec<String> {
        let keys = page["keys"].as_array().unwrap();
        keys.iter()
            .map(|k| k["key"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys(&page), ["b/1", "b/2"]);
    assert_eq!(
        (&page["next"], &page["keys"][0]["size"]),
        (&json!("b/2"), &json!(3))
    );
    let page = function
        .get("/kv/v1/?prefix=b/&limit=2&after=b/2")
        .await
        .json();
    assert_eq!(
        (keys(&page), page.get("next")),
        (vec!["b/3".to_owned()], None)
    );
    assert_eq!(keys(&function.get("/kv/v1").await.json()).len(), 5);
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
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "bad_query"),
            "{bad}"
        );
    }
    harness.end().await;
}

#[tokio::test]
async fn a_batch_is_made_whole_or_not_at_all() {
    let mut harness = Harness::start().await;
    let function = harness.function("a").await;
    let batch = async |document: serde_json::Value| {
        function
            .call("POST", "/kv/v1/?batch", document.to_string())
            .await
    };
    let done = batch(json!({"write": [
        {"key": "a", "value": "aGk=", "content_type": "text/plain"},
        {"key": "n", "add": 3},
        {"key": "n", "add": 4},
    ]}))
    .await;
    assert_eq!(done.status, 200, "{done:?}");
    let done = done.json();
    assert_eq!(
        (&done["written"][2]["sum"], &done["written"][0]["created"]),
        (&json!(7), &json!(true))
    );
    let tag = &done["written"][0]["etag"];
    let refused = batch(json!({"write": [
        {"key": "a", "value": "bm8=", "if_match": tag},
        {"key": "n", "delete": true},
        {"key": "missing", "delete": true},
    ]}))
    .await;
    assert_eq!(
        (refused.status.as_u16(), refused.code().as_str()),
        (404, "not_found")
    );
    assert!(
        refused.json()["detail"]
            .as_str()
            .unwrap()
            .contains("write[2]")
    );
    let got = batch(json!({"get": ["n", "missing", "a"]})).await.json();
    let values: Vec<_> = got["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["value"].clone())
        .collect();
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
    let mut harness = Harness::start().await;
    let function = harness.function("a").await;
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
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "bad_key"),
            "{key}"
        );
    }
    let large = function
        .call("PUT", "/kv/v1/x", vec![0; (1 << 20) + 1])
        .await;
    assert_eq!(
        (large.status.as_u16(), large.code().as_str()),
        (413, "too_large")
    );
    for ttl in ["0", "-1", "x", "1e3", "99999999999999999999"] {
        assert_eq!(
            function
                .call("PUT", &format!("/kv/v1/x?ttl={ttl}"), "")
                .await
                .status,
            400,
            "{ttl}"
        );
    }
    let mut cut = TcpStream::connect(function.address).await.unwrap();
    let head = format!(
        "PUT /kv/v1/x HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {}\r\n",
        function.token
    );
    cut.write_all(format!("{head}content-length: 10\r\n\r\nhalf").as_bytes())
        .await
        .unwrap();
    cut.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ended = cut.read_to_end(&mut rest).await;
    let mut endless = TcpStream::connect(function.address).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    endless
        .write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes())
        .await
        .unwrap();
    for _ in 0..17 {
        // It may be told to stop before it has said everything.
        let _sent = endless.write_all(chunk.as_bytes()).await;
    }
    let mut answer = [0; 12];
    endless.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(
        function.get("/kv/v1/?limit=1").await.json()["keys"],
        json!([])
    );
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
    assert_eq!(function.call("PUT", "/kv/v1/a", "12345").await.status, 201);
    let code = async |key: &str, value: &'static str| {
        let reply = function.call("PUT", &format!("/kv/v1/{key}"), value).await;
        (
            reply.status.as_u16(),
            if reply.status.is_success() {
                String::new()
            } else {
                reply.code()
            },
        )
    };
    assert_eq!(code("b", "1234567890").await, (413, "too_large".to_owned()));
    assert_eq!(code("b", "12345").await, (507, "quota_exceeded".to_owned()));
    assert_eq!(code("b", "1").await, (201, String::new()));
    assert_eq!(code("c", "").await, (507, "quota_exceeded".to_owned()));
    harness.store.full.store(true, Ordering::SeqCst);
    assert_eq!(code("a", "1").await, (507, "disk_full".to_owned()));
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
    let mut harness = Harness::start().await;
    let function = harness.function("a").await;
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT";
    function.call("PUT", "/kv/v1/n", "1").await;
    let got = function.get("/kv/v1/n").await;
    let modified = got.header("last-modified");
    for (method, target, name, date, status) in [
        ("GET", "/kv/v1/n", "if-modified-since", modified, 304),
        ("GET", "/kv/v1/n", "if-modified-since", long_ago, 200),
        ("GET", "/kv/v1/n", "if-unmodified-since", long_ago, 412),
        ("PUT", "/kv/v1/n", "if-unmodified-since", long_ago, 412),
        (
            "POST",
            "/kv/v1/n/incr",
            "if-unmodified-since",
            long_ago,
            412,
        ),
        ("DELETE", "/kv/v1/n", "if-unmodified-since", long_ago, 412),
        // Only reads have to do with it.
        ("PUT", "/kv/v1/n", "if-modified-since", modified, 204),
        ("PUT", "/kv/v1/new", "if-unmodified-since", long_ago, 201),
        (
            "DELETE",
            "/kv/v1/none",
            "if-unmodified-since",
            long_ago,
            404,
        ),
    ] {
        let body = if method == "PUT" { "2" } else { "" };
        let reply = function.with(method, target, (name, date), body).await;
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
    let mut harness = Harness::start().await;
    let function = harness.function("a").await;
    let zeros = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
    for (service, method) in [("kv", "PUT"), ("blob", "POST")] {
        let target = format!("/{service}/v1/x");
        for (field, code) in [
            (("content-digest", zeros), "digest_mismatch"),
            (("content-range", "bytes 0-1/10"), "content_range"),
        ] {
            let reply = function.with(method, &target, field, "ab").await;
            let told = (reply.status.as_u16(), reply.code());
            assert_eq!(told, (400, code.to_owned()), "{target}");
        }
        assert_eq!(function.get(&target).await.status, 404);
    }
    // As the SHA-256 of "ab" is.
    let right = "sha-256=:+44g/C5MPySMYMOb1lLzwTRymLuXe4tNWQO4UFViBgM=:";
    let reply = function
        .with("PUT", "/kv/v1/x", ("content-digest", right), "ab")
        .await;
    assert_eq!(reply.status, 201);
    harness.end().await;
}
