//! Invalid definitions, and other requests that the API refuses.

use anyhow::{Context, Result, ensure};
use bismuth_testkit::Cluster;
use bismuth_testkit::http::{self as client, full};
use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use crate::common::{echo_server, exec, problem, with};

async fn post(cluster: &Cluster, body: impl Into<Bytes>) -> Result<Response<Bytes>> {
    let request =
        Request::post(cluster.api_url("/function")).header("content-type", "application/json");
    client::send_whole(request.body(full(body))?).await
}

async fn functions(cluster: &Cluster) -> Result<Value> {
    let answer = cluster.api_call(Method::GET, "/function", None).await?;
    Ok(serde_json::from_slice::<Value>(answer.body())?["functions"].take())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_definition_is_refused_with_its_field_and_nothing_is_created() -> Result<()> {
    let cluster = Cluster::start().await?;
    let good = echo_server();
    let without = |field: &str| {
        let mut definition = good.clone();
        definition
            .as_object_mut()
            .map(|fields| fields.remove(field));
        definition
    };
    let with = |fields: Value| with(good.clone(), &fields);
    let two_routes = json!([{ "hostname": "a.b" }, { "hostname": "a_b:80" }]);
    let cases = [
        (400, ".", json!(["alpine", { "Executable": ["/bin/ls"] }])),
        (400, "image", without("image")),
        (400, "invoke_mode", without("invoke_mode")),
        (400, "imgae", with(json!({ "imgae": "typo" }))),
        (400, "memory", with(json!({ "memory": "128M" }))),
        (400, "memory", with(json!({ "memory": -1 }))),
        (400, "image", with(json!({ "image": "UPPER/case image" }))),
        (
            400,
            "routes[1].hostname",
            with(json!({ "routes": two_routes })),
        ),
        (
            400,
            "invoke_mode",
            with(json!({ "invoke_mode": { "Daemon": [] } })),
        ),
        (422, "memory", with(json!({ "memory": 1 }))),
        (422, "cpu", with(json!({ "cpu": 0 }))),
        (422, "concurrency", with(json!({ "concurrency": 0 }))),
        (422, "timeout_ms", with(json!({ "timeout_ms": 0 }))),
        (422, "min_instances", with(json!({ "min_instances": 2 }))),
        (
            422,
            "invoke_mode",
            with(json!({ "invoke_mode": { "Executable": [] } })),
        ),
        (
            422,
            "env[\"BISMUTH_AUTH\"]",
            with(json!({ "env": { "BISMUTH_AUTH": "mine" } })),
        ),
        (422, "user", with(json!({ "user": "root; rm -rf /" }))),
    ];
    for (status, field, definition) in cases {
        let answer = post(&cluster, definition.to_string()).await?;
        let code = match status {
            400 => "definition_malformed",
            _ => "definition_out_of_range",
        };
        let refused = problem(&answer, status, code)?;
        let named = refused["field"].as_str().unwrap_or_default();
        // A missing field is missing in the whole; the detail names it then.
        let detail = refused["detail"].as_str().unwrap_or_default();
        let told = named == field || (named == "." && detail.contains(field));
        ensure!(told, "{definition}: not {field:?}: {refused}");
    }
    for malformed in ["{ not json", ""] {
        let refused = post(&cluster, malformed).await?;
        problem(&refused, 400, "definition_malformed")?;
    }
    let large = with(json!({ "env": { "A": "a".repeat(61 << 10) } })).to_string();
    // The second is far more than anything would read before it says no.
    for large in [large.into_bytes(), vec![b' '; 8 << 20]] {
        let refused = post(&cluster, large).await?;
        problem(&refused, 413, "definition_too_large")?;
    }
    let created = functions(&cluster).await?;
    ensure!(created == json!([]), "{created}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostname_belongs_to_one_function_and_a_refused_change_changes_nothing() -> Result<()> {
    let cluster = Cluster::start().await?;
    let routed = |names: &[&str]| {
        let routes = names.iter().map(|name| json!({ "hostname": name }));
        let routes: Vec<_> = routes.collect();
        with(exec(&["/bin/true"]), &json!({ "routes": routes }))
    };
    let owner = cluster.create_function(&routed(&["shop.example"])).await?;
    let other = cluster.create_function(&routed(&["other.example"])).await?;
    let before = functions(&cluster).await?;

    let both = routed(&["new.example", "SHOP.example."]);
    let taken = post(&cluster, both.to_string()).await?;
    let refused = problem(&taken, 409, "route_taken")?;
    ensure!(refused["field"] == "routes[1].hostname", "{refused}");
    let detail = refused["detail"].as_str().unwrap_or_default();
    ensure!(
        detail.contains("shop.example") && detail.contains(&owner),
        "{detail}"
    );
    let path = format!("/function/{other}");
    let taken = cluster
        .api_call(Method::PUT, &path, Some(&routed(&["shop.example"])))
        .await?;
    problem(&taken, 409, "route_taken")?;
    ensure!(
        functions(&cluster).await? == before,
        "a refused change changed something"
    );
    // The name that was refused along with the taken one is free.
    cluster.create_function(&routed(&["new.example"])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_paths_and_queries_are_answered_with_their_code() -> Result<()> {
    const NOBODY: &str = "0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b";
    let cluster = Cluster::start().await?;
    let nobody = format!("/function/{NOBODY}");
    let logs = format!("{nobody}/logs");
    let mut cases = vec![
        (Method::GET, logs.as_str(), 404, "unknown_function"),
        (Method::GET, "/node/127.0.0.9", 404, "unknown_node"),
        (Method::GET, "/functions", 404, "unknown_path"),
        (Method::PATCH, "/function", 405, "method_not_allowed"),
    ];
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        cases.push((method.clone(), &nobody, 404, "unknown_function"));
        cases.push((method, "/function/nobody", 404, "malformed_id"));
    }
    for (method, path, status, code) in cases {
        let refused = cluster.api_call(method.clone(), path, None).await?;
        problem(&refused, status, code).with_context(|| format!("{method} {path}"))?;
    }
    let id = cluster.create_function(&exec(&["/bin/true"])).await?;
    for (query, field) in [
        ("tail=many", "tail"),
        ("since=yesterday", "since"),
        ("follow=perhaps", "follow"),
    ] {
        let path = format!("/function/{id}/logs?{query}");
        let refused = cluster.api_call(Method::GET, &path, None).await?;
        let refused = problem(&refused, 400, "query_malformed")?;
        ensure!(refused["field"] == field, "{refused}");
    }
    Ok(())
}
