//! Invalid definitions, and other requests that the API refuses.

use anyhow::{Result, ensure};
use bismuth_testkit::Cluster;
use bismuth_testkit::http::{self as client, full};
use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use crate::common::{echo_server, exec, problem, text, with};

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
    let cases = [
        (400, ".", json!(["alpine", { "Executable": ["/bin/ls"] }])),
        (400, "image", without("image")),
        (400, "invoke_mode", without("invoke_mode")),
        (
            400,
            "imgae",
            with(good.clone(), &json!({ "imgae": "typo" })),
        ),
        (
            400,
            "memory",
            with(good.clone(), &json!({ "memory": "128M" })),
        ),
        (400, "memory", with(good.clone(), &json!({ "memory": -1 }))),
        (
            400,
            "image",
            with(good.clone(), &json!({ "image": "UPPER/case image" })),
        ),
        (
            400,
            "routes[1].hostname",
            with(
                good.clone(),
                &json!({ "routes": [{ "hostname": "a.b" }, { "hostname": "a_b:80" }] }),
            ),
        ),
        (
            400,
            "invoke_mode",
            with(good.clone(), &json!({ "invoke_mode": { "Daemon": [] } })),
        ),
        (422, "memory", with(good.clone(), &json!({ "memory": 1 }))),
        (422, "cpu", with(good.clone(), &json!({ "cpu": 0 }))),
        (
            422,
            "concurrency",
            with(good.clone(), &json!({ "concurrency": 0 })),
        ),
        (
            422,
            "timeout_ms",
            with(good.clone(), &json!({ "timeout_ms": 0 })),
        ),
        (
            422,
            "min_instances",
            with(good.clone(), &json!({ "min_instances": 2 })),
        ),
        (
            422,
            "invoke_mode",
            with(
                good.clone(),
                &json!({ "invoke_mode": { "Executable": [] } }),
            ),
        ),
        (
            422,
            "env[\"BISMUTH_AUTH\"]",
            with(good.clone(), &json!({ "env": { "BISMUTH_AUTH": "mine" } })),
        ),
        (
            422,
            "user",
            with(good.clone(), &json!({ "user": "root; rm -rf /" })),
        ),
    ];
    for (status, field, definition) in cases {
        let answer = post(&cluster, definition.to_string()).await?;
        let code = if status == 400 {
            "definition_malformed"
        } else {
            "definition_out_of_range"
        };
        let refused = problem(&answer, status, code)?;
        let named = refused["field"].as_str().unwrap_or_default();
        // A missing field is missing in the whole; the detail names it then.
        let told = named == field
            || (named == "."
                && refused["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(field)));
        ensure!(told, "{definition}: not {field:?}: {refused}");
    }
    problem(
        &post(&cluster, "{ not json").await?,
        400,
        "definition_malformed",
    )?;
    problem(&post(&cluster, "").await?, 400, "definition_malformed")?;
    let large = with(
        good.clone(),
        &json!({ "env": { "A": "a".repeat(61 << 10) } }),
    )
    .to_string();
    problem(&post(&cluster, large).await?, 413, "definition_too_large")?;
    // Far more than anything would read before it says no.
    problem(
        &post(&cluster, vec![b' '; 8 << 20]).await?,
        413,
        "definition_too_large",
    )?;
    ensure!(
        functions(&cluster).await? == json!([]),
        "something was created"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostname_belongs_to_one_function_and_a_refused_change_changes_nothing() -> Result<()> {
    let cluster = Cluster::start().await?;
    let routed = |names: &[&str]| {
        let routes: Vec<_> = names
            .iter()
            .map(|name| json!({ "hostname": name }))
            .collect();
        with(exec(&["/bin/true"]), &json!({ "routes": routes }))
    };
    let owner = cluster.create_function(&routed(&["shop.example"])).await?;
    let other = cluster.create_function(&routed(&["other.example"])).await?;
    let before = functions(&cluster).await?;

    let taken = post(
        &cluster,
        routed(&["new.example", "SHOP.example."]).to_string(),
    )
    .await?;
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
    let call = async |method: Method, path: &str| cluster.api_call(method, path, None).await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        problem(
            &call(method.clone(), &format!("/function/{NOBODY}")).await?,
            404,
            "unknown_function",
        )?;
        problem(
            &call(method, "/function/nobody").await?,
            404,
            "malformed_id",
        )?;
    }
    problem(
        &call(Method::GET, &format!("/function/{NOBODY}/logs")).await?,
        404,
        "unknown_function",
    )?;
    problem(
        &call(Method::GET, "/node/127.0.0.9").await?,
        404,
        "unknown_node",
    )?;
    problem(&call(Method::GET, "/functions").await?, 404, "unknown_path")?;
    problem(
        &call(Method::PATCH, "/function").await?,
        405,
        "method_not_allowed",
    )?;
    let id = cluster.create_function(&exec(&["/bin/true"])).await?;
    for (query, field) in [
        ("tail=many", "tail"),
        ("since=yesterday", "since"),
        ("follow=perhaps", "follow"),
    ] {
        let refused = call(Method::GET, &format!("/function/{id}/logs?{query}")).await?;
        ensure!(
            problem(&refused, 400, "query_malformed")?["field"] == field,
            "{}",
            text(&refused)
        );
    }
    Ok(())
}
