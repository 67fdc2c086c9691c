//! Secrets forwarded to svcprovider, and functions deleted with their data.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bismuth_operator::{Call, OperatorClient, json as answered};
use bismuth_testkit::cluster::Services;
use bismuth_testkit::http::full;
use bismuth_testkit::{Stub, eventually, http as client, ports, stub};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Harness, NODE, SOON, assert_has, definition, send};

const CANARY: &str = "canary-5d20ab";

/// A svcprovider, and where it keeps its data.
struct Provider {
    services: Services,
    _dir: TempDir,
}

impl Provider {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let services = Services::start_alone(dir.path()).await.unwrap();
        Self {
            services,
            _dir: dir,
        }
    }

    fn token_file(&self) -> PathBuf {
        self.services.token_file()
    }

    async fn stop(&mut self) {
        self.services.daemon_mut().kill().await.unwrap();
    }

    /// It takes connections and never answers.
    fn pause(&self) {
        self.services.daemon().process().unwrap().pause().unwrap();
    }

    fn surface(&self) -> OperatorClient {
        let url = self.services.url().parse().unwrap();
        OperatorClient::new(&url, self.token_file(), SOON).unwrap()
    }

    /// The groups that have something.
    async fn groups(&self) -> Vec<String> {
        let surface = self.surface();
        let listed = surface.ask(Call::new(Method::GET, "/group")).await.unwrap();
        let listed: Value = answered(&surface, listed).await.unwrap();
        let groups = listed["groups"].as_array().unwrap().iter();
        groups
            .map(|group| group["group"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// An API that asks the svcprovider at `url`.
async fn start_at(url: &str, provider: &Provider) -> Harness {
    let file = provider.token_file();
    let flags = [
        "--svcprovider",
        url,
        "--svcprovider-token-file",
        file.to_str().unwrap(),
    ];
    Harness::start(&[NODE], &flags).await
}

async fn start() -> (Harness, Provider) {
    let provider = Provider::start().await;
    (
        start_at(&provider.services.url(), &provider).await,
        provider,
    )
}

/// Says that the engine of svcprovider is away.
async fn away() -> Stub {
    let stub = Stub::start(async |_| {
        let problem = json!({"code": "store_unavailable", "component": "svcprovider", "detail": "the store does not answer"});
        let mut answer = Response::new(full(problem.to_string()));
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        answer.headers_mut().insert("retry-after", 1.into());
        answer
    });
    stub.await.unwrap()
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
    let (provider, written) = (Provider::start().await, Arc::<Mutex<Vec<Bytes>>>::default());
    // No operator can read a secret, so it is seen on its way.
    let stub = Stub::start({
        let (url, written) = (provider.services.url(), Arc::clone(&written));
        move |request: Request<Bytes>| {
            let url = url.clone();
            if matches!(*request.method(), Method::PUT | Method::POST) {
                written.lock().unwrap().push(request.body().clone());
            }
            async move {
                stub::forward_request(&url, request)
                    .await
                    .unwrap()
                    .map(full)
            }
        }
    });
    let stub = stub.await.unwrap();
    let harness = start_at(&stub.url(), &provider).await;
    let api = &harness.api;
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
    assert_eq!(*written.lock().unwrap(), [&b"one"[..], b"two", b"\xff\n"]);
    let listed = api.get("/group/shop/secret").await.ok();
    assert_eq!(listed["secrets"][0]["name"], name);
    let deleted = api.call(Method::DELETE, path, "").await.ok();
    assert_eq!(deleted, json!({"name": name}));
}

#[tokio::test]
async fn a_refusal_of_svcprovider_is_answered_with_its_code_and_detail() {
    let (harness, provider) = start().await;
    let path = "/group/shop/secret/none/rotate";
    let answer = harness.api.call(Method::POST, path, "x").await;
    assert_eq!(answer.0.status(), 404);
    assert_eq!(answer.0.headers()["x-bismuth-error"], "unknown_secret");
    let problem: Value = serde_json::from_str(&answer.text()).unwrap();
    let detail = "there is no secret \"none\" in the group";
    let id = answer.0.headers()["x-request-id"].to_str().unwrap();
    assert_has(
        &problem,
        json!({"component": "svcprovider", "detail": detail, "request_id": id}),
    );
    let path = "/group/shop/secret/password";
    let answer = harness.api.call(Method::PUT, path, "").await;
    assert_eq!(answer.0.status(), 400);
    let away = away().await;
    let harness = start_at(&away.url(), &provider).await;
    let answer = harness.api.get("/group/shop/secret").await;
    assert_eq!(answer.0.status(), 503);
    assert_eq!(answer.0.headers()["retry-after"], "1");
    assert_eq!(answer.0.headers()["x-bismuth-error"], "store_unavailable");
}

#[tokio::test]
async fn a_malformed_secret_is_refused_without_asking_svcprovider() {
    let (harness, provider) = start().await;
    let large = "x".repeat(64 * 1024 + 1);
    let path = "/group/shop/secret/password";
    let put = async |path: &str, body: &str| {
        let body = body.to_owned();
        harness.api.call(Method::PUT, path, body).await
    };
    put(path, &large).await.problem(413, "secret_too_large");
    for group in ["..", "a%2Fb", "%20"] {
        let path = format!("/group/{group}/secret/password");
        put(&path, "x").await.problem(404, "malformed_group");
    }
    let foreign = harness.api.request(Method::PUT, path);
    let foreign = foreign.header("origin", "http://elsewhere.example");
    send(foreign, "x").await.problem(403, "foreign_origin");
    assert!(provider.groups().await.is_empty());
    assert_eq!(put(path, &large[1..]).await.0.status(), 201);
}

#[tokio::test]
async fn without_svcprovider_calls_about_secrets_are_503_within_a_second_and_others_work() {
    let (harness, mut provider) = start().await;
    provider.stop().await;
    for (method, path, _) in calls() {
        let begun = Instant::now();
        let answer = harness.api.call(method.clone(), path, "x").await;
        let problem = answer.problem(503, "svcprovider_unavailable");
        assert!(begun.elapsed() < Duration::from_secs(1), "{method} {path}");
        assert_eq!(problem["retryable"], true);
        assert_eq!(answer.0.headers()["retry-after"], "1");
    }
    harness.create(&definition()).await;
}

#[tokio::test]
async fn a_svcprovider_that_is_silent_is_waited_for_less_than_a_second() {
    let (harness, provider) = start().await;
    provider.pause();
    for (method, path, changes) in calls() {
        let begun = Instant::now();
        let answer = harness.api.call(method.clone(), path, "x").await;
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
    let (harness, provider) = start().await;
    let file = provider.token_file();
    let (token, aside) = (std::fs::read(&file).unwrap(), file.with_extension("aside"));
    std::fs::rename(&file, &aside).unwrap();
    let path = "/group/shop/secret";
    let list = async || harness.api.get(path).await;
    let problem = list().await.problem(503, "svcprovider_token");
    let detail = problem["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("no token file") && detail.contains("operator.token"),
        "{detail}"
    );
    harness.create(&definition()).await;
    std::fs::rename(&aside, &file).unwrap();
    std::fs::write(&file, "another").unwrap();
    list().await.problem(503, "svcprovider_token");
    std::fs::write(&file, token).unwrap();
    list().await.ok();
}

#[tokio::test]
async fn the_data_of_a_function_goes_with_the_last_of_its_group_if_it_is_asked_for() {
    let (harness, provider) = start().await;
    let mut shared = definition();
    shared["svc_group_id"] = json!("shop");
    let (first, second) = (harness.create(&shared).await, harness.create(&shared).await);
    let alone = harness.create(&definition()).await;
    for group in ["shop".to_owned(), alone.to_string()] {
        let put = Call::kv(Method::PUT, &group.parse().unwrap(), "k");
        let value = Full::new(Bytes::from("x"));
        provider.surface().call(put, value).await.unwrap();
    }
    let delete = async |id, query: &str| {
        let path = format!("/function/{id}{query}");
        harness.api.delete(&path).await
    };
    for query in ["?purge=perhaps", "?force=true"] {
        delete(first, query).await.problem(400, "query_malformed");
    }
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
    assert_eq!(provider.groups().await, [alone.to_string()]);
    delete(second, "?purge=true")
        .await
        .problem(404, "unknown_function");
}

#[tokio::test]
async fn a_function_whose_data_cannot_be_deleted_stays_too() {
    let (harness, mut provider) = start().await;
    let id = harness.create(&definition()).await;
    provider.stop().await;
    let path = format!("/function/{id}");
    let answer = harness.api.delete(&format!("{path}?purge=true")).await;
    answer.problem(503, "svcprovider_unavailable");
    harness.api.get(&path).await.ok();
}

/// The program itself with all that it can log, and no ZooKeeper, which secrets do not need.
struct ApiProcess {
    child: tokio::process::Child,
    listen: String,
}

impl ApiProcess {
    async fn start(provider_url: &str, provider: &Provider) -> Self {
        let (port, nobody) = (ports::reserve().unwrap(), ports::reserve().unwrap());
        let (listen, zookeeper) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{nobody}"));
        let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_bismuth-api"))
            .args(["--listen", &listen, "--zookeeper", &zookeeper])
            .args(["--svcprovider", provider_url, "--log-level", "trace"])
            .arg("--svcprovider-token-file")
            .arg(provider.token_file())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let program = Self { child, listen };
        eventually("it answers", SOON, async || {
            client::get(&program.url("/healthz"))
                .await
                .map_err(|error| format!("{error:#}"))
        })
        .await;
        program
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// Makes every call, and returns all of its output: answers, metrics and log.
    async fn all_output(mut self) -> Vec<u8> {
        let mut output = Vec::new();
        for (method, path, _) in calls() {
            let request = Request::builder().method(method).uri(self.url(path));
            let request = request.body(full(CANARY)).unwrap();
            output.extend_from_slice(client::send_whole(request).await.unwrap().body());
        }
        output.extend_from_slice(client::get(&self.url("/metrics")).await.unwrap().body());
        self.child.start_kill().unwrap();
        let ended = self.child.wait_with_output().await.unwrap();
        output.extend(ended.stdout);
        output.extend(ended.stderr);
        output
    }
}

#[tokio::test]
async fn neither_a_secret_nor_the_token_is_logged_counted_or_answered() {
    let (provider, away) = (Provider::start().await, away().await);
    let url = provider.services.url();
    let mut output = ApiProcess::start(&url, &provider).await.all_output().await;
    assert!(provider.groups().await.is_empty(), "it was set and deleted");
    output.extend(
        ApiProcess::start(&away.url(), &provider)
            .await
            .all_output()
            .await,
    );
    provider.pause();
    output.extend(ApiProcess::start(&url, &provider).await.all_output().await);
    let output = String::from_utf8_lossy(&output);
    assert!(
        output.contains("secret rotated") && output.contains("DEBUG"),
        "{output}"
    );
    let token = provider.services.token().unwrap();
    for word in [CANARY, &token] {
        assert!(!output.contains(word), "{word} is in\n{output}");
    }
}
