//! Authentication of callers, groups, and rate limits.

use std::time::Duration;

use bismuth_model::ServiceQuotas;
use bismuth_store::records::now_ms;

use crate::harness::{HOST, Harness};

/// A request for a key, to a host, with these fields that show a token.
fn request(host: &str, shown: &[&str]) -> http::request::Builder {
    let request = http::Request::builder()
        .uri("/kv/v1/x")
        .header("host", host);
    let with = |request: http::request::Builder, shown| request.header("authorization", shown);
    shown.iter().copied().fold(request, with)
}

#[tokio::test]
async fn a_request_without_the_token_is_unauthorized() {
    let mut harness = Harness::start().await;
    let (function, other) = (harness.function("a").await, harness.function("b").await);
    let (own, of_other) = (&*function.bearer(), &*other.bearer());
    for shown in [
        &[][..],
        &["Bearer"],
        &["Bearer "],
        &["Basic abc"],
        &[&*function.token],
        &[of_other],
        &[own, own],
    ] {
        let reply = function.send(request(HOST, shown), "").await;
        reply.assert_problem(401, "unauthorized", &shown.concat());
        assert!(reply.header("www-authenticate").starts_with("Bearer"));
    }
    let lower = own.replace("Bearer", "bearer");
    let reply = function.send(request(HOST, &[&lower]), "").await;
    assert_eq!(reply.status, 404);
    harness.end().await;
}

#[tokio::test]
async fn forwarded_requests_and_those_for_another_host_are_refused() {
    let (harness, function) = Harness::with_function().await;
    for name in [
        "x-forwarded-for",
        "X-Forwarded-Host",
        "forwarded",
        "via",
        "x-real-ip",
    ] {
        let reply = function.with("GET", "/kv/v1/x", (name, "1"), "").await;
        reply.assert_problem(403, "forwarded_request", name);
    }
    for host in [
        "localhost:9000",
        "169.254.169.254:80",
        "169.254.169.254.example.com",
        "evil",
    ] {
        let request = request(host, &[&function.bearer()]);
        let reply = function.send(request, "").await;
        reply.assert_problem(421, "foreign_host", host);
    }
    harness.end().await;
}

#[tokio::test]
async fn functions_of_a_group_share_data_and_others_do_not_see_it() {
    let mut harness = Harness::start().await;
    let (one, two, other) = (
        harness.function("team").await,
        harness.function("team").await,
        harness.function("other").await,
    );
    for service in ["kv", "blob"] {
        let target = format!("/{service}/v1/x");
        assert_eq!(one.call("POST", &target, "ours").await.status, 201);
        assert_eq!(two.get(&target).await.body, "ours");
        assert_eq!(other.get(&target).await.status, 404);
        let listed = other.get(&format!("/{service}/v1/")).await;
        assert!(!listed.body.contains(&b'x'), "{listed:?}");
    }
    // Also with the other's token, as the socket says who it is.
    let request = request(HOST, &[&one.bearer()]);
    assert_eq!(other.send(request, "").await.status, 401);
    harness.end().await;
}

#[tokio::test]
async fn the_rate_is_the_group_s_and_says_when_to_come_again() {
    let mut harness = Harness::start().await;
    let quotas = ServiceQuotas {
        requests_per_second: Some(5),
        ..ServiceQuotas::default()
    };
    let one = harness.function_with("team", quotas.clone()).await;
    let two = harness.function_with("team", quotas.clone()).await;
    let other = harness.function_with("other", quotas).await;
    let mut refused = 0;
    for _ in 0..10 {
        for function in [&one, &two] {
            let reply = function.get("/kv/v1/x").await;
            if reply.status == 429 {
                assert_eq!(reply.code(), "rate_limited");
                assert_eq!(reply.header("retry-after"), "1");
                refused += 1;
            }
        }
    }
    assert!(refused >= 10, "{refused}");
    assert_eq!(other.get("/kv/v1/x").await.status, 404);
    harness.end().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_named() {
    let (harness, function) = Harness::with_function().await;
    assert_eq!(function.get("/").await.status, 204);
    for target in [
        "//",
        "/kv",
        "/kv/v2/x",
        "/kvv1/x",
        "/kv/v1x",
        "/group/a/kv/x",
    ] {
        assert_eq!(function.get(target).await.status, 404, "{target}");
    }
    for (method, target, allow) in [
        ("POST", "/", "GET, HEAD"),
        ("PATCH", "/kv/v1/x", "GET, HEAD, PUT, POST, DELETE"),
        ("PUT", "/kv/v1/", "GET, HEAD, POST"),
        ("OPTIONS", "/blob/v1/x", "GET, HEAD, POST, PUT, DELETE"),
        ("POST", "/blob/v1/", "GET, HEAD"),
        ("PUT", "/secrets/v1/x", "GET, HEAD"),
        ("BREW", "/secrets/v1/x", "GET, HEAD"),
    ] {
        let reply = function.call(method, target, "").await;
        assert_eq!(reply.status, 405, "{method} {target}");
        assert_eq!(reply.header("allow"), allow, "{method} {target}");
    }
    harness.end().await;
}

#[tokio::test]
async fn nodes_that_share_a_store_share_a_group_s_rate_exactly() {
    let one = Harness::start().await;
    let store = one.store.clone();
    let (mut here, mut there) = (
        Harness::start_on(store.clone(), true).await,
        Harness::start_on(store, true).await,
    );
    let quotas = ServiceQuotas {
        requests_per_second: Some(7),
        ..ServiceQuotas::default()
    };
    let functions = [
        here.function_with("team", quotas.clone()).await,
        there.function_with("team", quotas).await,
    ];
    // Within one second of the clock, in one of some tries.
    for _ in 0..20 {
        let begun = now_ms();
        let mut let_in = 0;
        for round in 0..20 {
            let reply = functions[round % 2].get("/kv/v1/x").await;
            let_in += u32::from(reply.status == 404);
            if reply.status == 429 {
                assert_eq!(reply.header("retry-after"), "1");
            }
        }
        if begun / 1000 == now_ms() / 1000 {
            assert_eq!(let_in, 7);
            here.end().await;
            there.end().await;
            return one.end().await;
        }
        // Into the next second.
        let wait = Duration::from_millis(1001 - now_ms() % 1000);
        tokio::time::sleep(wait).await;
    }
    panic!("the machine is too busy for twenty requests in a second");
}
