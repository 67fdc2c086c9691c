//! The `bismuthd` program: parse, log, build, run, drain.

use std::process::ExitCode;

use bismuth_daemon::{Shutdown, exit, signals, telemetry};
use bismuthd::{Args, Service};
use clap::Parser as _;

fn main() -> ExitCode {
    exit::main("bismuthd", || run(Args::parse()))
}

// Two threads for all that is not a request: containers are started side by side while ZooKeeper
// and containerd are listened to. Requests have their own threads.
#[tokio::main(worker_threads = 2)]
async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry)?;
    let shutdown = Shutdown::new();
    signals(&shutdown)?;
    let service = Service::build(args)?;
    service.run(shutdown).await
}
