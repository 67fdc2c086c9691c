//! A new revision takes over while requests keep coming.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_testkit::http as client;
use bismuth_testkit::{Cluster, eventually};
use http::Method;
use serde_json::json;

use crate::common::{SOON, echo_server, header, server, text, with};

/// Clients that ask again as soon as they were answered.
const CLIENTS: usize = 8;

/// How many answers each container gave, or the first answer that was not the function's.
async fn ask_until(stop: Arc<AtomicBool>, url: String) -> Result<BTreeMap<String, u64>> {
    let mut answers = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let answer = client::post(&url, "a body").await?;
        ensure!(
            answer.status() == 200 && answer.body() == "a body",
            "{:?} {}",
            answer.headers(),
            text(&answer)
        );
        *answers
            .entry(header(&answer, "x-bismuth-container-id").to_owned())
            .or_default() += 1;
    }
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redeploy_under_load_loses_no_request() -> Result<()> {
    let cluster = Cluster::start().await?;
    let id = cluster.deploy(&echo_server()).await?;
    let old = cluster.function(&id).await?["backends"][0]["backend"]["container_id"].clone();
    let stop = Arc::new(AtomicBool::new(false));
    let url = cluster.frontend_url(&format!("/invoke/{id}/echo"));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(ask_until(Arc::clone(&stop), url.clone())))
        .collect();

    // Once as it is, by an empty body, and once with another definition.
    let path = format!("/function/{id}");
    let changed = with(echo_server(), &json!({ "env": { "REVISION": "3" } }));
    for (definition, revision) in [(None, 2), (Some(&changed), 3)] {
        let answer = cluster.api_call(Method::PUT, &path, definition).await?;
        ensure!(
            answer.status() == 200,
            "{} {}",
            answer.status(),
            text(&answer)
        );
        eventually(
            "only the new revision is left, and it is routed",
            SOON,
            async || {
                let function = cluster
                    .function(&id)
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                let slots = function["backends"].as_array().cloned().unwrap_or_default();
                let taken_over = slots.len() == 1
                    && slots[0]["revision"] == revision
                    && slots[0]["routed"] == true
                    && slots[0]["status"] == "Running";
                if taken_over {
                    Ok(())
                } else {
                    Err(function["backends"].to_string())
                }
            },
        )
        .await;
    }
    stop.store(true, Ordering::Relaxed);

    let mut answers = BTreeMap::<String, u64>::new();
    for client in clients {
        for (container, count) in client.await?.context("a request was lost")? {
            *answers.entry(container).or_default() += count;
        }
    }
    println!("answers by container: {answers:?}");
    ensure!(
        answers.len() == 3,
        "each revision should have answered: {answers:?}"
    );
    ensure!(
        answers.keys().any(|container| old == *container),
        "{answers:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_a_cold_start_is_answered_by_the_revision_that_takes_over()
-> Result<()> {
    let cluster = Cluster::start().await?;
    // Its cold start outlasts the test, and so would the drain of a request that nobody released.
    let slow = with(
        server(&["--never-listen"]),
        &json!({ "startup_timeout_ms": 60_000 }),
    );
    let id = cluster.create_function(&slow).await?;
    let old = cluster.function(&id).await?["backends"][0]["backend"]["container_id"].clone();
    eventually("the program is being started", SOON, async || {
        let tasks = cluster
            .containerd()
            .tasks(cluster.nodes()[0].namespace())
            .await;
        match tasks {
            Ok(tasks) if old.as_str().is_some_and(|id| tasks.contains_key(id)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let url = cluster.frontend_url(&format!("/invoke/{id}/echo"));
    let waiting = tokio::spawn(async move { client::post(&url, "a body").await });

    let path = format!("/function/{id}");
    let redeployed = Instant::now();
    let answer = cluster
        .api_call(Method::PUT, &path, Some(&echo_server()))
        .await?;
    ensure!(answer.status() == 200, "{}", text(&answer));
    let answer = waiting.await??;
    let took = redeployed.elapsed();
    println!("answered {took:?} after the redeploy");
    ensure!(
        answer.status() == 200 && answer.body() == "a body",
        "{:?} {}",
        answer.headers(),
        text(&answer)
    );
    ensure!(old != header(&answer, "x-bismuth-container-id"));
    ensure!(took < Duration::from_secs(20), "it stalled: {took:?}");
    Ok(())
}
