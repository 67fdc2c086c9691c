//! Requests are routed to their function and reach it unchanged.

use bismuth_model::{Affinity, FunctionId};
use bismuth_registry::RoutingSnapshot;

use crate::harness::{Nodes, container, frontend, function, invoke, ok, snapshot};

#[tokio::test]
async fn path_and_query_reach_the_node_byte_by_byte() {
    let nodes = Nodes::new().await;
    let node = nodes.start(|_| ok("hi")).await;
    let frontend = frontend(nodes.port, snapshot(function(&[(node.ip, 1)]))).await;
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
    let nodes = Nodes::new().await;
    let node = nodes.start(|_| ok("hi")).await;
    let frontend = frontend(nodes.port, snapshot(function(&[(node.ip, 1)]))).await;
    let request = "GET /healthz HTTP/1.1\r\nHost: FN.example.:80\r\n\r\n";
    assert!(frontend.ask(request).await.starts_with("HTTP/1.1 200"));
    let seen = node.seen().pop().unwrap();
    assert!(
        seen.starts_with(&format!(
            "GET /invoke/{}/healthz HTTP/1.1\r\n",
            container(1)
        )),
        "{seen}"
    );
    assert!(!seen.contains("x-forwarded-prefix"), "{seen}");
}

#[tokio::test]
async fn forwarded_headers_are_added_and_reserved_ones_are_stripped() {
    let nodes = Nodes::new().await;
    let node = nodes.start(|_| ok("hi")).await;
    let frontend = frontend(nodes.port, snapshot(function(&[(node.ip, 1)]))).await;
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
    let frontend = frontend(nodes.port, snapshot(function(&[]))).await;
    let nobody = FunctionId::from_bytes([1; 16]);
    for (path, status, code) in [
        ("/".to_owned(), "404", "no_route"),
        ("/healthz".to_owned(), "404", "no_route"),
        (
            "/invoke/nonsense".to_owned(),
            "404",
            "malformed_function_id",
        ),
        (format!("/invoke/{nobody}"), "404", "unknown_function"),
        (invoke(), "503", "no_backend"),
    ] {
        let answer = frontend.get(&path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {answer}"
        );
        assert!(
            answer.contains(&format!("x-bismuth-error: {code}\r\n")),
            "{path}: {answer}"
        );
        assert!(
            answer.contains("application/problem+json"),
            "{path}: {answer}"
        );
        assert_eq!(
            answer.contains("retry-after: 1"),
            status == "503",
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn before_the_first_routing_snapshot_the_answer_is_503_not_404() {
    let nodes = Nodes::new().await;
    let frontend = frontend(nodes.port, RoutingSnapshot::default()).await;
    for path in ["/", &invoke()] {
        let answer = frontend.get(path).await;
        assert!(
            answer.contains("x-bismuth-error: routing_unknown"),
            "{answer}"
        );
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
    let frontend = frontend(nodes.port, snapshot(routed)).await;
    let mut containers = std::collections::BTreeSet::new();
    for client in 0..12 {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: test\r\nCookie: a=b; session={client}\r\n\r\n",
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
    let frontend = frontend(nodes.port, snapshot(function(&[(old.ip, 1)]))).await;
    assert!(frontend.get(&invoke()).await.ends_with("old"));
    frontend
        .routing
        .send_replace(RoutingSnapshot::default().into());
    frontend
        .routing
        .send_replace(snapshot(function(&[(new.ip, 2)])).into());
    frontend.eventually(&invoke(), "new").await;
    frontend
        .routing
        .send_replace(RoutingSnapshot::default().into());
    let mut gone = snapshot(function(&[(new.ip, 2)]));
    gone.routes.clear();
    frontend.routing.send_replace(gone.into());
    // The routes go, the function stays: the incomplete table between them was never used.
    let request = "GET / HTTP/1.1\r\nHost: fn.example\r\n\r\n";
    while !frontend.ask(request).await.contains("no_route") {
        assert!(frontend.get(&invoke()).await.ends_with("new"));
    }
}
