//! Benchmarks of Bismuth beside references: `cargo xtask bench [exec] [cold] [warm] [services] [--rounds N] [--seconds N]`.
//!
//! ```text
//! exec   a request that runs `true`, through both hops      beside   posix_spawn of the same program
//! cold   a request to a container that does not run         beside   `runc run`, `crun run` of the same files
//! warm   wrk ─► bismuthfe ─► bismuthd ─► server             beside   wrk ─► nginx ─► nginx ─► server
//!                                                             and    wrk ─► server
//! services   wrk in a container ─► svcprovider, a key     beside   an empty answer; and writes, and memory
//! ```
//!
//! Bare times move from run to run and from machine to machine. So a thing and its reference are measured in turns
//! within one run; each turn gives a ratio, and the median ratio with its spread is the result. Beside the times
//! stand counts and the processor time per request, which say more than times do when the machine is busy.

mod client;
mod cold;
mod exec;
mod harness;
mod machine;
mod nginx;
mod oci;
mod samples;
mod services;
mod warm;
mod wrk;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::machine::Cpu;

/// Each benchmark needs one or two minutes; one that needs ten hangs.
const BOUND: Duration = Duration::from_secs(600);

/// Bismuth's benchmarks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    /// What to measure; everything unless told otherwise.
    benchmarks: Vec<Benchmark>,

    /// Turns of each comparison under load.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// How long each turn loads each path, in seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    Exec,
    Cold,
    Warm,
    Services,
}

/// How a comparison under load is taken.
#[derive(Clone, Copy, Debug)]
struct Turns {
    rounds: u32,
    each: Duration,
}

// One thread: the client's own work must not wander between cores while it is part of what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let all = [
        Benchmark::Exec,
        Benchmark::Cold,
        Benchmark::Warm,
        Benchmark::Services,
    ];
    let wanted = if cli.benchmarks.is_empty() {
        all.to_vec()
    } else {
        cli.benchmarks
    };
    let turns = Turns {
        rounds: cli.rounds,
        each: Duration::from_secs(cli.seconds.into()),
    };
    println!("machine    {}", Cpu::describe()?);
    for benchmark in wanted {
        let measured = async {
            match benchmark {
                Benchmark::Exec => exec::measure(turns).await,
                Benchmark::Cold => cold::measure().await,
                Benchmark::Warm => warm::measure(turns).await,
                Benchmark::Services => services::measure(turns).await,
            }
        };
        tokio::time::timeout(BOUND, measured)
            .await
            .with_context(|| format!("{benchmark:?} has not ended in {} s", BOUND.as_secs()))??;
    }
    Ok(())
}
