//! Cold starts: a request to a container that does not run.
//!
//! ```text
//!  deploy all ─► … 10 s … ─► kill every program ─► all are down ─► one request to each     (a round)
//!                  ▲                                                    │ in turns with runc, crun
//!                  └────────────────────────────────────────────────────┘
//! ```
//!
//! What a start has to do here: namespaces, root filesystem, log, containerd's record, shim and task, the program,
//! its first accepted connection. The image is present; nothing else was prepared, since the death of a container
//! removes all of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Response;
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::harness::{Deployed, Harness};
use crate::oci::Runtime;
use crate::samples::Samples;

/// Forty starts and a few, in rounds that are short enough to come one after the other.
const FUNCTIONS: usize = 15;
const ROUNDS: usize = 3;
/// A container that dies earlier is held to be broken, and the next request to it is refused for a while.
const STABLE_AFTER: Duration = Duration::from_millis(10_500);
/// What this project promises of the first request.
const BOUND: Duration = Duration::from_millis(100);

/// Start times with one container runtime.
#[derive(Default)]
struct StartTimes {
    seen: Vec<Duration>,
    starts: Vec<Duration>,
    alone: Vec<Duration>,
}

pub(crate) async fn measure() -> Result<()> {
    for name in ["runc", "crun"] {
        let harness = Harness::start(name).await?;
        let runtime = Runtime::prepare(name, harness.containerd_pid()?)?;
        // Also what tells whether it works here.
        if let Err(error) = runtime.first_answer().await {
            println!("cold       {name} is not usable here: {error:#}");
            continue;
        }
        println!("cold       {name}; {}", harness.background_load().await?);
        report(&rounds(&harness, &runtime).await?, name);
    }
    Ok(())
}

async fn rounds(harness: &Harness, runtime: &Runtime) -> Result<StartTimes> {
    let definition = Harness::definition(
        "docker.io/library/echo-server:latest",
        "server:8000:/echo-server",
    )?;
    let mut functions = Vec::new();
    for _ in 0..FUNCTIONS {
        functions.push(harness.deploy(&definition).await?);
    }
    let mut times = StartTimes::default();
    for _ in 0..ROUNDS {
        tokio::time::sleep(STABLE_AFTER).await;
        take_down(harness, &functions).await?;
        // The frontend closes connections that say nothing for as long as we slept.
        let mut client = harness.client().await?;
        for function in &functions {
            let (answer, seen) = client.get(&function.path()).await?;
            times.seen.push(seen);
            times.starts.push(start_of(&answer)?);
            times.alone.push(runtime.first_answer().await?);
        }
    }
    Ok(times)
}

/// Kills every program and waits until nothing is left of the containers.
async fn take_down(harness: &Harness, functions: &[Deployed]) -> Result<()> {
    for function in functions {
        let pid = harness.program(function).await?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, Signal::KILL)
            .with_context(|| format!("kill the program of {}", function.function))?;
    }
    for function in functions {
        harness.has_failed(function).await;
    }
    Ok(())
}

/// The part of the time that was the start, as the node measured it.
fn start_of(answer: &Response<bytes::Bytes>) -> Result<Duration> {
    let timing = answer.headers().get("server-timing");
    let text = timing.context("no Server-Timing")?.to_str()?;
    ensure!(
        text.split(", ").any(|part| part == "cold"),
        "the container was not started for the request: {text}"
    );
    let start = text.split(", ").find_map(|p| p.strip_prefix("start;dur="));
    let milliseconds: f64 = start.context("no start in Server-Timing")?.parse()?;
    Ok(Duration::from_secs_f64(milliseconds / 1e3))
}

fn report(times: &StartTimes, name: &str) {
    let [seen, starts, alone] =
        [&times.seen, &times.starts, &times.alone].map(|column| Samples::new(column.clone()));
    println!("           request, as its client sees  {seen}");
    println!("           of that, start on the node   {starts}");
    println!("           {name} run, to first answer    {alone}");
    println!(
        "           ratio {:.2}; p50 of at most 100 ms: {}; then 50 ms, then 10 ms",
        seen.ratio_to(&alone),
        seen.verdict(BOUND)
    );
}

/// A connection to a server that may not have begun to listen, and its first answer.
pub(crate) async fn first_answer(authority: &str, path: &str, bound: Duration) -> Result<()> {
    /// As bismuthd waits for a program's port at first.
    const AGAIN: Duration = Duration::from_micros(250);
    let answered = async {
        let mut client = loop {
            match Client::connect(authority).await {
                Ok(client) => break client,
                // Tokio's timers tick in milliseconds, which is too coarse here; one thread is ours to block.
                Err(_not_yet) => std::thread::sleep(AGAIN),
            }
            tokio::task::yield_now().await;
        };
        client.timed(path).await
    };
    let answered = tokio::time::timeout(bound, answered).await;
    answered.with_context(|| format!("{authority} does not answer"))??;
    Ok(())
}
