//! Warm exec requests, compared with `posix_spawn` of the same program.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use crate::Turns;
use crate::client::Client;
use crate::harness::{Deployed, Harness};
use crate::machine::cpu_time;
use crate::samples::{Samples, Spread};

/// Enough for a steady p99 in a few seconds.
const REQUESTS: usize = 1000;
/// The first requests find cold caches and an unfilled pool.
const WARM_UP: usize = 50;
/// More than there are cores, so that the cores and not the round trips bound the rate.
const CONNECTIONS: usize = 8;
/// What this project promises of one request.
const BOUND: Duration = Duration::from_millis(2);

pub(crate) async fn measure(turns: Turns) -> Result<()> {
    let harness = Harness::start("auto").await?;
    let definition = Harness::definition("docker.io/library/alpine:latest", "exec:/bin/true")?;
    let deployed = harness.deploy(&definition).await?;
    println!("exec       {}", harness.background_load().await?);
    one_connection(&harness, &deployed).await?;
    many_connections(&harness, &deployed, turns).await
}

async fn one_connection(harness: &Harness, deployed: &Deployed) -> Result<()> {
    let path = deployed.path();
    let mut client = harness.client().await?;
    for _ in 0..WARM_UP {
        client.timed(&path).await?;
        spawn_true()?;
    }
    let (mut requests, mut spawns) = (Vec::new(), Vec::new());
    let before = cpu_time(&harness.daemons()?)?;
    for _ in 0..REQUESTS {
        requests.push(client.timed(&path).await?);
        spawns.push(spawn_true()?);
    }
    let daemons = cpu_time(&harness.daemons()?)?.saturating_sub(before);
    let (requests, spawns) = (Samples::new(requests), Samples::new(spawns));
    println!("           1 connection, in turns with the reference");
    println!("           request that runs true       {requests}");
    println!("           posix_spawn and wait         {spawns}");
    println!(
        "           ratio {:.2}, goal 1.5; p50 of at most 2 ms: {}; bismuthfe and bismuthd use {:.0} us of cpu per request",
        requests.ratio_to(&spawns),
        requests.verdict(BOUND),
        per(daemons, REQUESTS),
    );
    Ok(())
}

async fn many_connections(harness: &Harness, deployed: &Deployed, turns: Turns) -> Result<()> {
    let (mut requests, mut spawns, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut times, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..turns.rounds {
        let before = cpu_time(&harness.daemons()?)?;
        let took = requests_for(harness, &deployed.path(), turns.each).await?;
        let daemons = cpu_time(&harness.daemons()?)?.saturating_sub(before);
        let request = took.len() as f64 / turns.each.as_secs_f64();
        let spawn = spawns_for(turns.each)? as f64 / turns.each.as_secs_f64();
        requests.push(request);
        spawns.push(spawn);
        ratios.push(request / spawn);
        cpu.push(per(daemons, took.len()));
        times.extend(took);
    }
    println!(
        "           {CONNECTIONS} connections, {} turns of {} s",
        turns.rounds,
        turns.each.as_secs()
    );
    println!(
        "           requests that run true       {:.0} /s; {}",
        Spread::new(requests),
        Samples::new(times)
    );
    println!(
        "           {CONNECTIONS} threads, posix_spawn       {:.0} /s",
        Spread::new(spawns)
    );
    println!(
        "           ratio {:.2}; bismuthfe and bismuthd use {:.0} us of cpu per request",
        Spread::new(ratios),
        Spread::new(cpu)
    );
    Ok(())
}

/// Microseconds of each.
fn per(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}

/// What requests took that were sent one after the other on each connection, for that long.
async fn requests_for(harness: &Harness, path: &str, each: Duration) -> Result<Vec<Duration>> {
    let connect = (0..CONNECTIONS).map(|_| harness.client());
    let clients = try_join_all(connect).await?;
    let until = Instant::now() + each;
    let loads = clients.into_iter().map(|mut client: Client| async move {
        let mut took = Vec::new();
        while Instant::now() < until {
            took.push(client.timed(path).await?);
        }
        anyhow::Ok(took)
    });
    Ok(try_join_all(loads).await?.concat())
}

/// How many programs as many threads start and wait for, one after the other each, for that long.
fn spawns_for(each: Duration) -> Result<usize> {
    let until = Instant::now() + each;
    std::thread::scope(|scope| {
        let spawner = || {
            let mut count = 0;
            while Instant::now() < until {
                spawn_true()?;
                count += 1;
            }
            anyhow::Ok(count)
        };
        let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(spawner)).collect();
        let counts = threads.into_iter().map(|thread| {
            let joined = thread.join();
            joined.map_err(|_panic| anyhow::anyhow!("a thread that starts programs panicked"))?
        });
        counts.sum()
    })
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
