//! containerd is killed: running containers go on; starts and removals wait until it is back.

use anyhow::{Result, ensure};
use bismuth_testkit::{Cluster, eventually};

use crate::support::{
    SOON, answers, answers_soon, ask, gone_soon, kill_program, only_slot, pid, pids, script,
    server, shown,
};

#[tokio::test]
async fn a_killed_containerd_disturbs_no_running_container_and_new_ones_follow_when_it_is_back()
-> Result<()> {
    let mut cluster = Cluster::start().await?;
    let server_id = cluster.deploy(&server(&[])).await?;
    let exec_id = cluster.deploy(&script("echo hello")).await?;
    let doomed = cluster.deploy(&server(&[])).await?;
    let doomed_container = only_slot(&cluster, &doomed).await?.container;
    let mut before = pids(&cluster, 0).await?;

    cluster.containerd.kill().await?;
    for _ in 0..20 {
        for id in [&server_id, &exec_id] {
            answers(&cluster, id).await?;
        }
    }
    // What is asked of the node meanwhile is done later.
    cluster.delete_function(&doomed).await?;
    let new = cluster.create_function(&server(&[])).await?;

    cluster.containerd.restart().await?;
    answers_soon(&cluster, &new).await;
    gone_soon(&cluster, &doomed_container).await;
    for id in [&server_id, &exec_id] {
        answers(&cluster, id).await?;
    }
    let new_container = only_slot(&cluster, &new).await?.container;
    let mut after = pids(&cluster, 0).await?;
    ensure!(before.remove(&doomed_container).is_some() && after.remove(&new_container).is_some());
    assert_eq!(after, before, "the containers are the same processes");
    Ok(())
}

#[tokio::test]
async fn a_program_that_dies_while_containerd_is_away_comes_back_with_it() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let id = cluster.deploy(&server(&[])).await?;
    let container = only_slot(&cluster, &id).await?.container;
    let first = pid(&cluster, &container).await?;

    cluster.containerd.kill().await?;
    kill_program(first)?;
    eventually("its requests are refused", SOON, async || {
        let answer = ask(&cluster, &id, "/").await?;
        ensure!(answer.status().is_server_error(), "{}", shown(&answer));
        Ok(())
    })
    .await;
    cluster.containerd.restart().await?;
    answers_soon(&cluster, &id).await;
    ensure!(
        pid(&cluster, &container).await? != first,
        "the same process"
    );
    Ok(())
}

#[tokio::test]
async fn both_bismuthd_and_containerd_killed_leave_the_containers_running() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let server_id = cluster.deploy(&server(&[])).await?;
    let exec_id = cluster.deploy(&script("echo hello")).await?;
    let before = pids(&cluster, 0).await?;

    cluster.containerd.kill().await?;
    cluster.nodes[0].daemon.restart().await?;
    // bismuthd needs no containerd to go on with what runs.
    for id in [&server_id, &exec_id] {
        answers_soon(&cluster, id).await;
    }
    cluster.containerd.restart().await?;
    let new = cluster.create_function(&server(&[])).await?;
    answers_soon(&cluster, &new).await;
    let new_container = only_slot(&cluster, &new).await?.container;
    let mut after = pids(&cluster, 0).await?;
    after.remove(&new_container);
    assert_eq!(after, before, "the containers are the same processes");
    Ok(())
}
