//! Requests are routed to their function and reach it unchanged.

use bismuth_model::{Affinity, FunctionId};
use bismuth_registry::RoutingSnapshot;

use crate::harness::{
    Nodes, assert_contains, container, frontend, frontend_of_one_slot, frontend_with, function,
    invoke, ok, snapshot,
};

#[tokio::test]
async fn path_and_query_reach_the_node_byte_by_byte() {
    let (frontend, node) = frontend_of_one_slot(|_| ok("hi"), |_| {}).await;
    let slot = container(1);
    for (asked, forwarded) in [
        ("", "/"),
        ("/", "/"),
        ("?q=1", "/?q=1"),
        ("/a/../b//c", "/a/../b//c"),
        ("/%2e%2E/%2F%41?x=%20&&y", "/%2e%2E/%2F%41?x=%20&&y"),
        ("/a?", "/a?"),
    ] {
        let answer = frontend.get(&format!("{}{asked}", invoke())).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{asked}: {answer}");
        let seen = node.seen().pop().unwrap();
        let expected = format!("GET /invoke/{slot}{forwarded} HTTP/1.1\r\n");
        assert!(seen.starts_with(&expected), "{asked}: {seen}");
    }
}

#[tokio::test]
async fn a_routed_host_wins_and_its_function_sees_the_whole_path() {
    let (frontend, node) = frontend_of_one_slot(|_| ok("hi"), |_| {}).await;
    let request = "GET /healthz HTTP/1.1\r\nHost: FN.example.:80\r\n\r\n";
    assert!(frontend.ask(request).await.starts_with("HTTP/1.1 200"));
    let seen = node.seen().pop().unwrap();
    let expected = format!("GET /invoke/{}/healthz HTTP/1.1\r\n", container(1));
    assert!(seen.starts_with(&expected), "{seen}");
    assert!(!seen.contains("x-forwarded-prefix"), "{seen}");
}

#[tokio::test]
async fn forwarded_headers_are_added_and_reserved_ones_are_stripped() {
    let (frontend, node) = frontend_of_one_slot(|_| ok("hi"), |_| {}).await;
    let path = invoke();
    let answer = frontend
        .ask(&format!(
            "GET {path}/x HTTP/1.1\r\nHost: test:8000\r\nX-Request-Id: mine\r\nX-Bismuth-Anything: forged\r\nConnection: X-Private\r\nX-Private: 1\r\nX-Forwarded-Prefix: /forged\r\n\r\n"
        ))
        .await;
    let seen = node.seen().pop().unwrap();
    for line in [
        "host: test:8000",
        "x-request-id: mine",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: test:8000",
        &format!("x-forwarded-prefix: {path}"),
        "traceparent: 00-",
    ] {
        assert!(seen.contains(&format!("\r\n{line}")), "{line}: {seen}");
    }
    for name in ["x-bismuth-anything", "x-private", "forged"] {
        assert!(!seen.contains(name), "{name}: {seen}");
    }
    assert!(answer.contains("\r\nx-request-id: mine\r\n"), "{answer}");
    assert!(answer.contains("\r\ntraceparent: 00-"), "{answer}");
}

#[tokio::test]
async fn an_unknown_route_or_function_gets_404_with_its_code() {
    let nodes = Nodes::new().await;
    let frontend = frontend(&nodes, function(&[])).await;
    let nobody = FunctionId::from_bytes([1; 16]);
    let unknown = format!("/invoke/{nobody}");
    for (path, status, code) in [
        ("/", "404", "no_route"),
        ("/healthz", "404", "no_route"),
        ("/invoke/nonsense", "404", "malformed_function_id"),
        (&unknown, "404", "unknown_function"),
        (&invoke(), "503", "no_backend"),
    ] {
        let answer = frontend.get(path).await;
        let (status_line, error) = (
            format!("HTTP/1.1 {status}"),
            format!("x-bismuth-error: {code}\r\n"),
        );
        assert!(answer.starts_with(&status_line), "{path}: {answer}");
        assert_contains(&answer, &[&error, "application/problem+json"]);
        let again = answer.contains("retry-after: 1");
        assert_eq!(again, status == "503", "{path}: {answer}");
    }
}

#[tokio::test]
async fn before_the_first_routing_snapshot_the_answer_is_503_not_404() {
    let nodes = Nodes::new().await;
    let frontend = frontend_with(nodes.config(), RoutingSnapshot::default()).await;
    for path in ["/", &invoke()] {
        let answer = frontend.get(path).await;
        assert_contains(&answer, &["x-bismuth-error: routing_unknown"]);
    }
    let answer = frontend.get("/invoke/nonsense").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn a_client_with_affinity_stays_on_its_container() {
    let nodes = Nodes::new().await;
    let node = nodes.start(|request| ok(&request[12..48])).await;
    let mut routed = function(&[(node.ip, 1), (node.ip, 2), (node.ip, 3)]);
    routed.affinity = Some(Affinity::Cookie("session".into()));
    let frontend = frontend(&nodes, routed).await;
    let mut containers = std::collections::BTreeSet::new();
    for client in 0..12 {
        let cookie = format!("Cookie: a=b; session={client}");
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: test\r\n{cookie}\r\n\r\n",
            invoke()
        );
        let first = frontend.ask(&request).await;
        let second = frontend.ask(&request).await;
        let body = |answer: &str| answer.rsplit("\r\n\r\n").next().unwrap().to_owned();
        assert_eq!(body(&first), body(&second));
        containers.insert(body(&first));
    }
    assert!(containers.len() > 1, "clients are spread");
}

#[tokio::test]
async fn a_new_table_is_routed_by_at_once_and_an_incomplete_one_never() {
    let nodes = Nodes::new().await;
    let (old, new) = (
        nodes.start(|_| ok("old")).await,
        nodes.start(|_| ok("new")).await,
    );
    let frontend = frontend(&nodes, function(&[(old.ip, 1)])).await;
    assert!(frontend.get(&invoke()).await.ends_with("old"));
    let replace = |routing: RoutingSnapshot| frontend.routing.send_replace(routing.into());
    replace(RoutingSnapshot::default());
    replace(snapshot(function(&[(new.ip, 2)])));
    frontend.eventually(&invoke(), "new").await;
    replace(RoutingSnapshot::default());
    let mut gone = snapshot(function(&[(new.ip, 2)]));
    gone.routes.clear();
    replace(gone);
    // The routes go, the function stays: the incomplete table between them was never used.
    let request = "GET / HTTP/1.1\r\nHost: fn.example\r\n\r\n";
    while !frontend.ask(request).await.contains("no_route") {
        assert!(frontend.get(&invoke()).await.ends_with("new"));
    }
}
