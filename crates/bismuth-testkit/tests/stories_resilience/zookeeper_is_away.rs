//! ZooKeeper is unreachable: what is assigned goes on; changes wait until it is back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bismuth_testkit::{Cluster, eventually};
use http::Method;
use serde_json::Value;

use crate::support::{
    SOON, answers, answers_soon, gone_soon, kill_program, only_slot, pid, pids, retryable,
    saved_soon, script, server, shown, unknown_soon,
};

/// The API says so within this time.
const SAYS_SO: Duration = Duration::from_secs(1);

#[tokio::test]
async fn without_zookeeper_all_goes_on_and_with_it_changes_flow_again() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let server_id = cluster.deploy(&server(&[])).await?;
    let exec_id = cluster.deploy(&script("echo hello")).await?;
    let doomed = cluster.deploy(&server(&[])).await?;
    let functions = [server_id.clone(), exec_id.clone(), doomed.clone()];
    for id in &functions {
        answers(&cluster, id).await?;
        saved_soon(&cluster.dir().join("bismuthfe.snapshot"), id).await;
    }
    let doomed_container = only_slot(&cluster, &doomed).await?.container;
    let container = only_slot(&cluster, &server_id).await?.container;

    cluster.zookeeper.kill().await?;
    warm_invocations_go_on(&cluster, &functions).await?;
    the_api_says_so(&cluster).await?;
    a_cold_start_works(&cluster, &server_id, &container).await?;
    both_daemons_restart(&mut cluster, &functions).await?;
    a_cold_start_works(&cluster, &server_id, &container).await?;
    // After a restart too: what is needed for it is on disk.
    a_container_starts_in_a_fresh_bismuthd(&mut cluster, &server_id, &container).await?;

    let daemons: Vec<u32> = daemon_pids(&cluster)?;
    cluster.zookeeper.restart().await?;
    changes_flow_again(&cluster, &doomed, &doomed_container).await?;
    for id in [&server_id, &exec_id] {
        answers(&cluster, id).await?;
    }
    assert_eq!(daemon_pids(&cluster)?, daemons, "nobody was restarted");
    Ok(())
}

async fn warm_invocations_go_on(cluster: &Cluster, functions: &[String]) -> Result<()> {
    for _ in 0..20 {
        for id in functions {
            answers(cluster, id).await?;
        }
    }
    Ok(())
}

async fn the_api_says_so(cluster: &Cluster) -> Result<()> {
    let asked = Instant::now();
    let answer = cluster
        .api_call(Method::POST, "/function", Some(&server(&[])))
        .await?;
    let took = asked.elapsed();
    ensure!(answer.status() == 503, "{}", shown(&answer));
    retryable(&answer)?;
    ensure!(took < SAYS_SO, "only after {took:?}");
    Ok(())
}

async fn a_cold_start_works(cluster: &Cluster, id: &str, container: &str) -> Result<()> {
    let first = pid(cluster, container).await?;
    kill_program(first)?;
    answers_soon(cluster, id).await;
    ensure!(pid(cluster, container).await? != first, "the same process");
    Ok(())
}

async fn both_daemons_restart(cluster: &mut Cluster, functions: &[String]) -> Result<()> {
    let before = pids(cluster, 0).await?;
    cluster.frontend.restart().await?;
    cluster.frontend_ready().await?;
    warm_invocations_go_on(cluster, functions).await?;

    cluster.nodes[0].restart().await?;
    warm_invocations_go_on(cluster, functions).await?;

    cluster.frontend.kill().await?;
    cluster.nodes[0].daemon.kill().await?;
    cluster.frontend.start()?;
    cluster.nodes[0].daemon.start()?;
    cluster.nodes[0].ready().await?;
    cluster.frontend_ready().await?;
    warm_invocations_go_on(cluster, functions).await?;
    assert_eq!(
        pids(cluster, 0).await?,
        before,
        "the containers are the same processes"
    );
    Ok(())
}

async fn a_container_starts_in_a_fresh_bismuthd(
    cluster: &mut Cluster,
    id: &str,
    container: &str,
) -> Result<()> {
    let first = pid(cluster, container).await?;
    cluster.nodes[0].daemon.kill().await?;
    kill_program(first)?;
    cluster.nodes[0].restart().await?;
    answers(cluster, id).await?;
    ensure!(pid(cluster, container).await? != first, "the same process");
    Ok(())
}

async fn changes_flow_again(cluster: &Cluster, doomed: &str, doomed_container: &str) -> Result<()> {
    eventually("the API works again", SOON, async || {
        cluster.delete_function(doomed).await
    })
    .await;
    unknown_soon(cluster, doomed).await;
    gone_soon(cluster, doomed_container).await;
    // A node is schedulable when it has announced itself again.
    let new = eventually("a function is accepted", SOON, async || {
        cluster.create_function(&server(&[])).await
    })
    .await;
    answers_soon(cluster, &new).await;
    Ok(())
}

fn daemon_pids(cluster: &Cluster) -> Result<Vec<u32>> {
    cluster
        .daemons()
        .map(|(_, daemon)| Ok(daemon.process()?.pid()))
        .collect()
}

#[tokio::test]
async fn an_expired_session_kills_no_container_and_the_node_joins_again() -> Result<()> {
    let cluster = Cluster::start().await?;
    let id = cluster.deploy(&server(&[])).await?;
    let exec_id = cluster.deploy(&script("echo hello")).await?;
    let before = pids(&cluster, 0).await?;
    let daemons = daemon_pids(&cluster)?;

    for _ in 0..3 {
        let expired = cluster.zookeeper.expire_all_sessions().await?;
        ensure!(
            expired >= 3,
            "{expired} sessions, but bismuthd, bismuthfe and bismuth-api have one each"
        );
        answers(&cluster, &id).await?;
        answers(&cluster, &exec_id).await?;
        joined_again(&cluster).await;
    }

    let new = cluster.deploy(&server(&[])).await?;
    answers_soon(&cluster, &new).await;
    let gone = only_slot(&cluster, &new).await?.container;
    cluster.delete_function(&new).await?;
    gone_soon(&cluster, &gone).await;
    assert_eq!(
        pids(&cluster, 0).await?,
        before,
        "the containers are the same processes"
    );
    assert_eq!(daemon_pids(&cluster)?, daemons, "nobody was restarted");
    Ok(())
}

async fn joined_again(cluster: &Cluster) {
    let what = "the node is alive, and all have sessions";
    eventually(what, SOON, async || {
        let sessions = cluster.zookeeper.sessions().await?;
        ensure!(sessions.len() >= 3, "{} sessions", sessions.len());
        let nodes = cluster.api_call(Method::GET, "/node", None).await?;
        let nodes: Value = serde_json::from_slice(nodes.body())?;
        ensure!(nodes.to_string().contains("\"alive\":true"), "{nodes}");
        Ok(())
    })
    .await;
}
