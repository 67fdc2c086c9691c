//! Measures the parts of a cold start. Not a test of a bound, because it shares its machine:
//! `cargo nextest run -p bismuth-containerd --run-ignored only --no-capture measure`.

use std::time::Duration;

use anyhow::Result;
use bismuth_containerd::tasks::{RuntimeOptions, Stdio, Tasks};
use tokio::time::Instant;

use crate::harness::Harness;

const ROUNDS: usize = 40;

#[tokio::test]
#[ignore = "prints measurements, proves nothing"]
async fn measure_runtimes_and_shim_grouping() -> Result<()> {
    let harness = Harness::start().await?;
    println!(
        "medians of {ROUNDS}: record / create / start / kill / wait / delete task / delete record, ms"
    );
    for runtime in [RuntimeOptions::runc(), RuntimeOptions::crun()] {
        for group in [None, Some("all".to_owned())] {
            let keeper = match &group {
                // The group's shim must outlive each of its containers.
                Some(_) => Some(start(&harness, &runtime, group.clone(), &mut Vec::new()).await?),
                None => None,
            };
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                let mut times = Vec::new();
                let id = start(&harness, &runtime, group.clone(), &mut times).await?;
                end(&harness, &id, &mut times).await?;
                rounds.push(times);
            }
            if let Some(id) = keeper {
                harness.client.teardown(&id).await?;
            }
            let medians: Vec<String> = (0..rounds[0].len())
                .map(|part| median(&rounds, part))
                .collect();
            println!(
                "{:5} grouped={:5}: {}",
                runtime.binary,
                group.is_some(),
                medians.join(" / ")
            );
        }
    }
    Ok(())
}

async fn start(
    harness: &Harness,
    runtime: &RuntimeOptions,
    group: Option<String>,
    times: &mut Vec<Duration>,
) -> Result<String> {
    let mut container = harness.container("exec sleep 1000")?;
    container.runtime = runtime.clone();
    container.shim_group = group;
    let id = container.id.clone();
    let mut clock = Clock::new(times);
    harness.client.create_container(container).await?;
    clock.lap();
    harness.client.create_task(&id, Stdio::null()).await?;
    clock.lap();
    harness.client.start(&id).await?;
    clock.lap();
    Ok(id)
}

async fn end(harness: &Harness, id: &str, times: &mut Vec<Duration>) -> Result<()> {
    let mut clock = Clock::new(times);
    harness.client.kill(id, 9, true).await?;
    clock.lap();
    harness.client.wait(id).await?;
    clock.lap();
    harness.client.delete_task(id).await?;
    clock.lap();
    harness.client.delete_container(id).await?;
    clock.lap();
    Ok(())
}

struct Clock<'a> {
    since: Instant,
    times: &'a mut Vec<Duration>,
}

impl<'a> Clock<'a> {
    fn new(times: &'a mut Vec<Duration>) -> Self {
        let since = Instant::now();
        Self { since, times }
    }

    fn lap(&mut self) {
        self.times.push(self.since.elapsed());
        self.since = Instant::now();
    }
}

fn median(rounds: &[Vec<Duration>], part: usize) -> String {
    let mut times: Vec<Duration> = rounds.iter().map(|round| round[part]).collect();
    times.sort();
    format!("{:.1}", times[times.len() / 2].as_secs_f64() * 1e3)
}
