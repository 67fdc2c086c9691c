//! Two nodes, each with its svcprovider, on one PostgreSQL and one S3 server.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bismuth_testkit::cluster::Engines;
use bismuth_testkit::{Cluster, PostgreSql, S3Server, eventually, image};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::{CallResults, ask_at, python};

const SOON: Duration = Duration::from_secs(30);
const IPS: [&str; 2] = ["127.0.0.1", "127.0.0.2"];

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_function_on_two_nodes_have_one_store() -> Result<()> {
    let (postgres, s3) = tokio::try_join!(PostgreSql::start(), S3Server::start())?;
    s3.create_bucket("blobs")?;
    let mut cluster = Cluster::builder()
        .nodes(2)
        .image("library/python:3.11", image::python()?)
        .services_on(Engines::on(&postgres, "postgres", &s3, "blobs"))
        .start()
        .await?;
    let quotas = json!({ "svc_quotas": { "kv_keys": 5 }, "max_instances": 2 });
    let id = python(&cluster, "shared", &quotas).await?;
    let containers = one_on_each(&cluster, &id).await?;
    cluster
        .ctl_ok_with(&["secret", "set", "shared", "key", "-"], "s3cret")
        .await?;

    let calls = json!([
        ["PUT", "/kv/v1/greeting", "hello"],
        ["POST", "/blob/v1/picture", "bytes of it"],
    ]);
    let results = ask_on(&cluster, &containers, 0, &calls).await?;
    results.have_statuses(&[201, 201])?;
    let calls = json!([
        ["GET", "/kv/v1/greeting"],
        ["GET", "/blob/v1/picture"],
        ["GET", "/secrets/v1/key"],
    ]);
    let results = ask_on(&cluster, &containers, 1, &calls).await?;
    let expected = [(200, "hello"), (200, "bytes of it"), (200, "s3cret")];
    results.are(&expected)?;

    counted_once(&cluster, &containers).await?;
    a_quota_holds_for_both(&cluster, &containers).await?;

    // One svcprovider is gone: the other node does not notice.
    cluster.services[1].daemon_mut().kill().await?;
    let read = json!([["GET", "/kv/v1/greeting"]]);
    let results = ask_on(&cluster, &containers, 0, &read).await?;
    results.are(&[(200, "hello")])?;
    cluster.services[1].daemon_mut().restart().await?;
    let results = ask_on(&cluster, &containers, 1, &read).await?;
    results.are(&[(200, "hello")])?;
    Ok(())
}

/// A container on each node: the one that the deployment made, and one more.
async fn one_on_each(cluster: &Cluster, id: &str) -> Result<[String; 2]> {
    let described = cluster.function(id).await?;
    let first = on(&described, IPS[0]).is_some();
    let other = IPS[usize::from(first)];
    if on(&described, other).is_none() {
        cluster.ctl_ok(&["add-backend", id, other]).await?;
    }
    let running = eventually("a container runs on each node", SOON, async || {
        let described = cluster.function(id).await?;
        match IPS.map(|ip| on(&described, ip)) {
            [Some((one, true)), Some((two, true))] => Ok([one, two]),
            _ => bail!("{described}"),
        }
    })
    .await;
    Ok(running)
}

/// The container on a node, and whether it runs.
fn on(described: &Value, ip: &str) -> Option<(String, bool)> {
    let mut backends = described["backends"].as_array()?.iter();
    let found = backends.find(|it| it["backend"]["ip"] == ip)?;
    let container = found["backend"]["container_id"].as_str()?.to_owned();
    Some((container, found["status"] == "Running"))
}

async fn ask_on(
    cluster: &Cluster,
    containers: &[String; 2],
    node: usize,
    calls: &Value,
) -> Result<CallResults> {
    let (ip, port) = (IPS[node], cluster.node_port());
    let url = format!("http://{ip}:{port}/invoke/{}", containers[node]);
    let results = ask_at(&url, &json!({ "calls": calls })).await;
    results.with_context(|| format!("on node {node}"))
}

async fn counted_once(cluster: &Cluster, containers: &[String; 2]) -> Result<()> {
    let twenty: Vec<Value> = (0..20)
        .map(|_| json!(["POST", "/kv/v1/visits/incr"]))
        .collect();
    let twenty = json!(twenty);
    let both = [0, 1].map(|node| ask_on(cluster, containers, node, &twenty));
    let results = try_join_all(both).await?;
    let mut sums: Vec<u64> = results
        .iter()
        .flat_map(|results| results.answers())
        .filter_map(|(_, sum)| sum.parse().ok())
        .collect();
    sums.sort_unstable();
    ensure!(sums == (1..=40).collect::<Vec<_>>(), "{sums:?}");
    Ok(())
}

/// Two keys are there, three more may be.
async fn a_quota_holds_for_both(cluster: &Cluster, containers: &[String; 2]) -> Result<()> {
    let keys = |node| {
        let keys = (0..4).map(|n| json!(["PUT", format!("/kv/v1/{node}-{n}"), "x"]));
        json!(keys.collect::<Vec<_>>())
    };
    let (one, two) = (keys(0), keys(1));
    let (one, two) = tokio::try_join!(
        ask_on(cluster, containers, 0, &one),
        ask_on(cluster, containers, 1, &two)
    )?;
    let statuses = [one.statuses(), two.statuses()].concat();
    let made = statuses.iter().filter(|status| **status == 201).count();
    let refused = statuses.iter().filter(|status| **status == 507).count();
    ensure!((made, refused) == (3, 5), "{statuses:?}");
    Ok(())
}
