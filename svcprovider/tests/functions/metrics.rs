//! The metrics, and that they are documented.

use std::sync::atomic::Ordering;

use bismuth_testkit::eventually;
use prometheus_client::encoding::text::encode;

use crate::harness::Harness;

/// More than anything takes on a busy machine.
const SOON: std::time::Duration = std::time::Duration::from_secs(30);

/// All that there is, as it is served.
fn page(harness: &Harness) -> String {
    let mut page = String::new();
    encode(&mut page, &harness.registry).unwrap();
    page
}

#[tokio::test]
async fn requests_are_counted_by_service_and_class_without_names_of_groups() {
    let mut harness = Harness::start().await;
    let function = harness.function("canary-group").await;
    function.get("/kv/v1/canary-key").await;
    function.call("PUT", "/kv/v1/canary-key", "value").await;
    function.get("/kv/v1/canary-key").await;
    function.call("POST", "/blob/v1/canary-key", "value").await;
    function.get("/secrets/v1/canary-key").await;
    function.get("/").await;
    function.get("/canary-path").await;
    harness.store.away.store(true, Ordering::SeqCst);
    function.get("/kv/v1/canary-key").await;
    let counted = page(&harness);
    for line in [
        r#"requests_total{service="kv",class="2xx"} 2"#,
        r#"requests_total{service="kv",class="4xx"} 1"#,
        r#"requests_total{service="kv",class="5xx"} 1"#,
        r#"requests_total{service="blob",class="2xx"} 1"#,
        r#"requests_total{service="secret",class="4xx"} 1"#,
        r#"requests_total{service="other",class="2xx"} 1"#,
        r#"requests_total{service="other",class="4xx"} 1"#,
        r#"requests_total{service="operator",class="2xx"} 0"#,
        r#"time_to_head_seconds_count{service="kv"} 4"#,
        r#"problems_total{code="not_found"} 2"#,
        r#"problems_total{code="store_unavailable"} 1"#,
        "containers 1",
    ] {
        let line = format!("svcprovider_{line}");
        assert!(counted.lines().any(|it| it == line), "{line}\n{counted}");
    }
    assert!(!counted.contains("canary"), "{counted}");
    // Each request had one of its own, and let go of it.
    eventually("all connections have ended", SOON, async || {
        let none = page(&harness).contains("svcprovider_connections 0");
        none.then_some(()).ok_or("some are open".to_owned())
    })
    .await;
    harness.end().await;
}

#[tokio::test]
async fn every_metric_is_in_the_documentation() {
    let mut harness = Harness::start().await;
    harness.function("a").await.get("/kv/v1/none").await;
    let documentation = include_str!("../../../docs/services.md");
    let page = page(&harness);
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<&str> = types.filter_map(|line| line.split(' ').next()).collect();
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        assert!(documentation.contains(&format!("| `{name}")), "{name}");
    }
    harness.end().await;
}
