//! Secrets, passed on to a twin of svcprovider, and functions deleted with their data.

use std::process::Stdio;
use std::time::{Duration, Instant};

use bismuth_operator::fake::{Misbehaviour, Svcprovider, write_token};
use bismuth_testkit::{eventually, http as client, ports};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::harness::{NODE, SOON, World, definition};

const CANARY: &str = "canary-5d20ab";

async fn start() -> (World, Svcprovider) {
    let twin = Svcprovider::start().await.unwrap();
    let (url, file) = (twin.url(), twin.token_file());
    let flags = [
        "--svcprovider",
        &url,
        "--svcprovider-token-file",
        file.to_str().unwrap(),
    ];
    (World::start(&[NODE], &flags).await, twin)
}

/// Every call about secrets, and whether it changes something.
fn calls() -> [(Method, &'static str, bool); 4] {
    [
        (Method::GET, "/group/shop/secret", false),
        (Method::PUT, "/group/shop/secret/password", true),
        (Method::POST, "/group/shop/secret/password/rotate", true),
        (Method::DELETE, "/group/shop/secret/password", true),
    ]
}

#[tokio::test]
async fn a_secret_is_set_rotated_listed_and_deleted() {
    let (world, twin) = start().await;
    let api = &world.api;
    let path = "/group/shop/secret/db%2Fpass%20word";
    let name = "db/pass word";
    let made = api.call(Method::PUT, path, "one").await;
    assert_eq!(made.0.status(), 201);
    let made: Value = serde_json::from_slice(made.0.body()).unwrap();
    assert_eq!(made, json!({"name": name, "version": 1}));
    let again = api.call(Method::PUT, path, "two").await.ok();
    assert_eq!(again["version"], 2);
    let rotated = format!("{path}/rotate");
    let rotated = api.call(Method::POST, &rotated, &b"\xff\n"[..]).await.ok();
    assert_eq!(rotated["version"], 3);
    let versions = twin.state().groups["shop"].secrets[name].versions.clone();
    assert_eq!(versions, [&b"one"[..], b"two", b"\xff\n"]);
    let listed = api.get("/group/shop/secret").await.ok();
    assert_eq!(listed["secrets"][0]["name"], name);
    let deleted = api.call(Method::DELETE, path, "").await.ok();
    assert_eq!(deleted, json!({"name": name}));
}

#[tokio::test]
async fn what_svcprovider_refuses_is_refused_in_its_words() {
    let (world, twin) = start().await;
    let path = "/group/shop/secret/none/rotate";
    let answer = world.api.call(Method::POST, path, "x").await;
    assert_eq!(answer.0.status(), 404);
    assert_eq!(answer.0.headers()["x-bismuth-error"], "unknown_secret");
    let problem: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(problem["component"], "svcprovider");
    assert_eq!(
        problem["detail"],
        "there is no secret \"none\" in the group"
    );
    assert_eq!(
        problem["request_id"],
        answer.0.headers()["x-request-id"].to_str().unwrap()
    );
    let path = "/group/shop/secret/password";
    let answer = world.api.call(Method::PUT, path, "").await;
    assert_eq!(answer.0.status(), 400);
    twin.state().misbehaviour = Misbehaviour::Unavailable;
    let answer = world.api.get("/group/shop/secret").await;
    assert_eq!(answer.0.status(), 503);
    assert_eq!(answer.0.headers()["retry-after"], "1");
    assert_eq!(answer.0.headers()["x-bismuth-error"], "store_unavailable");
}

#[tokio::test]
async fn what_cannot_be_a_secret_is_not_passed_on() {
    let (world, twin) = start().await;
    let large = "x".repeat(64 * 1024 + 1);
    let path = "/group/shop/secret/password";
    world
        .api
        .call(Method::PUT, path, large.clone())
        .await
        .problem(413, "secret_too_large");
    for group in ["..", "a%2Fb", "%20"] {
        let path = format!("/group/{group}/secret/password");
        world
            .api
            .call(Method::PUT, &path, "x")
            .await
            .problem(404, "malformed_group");
    }
    let foreign = world
        .api
        .request(Method::PUT, path)
        .header("origin", "http://elsewhere.example")
        .body(client::full("x"))
        .unwrap();
    assert_eq!(client::send_whole(foreign).await.unwrap().status(), 403);
    assert!(twin.state().groups.is_empty());
    let whole = world
        .api
        .call(Method::PUT, path, large[1..].to_owned())
        .await;
    assert_eq!(whole.0.status(), 201);
}

#[tokio::test]
async fn without_svcprovider_calls_about_secrets_are_503_within_a_second_and_others_work() {
    let (world, mut twin) = start().await;
    twin.stop().await;
    for (method, path, _) in calls() {
        let begun = Instant::now();
        let answer = world.api.call(method.clone(), path, "x").await;
        let problem = answer.problem(503, "svcprovider_unavailable");
        assert!(begun.elapsed() < Duration::from_secs(1), "{method} {path}");
        assert_eq!(problem["retryable"], true);
        assert_eq!(answer.0.headers()["retry-after"], "1");
    }
    world.create(&definition()).await;
}

#[tokio::test]
async fn a_svcprovider_that_is_silent_is_waited_for_less_than_a_second() {
    let (world, twin) = start().await;
    twin.state().misbehaviour = Misbehaviour::Silent;
    for (method, path, changes) in calls() {
        let begun = Instant::now();
        let answer = world.api.call(method.clone(), path, "x").await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{method} {path}");
        if changes {
            answer.problem(503, "outcome_unknown");
        } else {
            answer.problem(503, "svcprovider_unavailable");
        }
    }
}

#[tokio::test]
async fn the_token_may_come_later_and_change() {
    let (world, twin) = start().await;
    let token = std::fs::read_to_string(twin.token_file()).unwrap();
    let file = twin.token_file();
    std::fs::remove_file(&file).unwrap();
    let path = "/group/shop/secret";
    let list = async || world.api.get(path).await;
    let problem = list().await.problem(503, "svcprovider_token");
    let detail = problem["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("no token file") && detail.contains("operator.token"),
        "{detail}"
    );
    world.create(&definition()).await;
    write_token(&file, "another").unwrap();
    list().await.problem(503, "svcprovider_token");
    write_token(&file, token.trim()).unwrap();
    list().await.ok();
}

#[tokio::test]
async fn the_data_of_a_function_goes_with_the_last_of_its_group_if_it_is_asked_for() {
    let (world, twin) = start().await;
    let mut shared = definition();
    shared["svc_group_id"] = json!("shop");
    let (first, second) = (world.create(&shared).await, world.create(&shared).await);
    let alone = world.create(&definition()).await;
    for group in ["shop".to_owned(), alone.to_string()] {
        let mut state = twin.state();
        let entry = state.entry("x");
        state.group(&group).kv.insert("k".to_owned(), entry);
    }
    let delete = async |id, query: &str| {
        let path = format!("/function/{id}{query}");
        world.api.call(Method::DELETE, &path, "").await
    };
    delete(first, "?purge=perhaps")
        .await
        .problem(400, "query_malformed");
    delete(first, "?force=true")
        .await
        .problem(400, "query_malformed");
    assert_eq!(
        delete(first, "?purge=true").await.ok(),
        json!({"id": first, "group": "shop", "purged": null, "used_by": [second]})
    );
    assert_eq!(
        delete(second, "?purge=true").await.ok(),
        json!({"id": second, "group": "shop", "purged": {"kv": 1, "blobs": 0, "secrets": 0}, "used_by": []})
    );
    assert_eq!(
        delete(alone, "?purge=false").await.ok(),
        json!({"id": alone})
    );
    let left: Vec<String> = twin.state().groups.keys().cloned().collect();
    assert_eq!(left, [alone.to_string()]);
    delete(second, "?purge=true")
        .await
        .problem(404, "unknown_function");
}

#[tokio::test]
async fn a_function_whose_data_cannot_be_deleted_stays_too() {
    let (world, mut twin) = start().await;
    let id = world.create(&definition()).await;
    twin.stop().await;
    let path = format!("/function/{id}");
    let purge = format!("{path}?purge=true");
    world
        .api
        .call(Method::DELETE, &purge, "")
        .await
        .problem(503, "svcprovider_unavailable");
    world.api.get(&path).await.ok();
}

/// The program itself with all that it can log, and no ZooKeeper, which secrets do not need.
#[tokio::test]
async fn neither_a_secret_nor_the_token_is_logged_counted_or_answered() {
    let twin = Svcprovider::start().await.unwrap();
    let (port, nobody) = (ports::reserve().unwrap(), ports::reserve().unwrap());
    let (listen, zookeeper) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{nobody}"));
    let mut api = tokio::process::Command::new(env!("CARGO_BIN_EXE_bismuth-api"))
        .args(["--listen", &listen, "--zookeeper", &zookeeper])
        .args(["--svcprovider", &twin.url(), "--log-level", "trace"])
        .arg("--svcprovider-token-file")
        .arg(twin.token_file())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let url = |path: &str| format!("http://{listen}{path}");
    eventually("it answers", SOON, async || {
        client::get(&url("/healthz"))
            .await
            .map_err(|error| format!("{error:#}"))
    })
    .await;
    let mut said = Vec::new();
    for misbehaviour in [
        Misbehaviour::None,
        Misbehaviour::Unavailable,
        Misbehaviour::Silent,
    ] {
        twin.state().misbehaviour = misbehaviour;
        for (method, path, _) in calls() {
            let request = Request::builder().method(method).uri(url(path));
            let request = request.body(client::full(CANARY)).unwrap();
            said.extend_from_slice(client::send_whole(request).await.unwrap().body());
        }
    }
    assert!(twin.state().groups.is_empty(), "it was set and deleted");
    said.extend_from_slice(client::get(&url("/metrics")).await.unwrap().body());
    api.start_kill().unwrap();
    let output = api.wait_with_output().await.unwrap();
    said.extend(output.stdout);
    said.extend(output.stderr);
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("secret rotated") && said.contains("DEBUG"),
        "{said}"
    );
    let token = std::fs::read_to_string(twin.token_file()).unwrap();
    for word in [CANARY, token.trim()] {
        assert!(!said.contains(word), "{word} is in\n{said}");
    }
}
