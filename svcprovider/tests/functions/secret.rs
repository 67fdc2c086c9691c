//! The secrets API.

use crate::harness::Harness;

#[tokio::test]
async fn a_function_reads_its_group_s_secrets_and_their_earlier_versions() {
    let mut harness = Harness::start().await;
    let (function, other) = (harness.function("a").await, harness.function("b").await);
    harness
        .store
        .set_secret("a", "db/password", &["old", "new"]);
    let now = function.get("/secrets/v1/db/password").await;
    assert_eq!((now.status.as_u16(), &now.body[..]), (200, &b"new"[..]));
    assert_eq!(now.header("x-bismuth-secret-version"), "2");
    assert_eq!(now.header("cache-control"), "no-store");
    let earlier = function.get("/secrets/v1/db/password?version=1").await;
    assert_eq!(earlier.body, "old");
    for target in [
        "db/password?version=3",
        "db/password?version=0",
        "other",
        "",
    ] {
        let reply = function.get(&format!("/secrets/v1/{target}")).await;
        reply.assert_problem(404, "not_found", target);
    }
    for target in ["db/password?version=x", ".."] {
        let reply = function.get(&format!("/secrets/v1/{target}")).await;
        assert_eq!(reply.status, 400, "{target}");
    }
    assert_eq!(other.get("/secrets/v1/db/password").await.status, 404);
    harness.end().await;
}

#[tokio::test]
async fn bismuthd_may_ask_for_a_secret_too() {
    let mut harness = Harness::start().await;
    harness.store.set_secret("a", "key", &["value"]);
    let group = "a".parse().unwrap();
    let found = harness.client.secret(&group, "key").await.unwrap();
    assert_eq!(found.unwrap().expose(), b"value");
    assert_eq!(harness.client.secret(&group, "none").await.unwrap(), None);
    harness.end().await;
}

#[tokio::test]
async fn a_secret_is_read_under_conditions() {
    let (harness, function) = Harness::with_function().await;
    harness.store.set_secret("a", "key", &["old", "new"]);
    let now = function.get("/secrets/v1/key").await;
    let before = function.get("/secrets/v1/key?version=1").await;
    let (tag, other) = (now.header("etag"), before.header("etag"));
    assert_ne!(tag, other);
    for (condition, tag, status) in [
        ("if-none-match", tag, 304),
        ("if-none-match", "*", 304),
        ("if-none-match", other, 200),
        ("if-match", tag, 200),
        ("if-match", other, 412),
        ("if-match", "nonsense", 400),
    ] {
        let reply = function.with("GET", "/secrets/v1/key", (condition, tag), "");
        let reply = reply.await;
        assert_eq!(reply.status, status, "{condition}: {tag}");
        let has_value = reply.body == "new";
        assert_eq!(has_value, status == 200, "{condition}: {tag}");
    }
    let same = function.with("GET", "/secrets/v1/key", ("if-none-match", tag), "");
    let same = same.await;
    for (name, value) in [
        ("etag", tag),
        ("x-bismuth-secret-version", "2"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(same.header(name), value);
    }
    let none = function.with("GET", "/secrets/v1/none", ("if-match", "*"), "");
    assert_eq!(none.await.status, 412);
    harness.end().await;
}
