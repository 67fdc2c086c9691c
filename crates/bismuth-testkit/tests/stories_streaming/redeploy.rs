//! A new revision takes over while requests keep coming.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_testkit::http as client;
use bismuth_testkit::{Cluster, eventually};
use serde_json::json;

use crate::common::{Deployed, SOON, echo_server, header, ok, server, shown, with};

/// Clients that ask again as soon as they were answered.
const CLIENTS: usize = 8;

/// How many answers each container gave, or the first answer that was not the function's.
async fn ask_until(stop: Arc<AtomicBool>, url: String) -> Result<BTreeMap<String, u64>> {
    let mut answers = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let answer = client::post(&url, "a body").await?;
        ensure!(ok(&answer)? == "a body", "{}", shown(&answer));
        *answers
            .entry(header(&answer, "x-bismuth-container-id").to_owned())
            .or_default() += 1;
    }
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redeploy_under_load_loses_no_request() -> Result<()> {
    let deployed = Deployed::start(&echo_server()).await?;
    let Deployed { cluster, id } = &deployed;
    let old = cluster.function(id).await?["backends"][0]["backend"]["container_id"].clone();
    let stop = Arc::new(AtomicBool::new(false));
    let clients =
        (0..CLIENTS).map(|_| tokio::spawn(ask_until(Arc::clone(&stop), deployed.url("/echo"))));
    let clients: Vec<_> = clients.collect();

    // Once as it is, by an empty body, and once with another definition.
    let changed = with(echo_server(), &json!({ "env": { "REVISION": "3" } }));
    for (definition, revision) in [(None, 2), (Some(&changed), 3)] {
        cluster.redeploy(id, definition).await?;
        let what = "only the new revision is left, and it is routed";
        eventually(what, SOON, async || {
            let function = cluster.function(id).await?;
            let slots = function["backends"].as_array().cloned().unwrap_or_default();
            let taken_over = slots.len() == 1
                && slots[0]["revision"] == revision
                && slots[0]["routed"] == true
                && slots[0]["status"] == "Running";
            ensure!(taken_over, "{slots:?}");
            Ok(())
        })
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
        let tasks = cluster.containerd.tasks(&cluster.nodes[0].namespace);
        let tasks = tasks.await?;
        let is_there = old.as_str().is_some_and(|id| tasks.contains_key(id));
        ensure!(is_there, "{tasks:?}");
        Ok(())
    })
    .await;
    let url = cluster.frontend_url(&format!("/invoke/{id}/echo"));
    let waiting = tokio::spawn(async move { client::post(&url, "a body").await });

    let redeployed = Instant::now();
    cluster.redeploy(&id, Some(&echo_server())).await?;
    let answer = waiting.await??;
    let took = redeployed.elapsed();
    println!("answered {took:?} after the redeploy");
    ensure!(ok(&answer)? == "a body", "{}", shown(&answer));
    ensure!(old != header(&answer, "x-bismuth-container-id"));
    ensure!(took < Duration::from_secs(20), "it stalled: {took:?}");
    Ok(())
}
