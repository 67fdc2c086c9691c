//! The `bismuthd` program: parse, log, build, run, drain.

use std::process::ExitCode;

use bismuth_daemon::{Shutdown, exit, signals, telemetry};
use bismuthd::{Args, Service};
use clap::Parser as _;

fn main() -> ExitCode {
    exit::main("bismuthd", || start(Args::parse()))
}

fn start(args: Args) -> anyhow::Result<()> {
    // Two threads for all that is not a request: containers are started side by side while
    // ZooKeeper and containerd are listened to. Requests have their own threads.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("bismuthd-control")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(run(args));
    // A start may be waiting for its program on a thread of its own; the next process goes on.
    runtime.shutdown_background();
    ended
}

async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry)?;
    let shutdown = Shutdown::new();
    signals(&shutdown)?;
    let service = Service::build(args)?;
    service.run(shutdown).await
}
