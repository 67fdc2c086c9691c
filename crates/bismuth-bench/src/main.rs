//! How fast Bismuth is, as ratios to what it is built from: `cargo xtask bench -- [warm|exec|cold]`.
//!
//! ```text
//! warm   wrk ─► bismuthfe ─► bismuthd ─► server      against   wrk ─► nginx ─► nginx ─► server   and   wrk ─► server
//! exec   a request that runs `true`                  against   posix_spawn of the same program
//! cold   a request to a container that has exited    in milliseconds: its reference is a goal, not a program
//! ```
//!
//! Each comparison is measured in one run on one machine, in turns, because bare times move from run to run.

mod client;
mod cold;
mod exec;
mod samples;
mod warm;

use anyhow::Result;
use bismuth_testkit::Cluster;
use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(about = "Bismuth's benchmarks")]
struct Cli {
    /// What to measure; everything unless told otherwise.
    benchmarks: Vec<Benchmark>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    Warm,
    Exec,
    Cold,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let wanted = |benchmark| cli.benchmarks.is_empty() || cli.benchmarks.contains(&benchmark);
    let cluster = Cluster::start().await?;
    if wanted(Benchmark::Exec) {
        exec::measure(&cluster).await?;
    }
    if wanted(Benchmark::Cold) {
        cold::measure(&cluster).await?;
    }
    if wanted(Benchmark::Warm) {
        warm::measure(&cluster).await?;
    }
    Ok(())
}
