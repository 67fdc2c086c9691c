//! The `bismuth-api` program: parse, log, build, run, drain.

use std::process::ExitCode;

use bismuth_api::{Args, Service};
use bismuth_daemon::{Shutdown, exit, limits, signals, telemetry};
use clap::Parser as _;

fn main() -> ExitCode {
    exit::main("bismuth-api", || run(Args::parse()))
}

// Not on the path of an invocation: a few threads serve all deployers there are.
#[tokio::main(worker_threads = 2)]
async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry)?;
    let shutdown = Shutdown::new();
    signals(&shutdown)?;
    limits::allow_many_descriptors();
    let service = Service::build(args)?;
    service.run(shutdown).await
}
