//! A function's program crashes: that is detected at once, reported, and the next request restarts it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_testkit::{Cluster, eventually, http};
use serde_json::Value;

use crate::support::{
    SOON, answers, answers_soon, ask, kill_program, only_slot, pid, retryable, script, server,
    shown, status_soon,
};

/// How soon bismuthd must know.
const SEEN: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_crashed_server_is_failed_within_100_ms_and_restarted_by_the_next_request_after_its_backoff()
-> Result<()> {
    crashes_and_comes_back(&server(&[])).await
}

#[tokio::test]
async fn a_crashed_exec_container_is_failed_within_100_ms_and_restarted_by_the_next_request_after_its_backoff()
-> Result<()> {
    crashes_and_comes_back(&script("echo hello")).await
}

async fn crashes_and_comes_back(definition: &Value) -> Result<()> {
    let cluster = Cluster::start().await?;
    let id = cluster.deploy(definition).await?;
    answers(&cluster, &id).await?;
    let container = only_slot(&cluster, &id).await?.container;
    let first = pid(&cluster, &container).await?;
    let port = cluster.node_port();
    let node = format!("http://127.0.0.1:{port}/invoke/{container}/");

    kill_program(first)?;
    let killed = Instant::now();
    // It ran for less than ten seconds, so it is not started again at once, and the first request
    // that is not served is told why.
    let refused = loop {
        let answer = http::get(&node).await?;
        if !answer.status().is_success() {
            break answer;
        }
        ensure!(killed.elapsed() < SEEN, "still answers");
    };
    let seen = killed.elapsed();
    println!("seen after {seen:?}");
    ensure!(seen < SEEN, "seen only after {seen:?}");
    retryable(&refused)?;
    let problem: Value = serde_json::from_slice(refused.body())?;
    let detail = problem["detail"].as_str().context("no detail")?;
    ensure!(detail.contains("killed by signal 9 (SIGKILL)"), "{detail}");

    let reason = status_soon(&cluster, &id, "Failed").await;
    ensure!(reason.contains("killed by signal 9 (SIGKILL)"), "{reason}");
    answers_soon(&cluster, &id).await;
    ensure!(
        pid(&cluster, &container).await? != first,
        "the same process"
    );
    status_soon(&cluster, &id, "Running").await;
    Ok(())
}

#[tokio::test]
async fn a_program_that_ends_under_a_request_fails_that_request_with_its_exit_code() -> Result<()> {
    let cluster = Cluster::start().await?;
    let id = cluster.deploy(&server(&[])).await?;
    let answer = ask(&cluster, &id, "/exit?code=7").await?;
    ensure!(answer.status() == 502, "{}", shown(&answer));
    let problem: Value = serde_json::from_slice(answer.body())?;
    let detail = problem["detail"].as_str().context("no detail")?;
    ensure!(
        detail.contains("exit code 7") && detail.contains("told to exit with 7"),
        "{detail}"
    );
    answers_soon(&cluster, &id).await;
    Ok(())
}

#[tokio::test]
async fn with_min_instances_a_dead_container_is_restarted_without_a_request() -> Result<()> {
    let cluster = Cluster::start().await?;
    let mut definition = server(&[]);
    definition["min_instances"] = 1.into();
    let id = cluster.deploy(&definition).await?;
    let container = only_slot(&cluster, &id).await?.container;
    let first = pid(&cluster, &container).await?;
    kill_program(first)?;
    eventually("another process runs", SOON, async || {
        let pid = pid(&cluster, &container).await?;
        ensure!(pid != first, "still {first}");
        Ok(())
    })
    .await;
    Ok(())
}
