//! A request that runs a program, against running that program.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_testkit::Cluster;
use serde_json::json;

use crate::client::Client;
use crate::samples::Samples;

/// Enough for a steady p99 in a few seconds.
const REQUESTS: usize = 1000;
/// The first requests find cold caches and an unfilled pool.
const WARM_UP: usize = 50;

pub(crate) async fn measure(cluster: &Cluster) -> Result<()> {
    let id = cluster
        .deploy(&json!({
            "image": "docker.io/library/alpine:latest",
            "invoke_mode": { "Executable": ["/bin/true"] },
        }))
        .await?;
    let path = format!("/invoke/{id}");
    let mut client =
        Client::connect(cluster.frontend_url("").trim_start_matches("http://")).await?;
    for _ in 0..WARM_UP {
        client.timed(&path).await?;
        spawn_true()?;
    }
    let (mut requests, mut spawns) = (Vec::new(), Vec::new());
    for _ in 0..REQUESTS {
        requests.push(client.timed(&path).await?);
        spawns.push(spawn_true()?);
    }
    let (requests, spawns) = (Samples::new(requests), Samples::new(spawns));
    println!("exec       a request that runs true     {requests}");
    println!("           posix_spawn of the same      {spawns}");
    println!(
        "           ratio                        {:.2}  (goal 1.5; first 2 ms p50)",
        requests.ratio_to(&spawns)
    );
    cluster.delete_function(&id).await
}

/// The standard library spawns with `posix_spawn` when nothing has to happen in between.
fn spawn_true() -> Result<Duration> {
    let began = Instant::now();
    let mut command = Command::new("/usr/bin/busybox");
    command
        .arg("true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = command.status().context("run busybox true")?;
    let took = began.elapsed();
    ensure!(status.success(), "busybox true: {status}");
    Ok(took)
}
