//! Functions and nodes: create, read, list, delete, and refusals.

use bismuth_model::{ContainerState, FunctionId, Hostname};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Harness, NODE, definition};

fn with(field: &str, value: Value) -> Value {
    let mut definition = definition();
    definition[field] = value;
    definition
}

#[tokio::test]
async fn a_function_is_created_read_listed_and_deleted() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let wanted = with("routes", json!([{"hostname": "A.example."}]));
    let id = harness.create(&wanted).await;
    let slot = harness.newest(id).await[0];
    assert_eq!(harness.routed(id).await, [slot], "it is a backend at once");

    let path = format!("/function/{id}");
    let shown = harness.api.get(&path).await.ok();
    assert_eq!(
        shown["definition"]["image"],
        "docker.io/library/alpine:latest"
    );
    assert_eq!(shown["definition"]["memory"], 128 << 20);
    let members: Vec<&String> = shown.as_object().unwrap().keys().collect();
    assert_eq!(members, ["backends", "definition"]);
    let backend = &shown["backends"][0];
    assert_eq!(
        backend["backend"],
        json!({"ip": "127.0.0.1", "container_id": slot.container_id})
    );
    assert_eq!(
        (&backend["status"], &backend["revision"], &backend["routed"]),
        (&json!("Starting"), &json!(1), &json!(true))
    );

    harness
        .report_status(
            slot,
            ContainerState::Failed,
            Some("there is no /bin/ls in the image"),
        )
        .await;
    let shown = harness.api.get(&path).await.ok();
    assert_eq!(shown["backends"][0]["status"], "Failed");
    assert_eq!(
        shown["backends"][0]["reason"],
        "there is no /bin/ls in the image"
    );

    let page = harness.api.get("/function").await.ok();
    assert_eq!(page["functions"][0]["id"], json!(id));
    assert_eq!(
        page["functions"][0]["routes"],
        json!([{"hostname": "a.example"}])
    );
    assert_eq!(page["next"], Value::Null);

    assert_eq!(
        harness.api.call(Method::DELETE, &path, "").await.ok()["id"],
        json!(id)
    );
    harness
        .api
        .get(&path)
        .await
        .problem(404, "unknown_function");
    harness
        .api
        .call(Method::DELETE, &path, "")
        .await
        .problem(404, "unknown_function");
    assert!(harness.all_slots(id).await.is_empty());
}

#[tokio::test]
async fn pages_follow_each_other() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(harness.create(&definition()).await.to_string());
    }
    made.sort();
    let (mut listed, mut path) = (Vec::new(), "/function?limit=2".to_owned());
    loop {
        let page = harness.api.get(&path).await.ok();
        listed.extend(
            page["functions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|f| f["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("/function?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(listed, made);
}

#[tokio::test]
async fn bad_definitions_are_refused_and_the_field_is_named() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let long = "x".repeat(61 * 1024);
    let table = [
        ("{".to_owned(), 400, "definition_malformed", "."),
        (String::new(), 400, "definition_malformed", "."),
        (
            json!({"image": "alpine"}).to_string(),
            400,
            "definition_malformed",
            ".",
        ),
        (
            with("colour", json!("red")).to_string(),
            400,
            "definition_malformed",
            "colour",
        ),
        (
            with("cpu", json!("much")).to_string(),
            400,
            "definition_malformed",
            "cpu",
        ),
        (
            with("image", json!("UPPER CASE")).to_string(),
            400,
            "definition_malformed",
            "image",
        ),
        (
            with("routes", json!([{"hostname": "-bad-"}])).to_string(),
            400,
            "definition_malformed",
            "routes[0].hostname",
        ),
        (
            with("cpu", json!(0)).to_string(),
            422,
            "definition_out_of_range",
            "cpu",
        ),
        (
            with("memory", json!(1)).to_string(),
            422,
            "definition_out_of_range",
            "memory",
        ),
        (
            with("min_instances", json!(2)).to_string(),
            422,
            "definition_out_of_range",
            "min_instances",
        ),
        (
            with("invoke_mode", json!({"Executable": []})).to_string(),
            422,
            "definition_out_of_range",
            "invoke_mode",
        ),
        (
            with("env", json!({"A": long})).to_string(),
            413,
            "definition_too_large",
            ".",
        ),
        ("x".repeat(1 << 20), 413, "definition_too_large", "."),
    ];
    let id = harness.create(&definition()).await;
    for (body, status, code, field) in table {
        for (method, path) in [
            (Method::POST, "/function".to_owned()),
            (Method::PUT, format!("/function/{id}")),
        ] {
            if method == Method::PUT && body.is_empty() {
                continue;
            }
            let problem = harness
                .api
                .call(method.clone(), &path, body.clone())
                .await
                .problem(status, code);
            let shown: String = body.chars().take(80).collect();
            assert_eq!(problem["field"], field, "{method} {shown}: {problem}");
        }
    }
    assert_eq!(
        harness.registry.function_ids().await.unwrap(),
        [id],
        "nothing was changed"
    );
    assert_eq!(harness.all_slots(id).await.len(), 1);
}

#[tokio::test]
async fn a_hostname_of_another_function_is_refused_and_named() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let first = harness
        .create(&with("routes", json!([{"hostname": "a.example"}])))
        .await;
    let both = with(
        "routes",
        json!([{"hostname": "b.example"}, {"hostname": "a.example"}]),
    );
    let problem = harness
        .api
        .call(Method::POST, "/function", both.to_string())
        .await
        .problem(409, "route_taken");
    assert_eq!(problem["field"], "routes[1].hostname");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains(&first.to_string()),
        "{problem}"
    );

    let second = harness
        .create(&with("routes", json!([{"hostname": "c.example"}])))
        .await;
    harness
        .api
        .call(
            Method::PUT,
            &format!("/function/{second}"),
            both.to_string(),
        )
        .await
        .problem(409, "route_taken");
    assert_eq!(
        harness.all_slots(second).await.len(),
        1,
        "the refused revision has no slots"
    );
    // What is gone with its function can be had again.
    harness
        .api
        .call(Method::DELETE, &format!("/function/{first}"), "")
        .await
        .ok();
    harness.create(&both).await;
    assert!(Hostname::parse("a.example").is_ok());
}

#[tokio::test]
async fn unknown_and_malformed_names_are_not_found() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let unknown = FunctionId::new_random();
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let (body, path) = (definition().to_string(), format!("/function/{unknown}"));
        harness
            .api
            .call(method.clone(), &path, body.clone())
            .await
            .problem(404, "unknown_function");
        harness
            .api
            .call(method.clone(), "/function/17", body.clone())
            .await
            .problem(404, "malformed_id");
        let upper = path.to_uppercase().replace("/FUNCTION", "/function");
        harness
            .api
            .call(method, &upper, body)
            .await
            .problem(404, "malformed_id");
    }
    harness
        .api
        .get(&format!("/function/{unknown}/logs"))
        .await
        .problem(404, "unknown_function");
    harness
        .api
        .get("/function/x/logs")
        .await
        .problem(404, "malformed_id");
    harness
        .api
        .get("/function/%ff")
        .await
        .problem(404, "malformed_id");
    harness
        .api
        .get("/node/127.0.0.9")
        .await
        .problem(404, "unknown_node");
    harness
        .api
        .get("/node/localhost")
        .await
        .problem(404, "malformed_address");
    harness
        .api
        .get("/nothing")
        .await
        .problem(404, "unknown_path");
    let wrong = harness.api.call(Method::PATCH, "/function", "").await;
    wrong.problem(405, "method_not_allowed");
    assert_eq!(wrong.0.headers()["allow"], "GET,HEAD,POST");
}

#[tokio::test]
async fn malformed_queries_are_refused() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let id = harness.create(&definition()).await;
    for path in [
        "/function?limit=many",
        "/function?after=17",
        "/function?colour=red",
    ] {
        harness.api.get(path).await.problem(400, "query_malformed");
    }
    for limit in [0, 1001] {
        let problem = harness
            .api
            .get(&format!("/function?limit={limit}"))
            .await
            .problem(422, "query_out_of_range");
        assert_eq!(problem["field"], "limit");
    }
    for (query, field) in [
        ("tail=-1", "tail"),
        ("tail=100001", "tail"),
        ("since=yesterday", "since"),
        ("follow=maybe", "follow"),
    ] {
        let problem = harness
            .api
            .get(&format!("/function/{id}/logs?{query}"))
            .await
            .problem(400, "query_malformed");
        assert_eq!(problem["field"], field);
    }
}

#[tokio::test]
async fn web_pages_of_other_origins_deploy_nothing() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let request = harness
        .api
        .request(Method::POST, "/function")
        .header("origin", "http://evil.example");
    let body = bismuth_testkit::http::full(definition().to_string());
    let answer = bismuth_testkit::http::send_whole(request.body(body).unwrap())
        .await
        .unwrap();
    crate::harness::Answer(answer).problem(403, "foreign_origin");
    // A page whose own name leads here: its origin is the host that it asks.
    let request = harness
        .api
        .request(Method::POST, "/function")
        .header("host", "evil.example:8002")
        .header("origin", "http://evil.example:8002");
    let body = bismuth_testkit::http::full(definition().to_string());
    let answer = bismuth_testkit::http::send_whole(request.body(body).unwrap())
        .await
        .unwrap();
    crate::harness::Answer(answer).problem(421, "foreign_host");
    assert!(harness.registry.function_ids().await.unwrap().is_empty());
}

#[tokio::test]
async fn nodes_are_shown_with_what_is_assigned_to_them() {
    let other = "127.0.0.2".parse().unwrap();
    let harness = Harness::with_nodes(&[NODE, other]).await;
    harness
        .registry
        .provision_node("127.0.0.3".parse().unwrap())
        .await
        .unwrap();
    let id = harness.create(&with("cpu", json!(2.5))).await;
    let nodes = harness.api.get("/node").await.ok()["nodes"].clone();
    assert_eq!(nodes.as_array().unwrap().len(), 3);
    assert_eq!(
        (
            &nodes[0]["alive"],
            &nodes[0]["cores"],
            &nodes[0]["schedulable"]
        ),
        (&json!(true), &json!(8), &json!(true))
    );
    assert_eq!(
        (
            &nodes[0]["containers"],
            &nodes[0]["assigned_cpu"],
            &nodes[0]["assigned_memory"]
        ),
        (&json!(1), &json!(2.5), &json!(128 << 20))
    );
    assert_eq!(
        (&nodes[1]["containers"], &nodes[2]["alive"]),
        (&json!(0), &json!(false))
    );

    let node = harness.api.get("/node/127.0.0.1").await.ok();
    assert_eq!(node["slots"][0]["function_id"], json!(id));
    assert_eq!(node["slots"][0]["status"], "Starting");
    assert_eq!(node["versions"]["bismuthd"], "0.1.0");
}

#[tokio::test]
async fn instances_are_spread_over_nodes() {
    let other = "127.0.0.2".parse().unwrap();
    let harness = Harness::with_nodes(&[NODE, other]).await;
    let id = harness.create(&with("max_instances", json!(4))).await;
    let on = |ip| move |slot: &&bismuth_model::Backend| slot.ip == ip;
    let slots = harness.routed(id).await;
    assert_eq!(
        (
            slots.iter().filter(on(NODE)).count(),
            slots.iter().filter(on(other)).count()
        ),
        (2, 2)
    );
}

#[tokio::test]
async fn without_a_suitable_node_the_reason_is_answered() {
    let harness = Harness::with_nodes(&[]).await;
    let create = || {
        harness
            .api
            .call(Method::POST, "/function", definition().to_string())
    };
    let problem = create().await.problem(503, "no_node");
    assert_eq!(
        (&problem["detail"], &problem["retryable"]),
        (&json!("no node is provisioned"), &json!(true))
    );
    harness.registry.provision_node(NODE).await.unwrap();
    let problem = create().await.problem(503, "no_node");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1 is not alive"),
        "{problem}"
    );
    assert!(harness.registry.function_ids().await.unwrap().is_empty());
}
