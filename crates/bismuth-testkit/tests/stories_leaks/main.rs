//! Leak tests: after many functions were created and deleted, the machine holds what it held before.
//!
//! What is expected to stay is there when the first count is taken, because a first cycle leaves it: the
//! images, the content they were unpacked from, their snapshots with one view each, the leases that
//! keep them, and the shared clones of their layers. Everything else goes, and the second count
//! finds nothing that the first did not: no mount (pinned namespaces are mounts, so are root filesystems), cgroup,
//! snapshot, lease, container, task, shim or other process, socket or other file, network interface
//! or descriptor.

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::{Cluster, HeldResources, eventually};
use serde_json::Value;
use tokio::time::Instant;

use support::{
    SOON, answers, ask, delete, delete_all, gone_soon, retryable, script, server, shown, slots,
    status_soon, text,
};

/// Side by side, to stay fast.
const LANES: usize = 4;
const CYCLES: usize = 100;
const CYCLES_WITH_KILLS: usize = 20;
/// bismuthd is killed at a random time of a cycle, or soon after it.
const LONGEST_LIFE_MS: u64 = 400;
/// Any number. Another one in this environment variable tries other times.
const SEED: u64 = 20_260_726;
const SEED_VARIABLE: &str = "BISMUTH_TEST_SEED";
/// Connections that pools keep for their next request, to nodes and to the registry: at most one for each lane. What
/// every cycle, or every other, would leave behind is far more.
const KEPT: usize = LANES;
/// Pools let go of idle connections after half a minute, and look twice in that time.
const CALM: Duration = Duration::from_secs(60);

/// Containers that a test had; cgroups of others belong to other tests on this machine.
type ContainerIds = BTreeSet<String>;

async fn start() -> Result<Cluster> {
    // Logs outlive their container on purpose; here not even for a moment.
    Cluster::builder()
        .bismuthd_args(&["--log-retention", "0s"])
        .services()
        .start()
        .await
}

fn definition(number: usize) -> Value {
    if number.is_multiple_of(2) {
        server(&[])
    } else {
        script("cat; echo hello")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_functions_come_and_go_and_nothing_is_left() -> Result<()> {
    let cluster = start().await?;
    let (mut seen, before) = first_cycles(&cluster).await?;

    let lanes = (0..LANES).map(|lane| {
        let cluster = &cluster;
        async move {
            let mut seen = ContainerIds::new();
            for number in (lane..CYCLES).step_by(LANES) {
                let cycle = cycle(cluster, number).await;
                seen.append(&mut cycle.with_context(|| format!("cycle {number}"))?);
            }
            anyhow::Ok(seen)
        }
    });
    for lane in futures_util::future::try_join_all(lanes).await? {
        seen.extend(lane);
    }
    ensure!(seen.len() >= CYCLES + 2, "{} containers", seen.len());
    nothing_grew(&cluster, &before, &seen).await
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_come_and_go_while_bismuthd_is_killed_and_nothing_is_left() -> Result<()> {
    let mut cluster = start().await?;
    let (mut seen, before) = first_cycles(&cluster).await?;

    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed.parse().context(SEED_VARIABLE)?,
        Err(_) => SEED,
    };
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..CYCLES_WITH_KILLS {
        let life = Duration::from_millis(random.u64(0..LONGEST_LIFE_MS));
        let cycle = cycle_cut_short(&cluster, number, life).await;
        seen.append(&mut cycle.with_context(|| format!("cycle {number}, killed after {life:?}"))?);
        cluster.nodes[0].daemon.start()?;
        if random.bool() {
            // Else the next cycle begins while this one is still being cleaned up, or before the start has ended.
            cluster.nodes[0].ready().await?;
        }
    }
    cluster.nodes[0].ready().await?;
    nothing_grew(&cluster, &before, &seen).await
}

/// Creates a function, waits until it is proven, asks it, and deletes it. Returns its containers.
async fn cycle(cluster: &Cluster, number: usize) -> Result<ContainerIds> {
    let id = created(cluster, number).await;
    status_soon(cluster, &id, "Running").await;
    let seen = containers(cluster, &id).await?;
    let answer = answers(cluster, &id).await?;
    ensure!(answer == "hello\n", "{answer:?}");
    delete(cluster, &id).await?;
    Ok(seen)
}

/// As [`cycle`], but bismuthd lives for `life` only; the function is deleted all the same.
async fn cycle_cut_short(cluster: &Cluster, number: usize, life: Duration) -> Result<ContainerIds> {
    let end_of_life = Instant::now() + life;
    let cycle = async {
        let id = created(cluster, number).await;
        let seen = containers(cluster, &id).await?;
        let answer = ask(cluster, &id, "/").await?;
        match answer.status().as_u16() {
            200 => {}
            // The frontend follows by a watch: it may not have heard of a function this young.
            404 => ensure!(
                text(&answer).contains("unknown_function"),
                "{}",
                shown(&answer)
            ),
            _ => drop(retryable(&answer)?),
        }
        delete(cluster, &id).await?;
        anyhow::Ok(seen)
    };
    let death = async {
        tokio::time::sleep_until(end_of_life).await;
        cluster.nodes[0].daemon.process()?.kill().await
    };
    let (seen, killed) = tokio::join!(cycle, death);
    killed?;
    seen
}

async fn created(cluster: &Cluster, number: usize) -> String {
    eventually("a function is accepted", SOON, async || {
        cluster.create_function(&definition(number)).await
    })
    .await
}

async fn containers(cluster: &Cluster, id: &str) -> Result<ContainerIds> {
    let slots = slots(cluster, id).await?.into_iter();
    Ok(slots.map(|slot| slot.container).collect())
}

/// A first cycle with each definition; counts everything that could leak once their functions are gone.
async fn first_cycles(cluster: &Cluster) -> Result<(ContainerIds, HeldResources)> {
    let mut seen = ContainerIds::new();
    for number in 0..2 {
        seen.append(&mut cycle(cluster, number).await?);
    }
    for container in &seen {
        gone_soon(cluster, container).await;
    }
    let before = count(cluster, &seen).await?;
    Ok((seen, before))
}

async fn count(cluster: &Cluster, seen: &ContainerIds) -> Result<HeldResources> {
    let of_others = |name: &str| {
        let container = Path::new(name).file_name().and_then(|name| name.to_str());
        container.is_none_or(|container| !seen.contains(container))
    };
    let held = HeldResources::count(cluster).await?;
    Ok(held.without(|kind, name| kind == "cgroup" && of_others(name)))
}

async fn nothing_grew(
    cluster: &Cluster,
    before: &HeldResources,
    seen: &ContainerIds,
) -> Result<()> {
    delete_all(cluster).await?;
    let what = "nothing is held that was not held before";
    eventually(what, CALM, async || {
        let grown = before.growth_to(&count(cluster, seen).await?, KEPT);
        ensure!(grown.is_empty(), "{}", grown.join("\n"));
        Ok(())
    })
    .await;
    for (kind, least) in [("image", 2), ("lease", 1), ("snapshot", 2), ("content", 2)] {
        ensure!(before.number_of(kind) >= least, "the count sees no {kind}");
    }
    ensure!(
        before.number_of("container") + before.number_of("task") + before.number_of("cgroup") == 0
    );
    Ok(())
}
