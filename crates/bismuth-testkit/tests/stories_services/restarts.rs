//! svcprovider and bismuthd are killed: connections of functions wait, and acknowledged writes are kept.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_testkit::{Cluster, eventually};
use serde_json::{Value, json};

use crate::{ask, ask_at, calls, cluster, python};

/// From svcprovider being ready until what waited for it is served: the sockets are handed over again within a second.
const HANDED_OVER: Duration = Duration::from_secs(1);
/// A start of svcprovider on a busy machine.
const STARTED: Duration = Duration::from_secs(3);
/// A start of Python on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// 169.254.169.254:9000 as the remote end of a line of proc_pid_net(5).
const SERVICES: &str = "FEA9FEA9:2328";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_either_side_was_killed() -> Result<()> {
    let mut cluster = cluster().await?;
    let id = python(&cluster, "g", &json!({})).await?;
    let results = calls(&cluster, &id, &json!([["PUT", "/kv/v1/a", "1"]])).await?;
    results.have_statuses(&[201])?;
    svcprovider_dies_under_a_request(&mut cluster, &id).await?;

    cluster.nodes[0].restart().await?;
    let results = calls(&cluster, &id, &reads()).await?;
    results.are(&[(200, "1")])?;

    // What was served before is served, without asking a ZooKeeper that takes its time to say nothing.
    cluster.zookeeper.pause()?;
    svcprovider_dies_under_a_request(&mut cluster, &id).await
}

fn reads() -> Value {
    json!([["GET", "/kv/v1/a"]])
}

async fn svcprovider_dies_under_a_request(cluster: &mut Cluster, id: &str) -> Result<()> {
    // The function asks while nobody answers: it waits in its socket's backlog.
    cluster.services[0].daemon_mut().kill().await?;
    let url = cluster.frontend_url(&format!("/invoke/{id}"));
    let asked = json!({ "calls": reads() });
    let asking = tokio::spawn(async move {
        let results = ask_at(&url, &asked).await;
        (results, Instant::now())
    });
    its_connection_waits(cluster).await?;
    ensure!(!asking.is_finished(), "nobody could have answered");

    let started = Instant::now();
    cluster.services[0].daemon_mut().start()?;
    cluster.services[0].ready().await?;
    let ready = Instant::now();
    let (results, answered) = asking.await?;
    let results = results?;
    results.are(&[(200, "1")])?;
    let (start, handover) = (ready - started, answered.saturating_duration_since(ready));
    ensure!(start < STARTED, "ready only after {start:?}");
    ensure!(handover < HANDED_OVER, "served only after {handover:?}");
    Ok(())
}

async fn its_connection_waits(cluster: &Cluster) -> Result<()> {
    let init = only_task(cluster).await?;
    eventually("its connection waits", SOON, async || {
        let sockets = fs::read_to_string(format!("/proc/{init}/net/tcp"))?;
        let connected = sockets.contains(&format!(" {SERVICES} 01 "));
        ensure!(connected, "{sockets}");
        Ok(())
    })
    .await;
    Ok(())
}

async fn only_task(cluster: &Cluster) -> Result<u32> {
    let namespace = &cluster.nodes[0].namespace;
    let tasks = cluster.containerd.tasks(namespace).await?;
    tasks.into_values().next().context("no container runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_have_the_secrets_of_their_container_s_start_with_all_others_restarted()
-> Result<()> {
    let mut cluster = cluster().await?;
    cluster
        .ctl_ok_with(&["secret", "set", "g", "key", "-"], "first")
        .await?;
    let secrets = json!({ "secrets": [{ "name": "key", "env": "KEY" }] });
    let id = python(&cluster, "g", &secrets).await?;
    has_key(&cluster, &id, "first").await?;
    let task = only_task(&cluster).await?;

    // Whoever asked svcprovider again would be given another value, or none.
    cluster
        .ctl_ok_with(&["secret", "rotate", "g", "key", "-"], "second")
        .await?;
    cluster.services[0].daemon_mut().kill().await?;
    cluster.nodes[0].restart().await?;
    has_key(&cluster, &id, "first").await?;
    cluster.services[0].daemon_mut().start()?;
    cluster.services[0].ready().await?;
    has_key(&cluster, &id, "first").await?;
    ensure!(only_task(&cluster).await? == task, "it was started anew");
    Ok(())
}

async fn has_key(cluster: &Cluster, id: &str, value: &str) -> Result<()> {
    let results = ask(cluster, id, &json!({ "calls": [], "env": ["KEY"] })).await?;
    ensure!(results.0["env"]["KEY"] == value, "{}", results.0["env"]);
    Ok(())
}
