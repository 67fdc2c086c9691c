//! svcprovider and bismuthd die; functions notice a pause.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{ask_at, calls, cluster, python};

/// "Handed over again within a second", and a start of Python on a busy machine.
const BOUND: Duration = Duration::from_secs(5);

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
