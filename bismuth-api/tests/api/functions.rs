//! Functions and nodes: create, read, list, delete, and refusals.

use bismuth_model::{ContainerState, FunctionId};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Harness, NODE, assert_has, definition, send};

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
    let image = "docker.io/library/alpine:latest";
    let definition = json!({"image": image, "memory": 128 << 20});
    assert_has(&shown["definition"], definition);
    let members: Vec<&String> = shown.as_object().unwrap().keys().collect();
    assert_eq!(members, ["backends", "definition"]);
    let backend = json!({"ip": "127.0.0.1", "container_id": slot.container_id});
    assert_has(
        &shown["backends"][0],
        json!({"backend": backend, "status": "Starting", "revision": 1, "routed": true}),
    );

    let reason = "there is no /bin/ls in the image";
    harness
        .report_status(slot, ContainerState::Failed, Some(reason))
        .await;
    let shown = harness.api.get(&path).await.ok();
    let failed = json!({"status": "Failed", "reason": reason});
    assert_has(&shown["backends"][0], failed);

    let page = harness.api.get("/function").await.ok();
    let routes = json!([{"hostname": "a.example"}]);
    assert_has(&page["functions"][0], json!({"id": id, "routes": routes}));
    assert_eq!(page["next"], Value::Null);

    let api = &harness.api;
    assert_eq!(api.delete(&path).await.ok()["id"], json!(id));
    api.get(&path).await.problem(404, "unknown_function");
    api.delete(&path).await.problem(404, "unknown_function");
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
        let functions = page["functions"].as_array().unwrap().iter();
        listed.extend(functions.map(|f| f["id"].as_str().unwrap().to_owned()));
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
    let of = |field, value| with(field, value).to_string();
    let malformed = [
        (".", "{".to_owned()),
        (".", String::new()),
        (".", json!({"image": "alpine"}).to_string()),
        ("colour", of("colour", json!("red"))),
        ("cpu", of("cpu", json!("much"))),
        ("image", of("image", json!("UPPER CASE"))),
        (
            "routes[0].hostname",
            of("routes", json!([{"hostname": "-bad-"}])),
        ),
    ];
    let out_of_range = [
        ("cpu", of("cpu", json!(0))),
        ("memory", of("memory", json!(1))),
        ("min_instances", of("min_instances", json!(2))),
        ("invoke_mode", of("invoke_mode", json!({"Executable": []}))),
    ];
    let too_large = [
        (".", of("env", json!({"A": "x".repeat(61 * 1024)}))),
        (".", "x".repeat(1 << 20)),
    ];
    let id = harness.create(&definition()).await;
    let put = format!("/function/{id}");
    for (status, code, cases) in [
        (400, "definition_malformed", &malformed[..]),
        (422, "definition_out_of_range", &out_of_range),
        (413, "definition_too_large", &too_large),
    ] {
        for (field, body) in cases {
            for (method, path) in [(Method::POST, "/function"), (Method::PUT, &put)] {
                if method == Method::PUT && body.is_empty() {
                    continue;
                }
                let answer = harness.api.call(method.clone(), path, body.clone()).await;
                let problem = answer.problem(status, code);
                let shown: String = body.chars().take(80).collect();
                assert_eq!(problem["field"], *field, "{method} {shown}: {problem}");
            }
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
    let routed = |hosts: &[&str]| {
        let routes = hosts.iter().map(|host| json!({"hostname": host}));
        with("routes", routes.collect())
    };
    let first = harness.create(&routed(&["a.example"])).await;
    let both = routed(&["b.example", "a.example"]);
    let taken = async |method, path: &str| {
        let answer = harness.api.call(method, path, both.to_string()).await;
        answer.problem(409, "route_taken")
    };
    let problem = taken(Method::POST, "/function").await;
    assert_eq!(problem["field"], "routes[1].hostname");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&first.to_string()), "{problem}");

    let second = harness.create(&routed(&["c.example"])).await;
    taken(Method::PUT, &format!("/function/{second}")).await;
    let slots = harness.all_slots(second).await;
    assert_eq!(slots.len(), 1, "the refused revision has no slots");
    // What is gone with its function can be had again.
    let path = format!("/function/{first}");
    harness.api.delete(&path).await.ok();
    harness.create(&both).await;
}

#[tokio::test]
async fn unknown_and_malformed_names_are_not_found() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (api, unknown) = (&harness.api, FunctionId::new_random());
    let path = format!("/function/{unknown}");
    let upper = path.to_uppercase().replace("/FUNCTION", "/function");
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        for (path, code) in [
            (&*path, "unknown_function"),
            ("/function/17", "malformed_id"),
            (&upper, "malformed_id"),
        ] {
            // With a definition, PUT of an unknown id creates.
            api.call(method.clone(), path, "").await.problem(404, code);
        }
    }
    for (path, code) in [
        (&*format!("{path}/logs"), "unknown_function"),
        (&*format!("{path}/revision"), "unknown_function"),
        ("/function/x/revision", "malformed_id"),
        ("/function/x/logs", "malformed_id"),
        ("/function/%ff", "malformed_id"),
        ("/node/127.0.0.9", "unknown_node"),
        ("/node/localhost", "malformed_address"),
        ("/nothing", "unknown_path"),
    ] {
        api.get(path).await.problem(404, code);
    }
    let wrong = api.call(Method::PATCH, "/function", "").await;
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
        let answer = harness.api.get(&format!("/function?limit={limit}")).await;
        let problem = answer.problem(422, "query_out_of_range");
        assert_eq!(problem["field"], "limit");
    }
    for (query, field) in [
        ("tail=-1", "tail"),
        ("tail=100001", "tail"),
        ("since=yesterday", "since"),
        ("follow=maybe", "follow"),
    ] {
        let path = format!("/function/{id}/logs?{query}");
        let problem = harness.api.get(&path).await.problem(400, "query_malformed");
        assert_eq!(problem["field"], field);
    }
}

#[tokio::test]
async fn web_pages_of_other_origins_deploy_nothing() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let body = definition().to_string();
    let post = || harness.api.request(Method::POST, "/function");
    let foreign = post().header("origin", "http://evil.example");
    send(foreign, body.clone())
        .await
        .problem(403, "foreign_origin");
    // A page whose own name leads here: its origin is the host that it asks.
    let rebound = post()
        .header("host", "evil.example:8002")
        .header("origin", "http://evil.example:8002");
    send(rebound, body).await.problem(421, "foreign_host");
    assert!(harness.registry.function_ids().await.unwrap().is_empty());
}

#[tokio::test]
async fn nodes_are_shown_with_what_is_assigned_to_them() {
    let other = "127.0.0.2".parse().unwrap();
    let harness = Harness::with_nodes(&[NODE, other]).await;
    let dead = "127.0.0.3".parse().unwrap();
    harness.registry.provision_node(dead).await.unwrap();
    let id = harness.create(&with("cpu", json!(2.5))).await;
    let nodes = harness.api.get("/node").await.ok()["nodes"].clone();
    assert_eq!(nodes.as_array().unwrap().len(), 3);
    let facts = json!({"alive": true, "cores": 8, "schedulable": true});
    assert_has(&nodes[0], facts);
    let assigned = json!({"containers": 1, "assigned_cpu": 2.5, "assigned_memory": 128 << 20});
    assert_has(&nodes[0], assigned);
    assert_has(&nodes[1], json!({"containers": 0}));
    assert_has(&nodes[2], json!({"alive": false}));

    let node = harness.api.get("/node/127.0.0.1").await.ok();
    let slot = json!({"function_id": id, "status": "Starting"});
    assert_has(&node["slots"][0], slot);
    assert_eq!(node["versions"]["bismuthd"], "0.1.0");
}

#[tokio::test]
async fn instances_are_spread_over_nodes() {
    let other = "127.0.0.2".parse().unwrap();
    let harness = Harness::with_nodes(&[NODE, other]).await;
    let id = harness.create(&with("max_instances", json!(4))).await;
    let mut ips: Vec<_> = harness
        .routed(id)
        .await
        .iter()
        .map(|slot| slot.ip)
        .collect();
    ips.sort();
    assert_eq!(ips, [NODE, NODE, other, other]);
}

#[tokio::test]
async fn without_a_suitable_node_the_reason_is_answered() {
    let harness = Harness::with_nodes(&[]).await;
    let refused = async || {
        let body = definition().to_string();
        let answer = harness.api.call(Method::POST, "/function", body).await;
        answer.problem(503, "no_node")
    };
    assert_has(
        &refused().await,
        json!({"detail": "no node is provisioned", "retryable": true}),
    );
    harness.registry.provision_node(NODE).await.unwrap();
    let problem = refused().await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("127.0.0.1 is not alive"), "{problem}");
    assert!(harness.registry.function_ids().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_create_that_is_repeated_with_its_key_is_one_function() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let create = async |key: &str, definition: &serde_json::Value| {
        let request = harness.api.request(Method::POST, "/function");
        send(
            request.header("idempotency-key", key),
            definition.to_string(),
        )
        .await
    };
    let first = create("order-1", &definition()).await.ok();
    assert_eq!(create("order-1", &definition()).await.ok(), first);
    assert_ne!(create("order-2", &definition()).await.ok(), first);
    assert_eq!(harness.registry.function_ids().await.unwrap().len(), 2);

    let mut other = definition();
    other["env"] = json!({"COLOUR": "red"});
    create("order-1", &other)
        .await
        .problem(422, "idempotency_key_reused");
    for malformed in ["", &"x".repeat(256)] {
        create(malformed, &definition())
            .await
            .problem(400, "idempotency_key_malformed");
    }
    let twice = harness.api.request(Method::POST, "/function");
    let twice = twice
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    send(twice, definition().to_string())
        .await
        .problem(400, "idempotency_key_malformed");
    assert_eq!(harness.registry.function_ids().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_function_is_created_under_the_id_that_its_deployer_chose() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let id = FunctionId::new_random();
    let path = format!("/function/{id}");
    let empty = harness.api.call(Method::PUT, &path, "").await;
    empty.problem(404, "unknown_function");
    let body = definition().to_string();
    let shown = harness
        .api
        .call(Method::PUT, &path, body.clone())
        .await
        .ok();
    assert_eq!(shown["backends"][0]["revision"], 1);
    let again = harness.api.call(Method::PUT, &path, body).await.ok();
    assert_eq!(again["backends"][0]["revision"], 2, "a redeployment");
}
