//! The `svcprovider` program: parse, log, build, run, drain.

use std::process::ExitCode;

use bismuth_daemon::{Shutdown, exit, signals, telemetry};
use clap::Parser as _;
use svcprovider::{Args, Service};

fn main() -> ExitCode {
    exit::main("svcprovider", || run(Args::parse()))
}

// Functions have their own threads; this one is for all else.
#[tokio::main(flavor = "current_thread")]
async fn run(args: Args) -> anyhow::Result<()> {
    // Whatever it makes is nobody else's, also in directories that are.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    telemetry::init(&args.telemetry)?;
    let shutdown = Shutdown::new();
    signals(&shutdown)?;
    let service = Service::build(args).await?;
    service.run(shutdown).await
}
