//! svcprovider and bismuthd die; functions notice a pause.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_testkit::eventually;
use serde_json::json;

use crate::{ask_at, calls, cluster, python};

/// "Handed over again within a second", and a start of Python on a busy machine.
const BOUND: Duration = Duration::from_secs(5);
/// 169.254.169.254:9000 as the remote end of a line of proc_pid_net(5).
const SERVICES: &str = "FEA9FEA9:2328";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_either_side_was_killed() -> Result<()> {
    let mut cluster = cluster().await?;
    let id = python(&cluster, "g", &json!({})).await?;
    let said = calls(&cluster, &id, &json!([["PUT", "/kv/v1/a", "1"]])).await?;
    ensure!(said.statuses() == [201], "{:?}", said.answers());

    // The function asks while nobody answers: it waits in its socket's backlog.
    cluster.services_mut().daemon_mut().kill().await?;
    let reads = json!([["GET", "/kv/v1/a"]]);
    let began = Instant::now();
    let url = cluster.frontend_url(&format!("/invoke/{id}"));
    let asked = json!({ "calls": reads });
    let asking = tokio::spawn(async move { ask_at(&url, &asked).await });
    let init = cluster
        .containerd()
        .tasks(cluster.nodes()[0].namespace())
        .await?;
    let init = *init.values().next().context("no container runs")?;
    eventually("its connection waits", BOUND, async || {
        let sockets =
            fs::read_to_string(format!("/proc/{init}/net/tcp")).map_err(|e| e.to_string())?;
        let connected = |line: &str| line.contains(&format!(" {SERVICES} 01 "));
        if sockets.lines().any(connected) {
            Ok(())
        } else {
            Err(sockets)
        }
    })
    .await;
    ensure!(!asking.is_finished(), "nobody could have answered");
    cluster.services_mut().daemon_mut().start()?;
    let asking = asking.await??;
    ensure!(asking.answers() == [(200, "1")], "{:?}", asking.answers());
    ensure!(began.elapsed() < BOUND, "only after {:?}", began.elapsed());

    cluster.node_mut(0).daemon_mut().kill().await?;
    cluster.node_mut(0).daemon_mut().start()?;
    cluster.nodes()[0].ready().await?;
    let said = calls(&cluster, &id, &reads).await?;
    ensure!(said.answers() == [(200, "1")], "{:?}", said.answers());
    Ok(())
}
