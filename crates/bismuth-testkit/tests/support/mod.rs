//! Shared by the resilience and leak stories: functions, the processes of their containers, a load generator.

// Each story is a crate of its own and uses its part of this.
#![allow(dead_code)]

#[path = "../common/mod.rs"]
mod common;
pub mod load;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bismuth_testkit::{Cluster, eventually, http as client};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use common::{SOON, ok, script, server, shown, text};

/// One slot of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub ip: Ipv4Addr,
    pub container: String,
    pub status: String,
    pub reason: String,
}

/// The slots of a function as the API shows them.
pub async fn slots(cluster: &Cluster, id: &str) -> Result<Vec<Slot>> {
    let function = cluster.function(id).await?;
    let backends = function["backends"].as_array().context("no backends")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let slot = |shown: &Value| {
        Ok(Slot {
            ip: text(&shown["backend"]["ip"]).parse()?,
            container: text(&shown["backend"]["container_id"]),
            status: text(&shown["status"]),
            reason: text(&shown["reason"]),
        })
    };
    backends.iter().map(slot).collect()
}

/// The slot of a function that has one.
pub async fn only_slot(cluster: &Cluster, id: &str) -> Result<Slot> {
    let mut slots = slots(cluster, id).await?;
    ensure!(slots.len() == 1, "{slots:?}");
    slots.pop().context("no slot")
}

/// The containers that run on a node: container id → process id on this machine.
pub async fn pids(cluster: &Cluster, node: usize) -> Result<BTreeMap<String, u32>> {
    let namespace = &cluster.nodes[node].namespace;
    cluster.containerd.tasks(namespace).await
}

/// The process of a container on the first node.
pub async fn pid(cluster: &Cluster, container: &str) -> Result<u32> {
    let pids = pids(cluster, 0).await?;
    let pid = pids.get(container).copied();
    pid.with_context(|| format!("container {container} has no running process"))
}

/// Kills a function's program behind everyone's back.
pub fn kill_program(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.context("not a process id")?, Signal::KILL).context("kill a program")
}

/// Deletes a function, also when ZooKeeper is slow on a loaded machine and the API says to try again.
pub async fn delete(cluster: &Cluster, id: &str) -> Result<()> {
    let deleted = eventually("the API answers", SOON, async || {
        let path = format!("/function/{id}");
        let answer = cluster.api_call(Method::DELETE, &path, None).await;
        match answer {
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => Err(shown(&answer)),
            other => Ok(other),
        }
    });
    let answer = deleted.await?;
    // Not found: an earlier attempt came through.
    let gone = [StatusCode::OK, StatusCode::NOT_FOUND].contains(&answer.status());
    ensure!(gone, "delete function {id}: {}", shown(&answer));
    Ok(())
}

/// Deletes every function there is, such as one whose creation ended in "outcome unknown".
pub async fn delete_all(cluster: &Cluster) -> Result<()> {
    let page = cluster
        .api_call(Method::GET, "/function?limit=1000", None)
        .await?;
    let page: Value = serde_json::from_slice(page.body())?;
    for function in page["functions"]
        .as_array()
        .context("no list of functions")?
    {
        delete(cluster, function["id"].as_str().context("no id")?).await?;
    }
    Ok(())
}

/// Asks a function for `path`, through the frontend.
pub async fn ask(cluster: &Cluster, id: &str, path: &str) -> Result<Response<Bytes>> {
    client::get(&cluster.frontend_url(&format!("/invoke/{id}{path}"))).await
}

/// Asks a function for `/`, which must answer 200; returns the body.
pub async fn answers(cluster: &Cluster, id: &str) -> Result<String> {
    ok(&ask(cluster, id, "/").await?)
}

/// Asks a function for `/` until it answers 200; returns the body.
pub async fn answers_soon(cluster: &Cluster, id: &str) -> String {
    eventually(&format!("function {id} answers"), SOON, async || {
        answers(cluster, id).await
    })
    .await
}

/// Waits until a function's only slot has this status; returns the reason.
pub async fn status_soon(cluster: &Cluster, id: &str, status: &str) -> String {
    eventually(&format!("function {id} is {status}"), SOON, async || {
        let slot = only_slot(cluster, id).await?;
        ensure!(slot.status == status, "{slot:?}");
        Ok(slot.reason)
    })
    .await
}

/// Waits until the frontend says that there is no such function.
pub async fn unknown_soon(cluster: &Cluster, id: &str) {
    eventually("the route is gone", SOON, async || {
        let answer = ask(cluster, id, "/").await?;
        ensure!(answer.status() == 404, "{}", shown(&answer));
        Ok(())
    })
    .await;
}

/// Waits until a container is gone from the first node: its task, its record, its directory.
pub async fn gone_soon(cluster: &Cluster, container: &str) {
    let dir = cluster.nodes[0]
        .state_dir
        .join("containers")
        .join(container);
    eventually("the container is gone", SOON, async || {
        ensure!(!dir.exists(), "{} is there", dir.display());
        let mut inventory = cluster.containerd.inventory().await?;
        inventory.retain(|_, names| names.iter().any(|name| name.ends_with(container)));
        ensure!(inventory.is_empty(), "{inventory:?}");
        Ok(())
    })
    .await;
}

/// Waits until a file has this text in it.
pub async fn saved_soon(file: &Path, text: &str) {
    eventually(&format!("{text} is saved"), SOON, async || {
        let saved = std::fs::read_to_string(file)?;
        ensure!(saved.contains(text), "{saved}");
        Ok(())
    })
    .await;
}

/// An error of ours that invites to try again; returns its code.
pub fn retryable(answer: &Response<Bytes>) -> Result<String> {
    let problem: Value = match serde_json::from_slice(answer.body()) {
        Ok(problem) => problem,
        Err(_) => bail!("no problem of ours: {}", shown(answer)),
    };
    ensure!(
        problem["retryable"] == true,
        "not retryable: {}",
        shown(answer)
    );
    Ok(problem["code"].as_str().unwrap_or_default().to_owned())
}
