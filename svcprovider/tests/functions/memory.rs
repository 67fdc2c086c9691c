//! The memory budget: one function cannot use the memory of all.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Function, Harness};

const MIB: usize = 1 << 20;

/// A value of a mebibyte of which half comes, and no more.
async fn stuck(function: &Function) -> TcpStream {
    let length = format!("content-length: {MIB}\r\n");
    let mut stream = function.begin("PUT /kv/v1/stuck", &length).await;
    stream.write_all(&vec![0; MIB / 2]).await.unwrap();
    stream
}

#[tokio::test]
async fn bodies_that_do_not_end_use_the_memory_of_their_group_only() {
    let mut harness = Harness::start().await;
    let (greedy, other) = (harness.function("a").await, harness.function("b").await);
    let mut stuck_ones = Vec::new();
    for _ in 0..32 {
        stuck_ones.push(stuck(&greedy).await);
    }
    let large = vec![1; MIB];
    let refused = greedy.call("PUT", "/kv/v1/key", large.clone()).await;
    refused.assert_problem(429, "too_much_at_once", "a large value");
    assert_eq!(refused.header("retry-after"), "1");
    for listing in [
        "/kv/v1/?limit=1000",
        "/blob/v1/?limit=1000",
        "/blob/v1/?details&limit=1000",
    ] {
        let refused = greedy.get(listing).await;
        assert_eq!(refused.code(), "too_much_at_once", "{listing}");
        assert_eq!(other.get(listing).await.status, 200, "{listing}");
    }
    // What is small needs no room.
    assert_eq!(greedy.call("PUT", "/kv/v1/key", "1").await.status, 201);
    let made = other.call("PUT", "/kv/v1/key", large.clone()).await;
    assert_eq!(made.status, 201);
    assert_eq!(other.get("/kv/v1/key").await.body, large);
    drop(stuck_ones);
    let made = greedy.call("PUT", "/kv/v1/key", large.clone()).await;
    assert_eq!(made.status, 204);
    assert_eq!(greedy.get("/kv/v1/key").await.body, large);
    harness.end().await;
}

#[tokio::test]
async fn a_batch_of_more_than_fits_is_refused_and_asks_for_less() {
    let (harness, function) = Harness::with_function().await;
    let keys: Vec<String> = (0..9).map(|n| format!("key-{n}")).collect();
    for key in &keys {
        let target = format!("/kv/v1/{key}");
        let made = function.call("PUT", &target, vec![1; MIB]).await;
        assert_eq!(made.status, 201);
    }
    let get = async |keys: &[String]| {
        let batch = json!({ "get": keys }).to_string();
        function.call("POST", "/kv/v1/?batch", batch).await
    };
    let refused = get(&keys).await;
    assert_eq!(refused.status, 413);
    assert!(refused.detail().contains("together"), "{refused:?}");
    let fits = get(&keys[..8]).await;
    assert_eq!(fits.json()["values"].as_array().unwrap().len(), 8);
    harness.end().await;
}
