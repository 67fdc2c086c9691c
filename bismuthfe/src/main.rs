//! The `bismuthfe` program.

use std::process::ExitCode;

use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_daemon::{Policy, Shutdown, Tasks, exit, limits, listen, signals, telemetry};
use bismuth_registry::Registry;
use bismuthfe::{Args, Service, saved_routing};
use clap::Parser;

fn main() -> ExitCode {
    exit::main("bismuthfe", || run(Args::parse()))
}

#[tokio::main(flavor = "current_thread")]
async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(&args.telemetry)?;
    let shutdown = Shutdown::new();
    signals(&shutdown)?;
    limits::allow_many_descriptors();

    let listeners = listen::bind_per_core(args.listen, args.workers())?;
    let admin = listen::bind(args.admin_listen)?;
    if let Some(listener) = listeners.first() {
        tracing::info!(address = %listener.local_addr()?, workers = args.workers(), "listening");
    }

    let tree = ZkTree::connect_lazy(&args.zookeeper.servers, ConnectOptions::default());
    let registry = Registry::new(
        std::sync::Arc::new(tree),
        args.zookeeper.environment.clone(),
    );
    let earlier = saved_routing(args.snapshot.as_deref());
    let (routing, following) = registry.watch_routing(earlier, shutdown.token().cancelled_owned());
    let tasks = Tasks::new(&shutdown);
    // A frontend that hears of nothing any more must not go on as if nothing changed.
    tasks.spawn("routing watch", Policy::EndsProcess, following);

    Service::build(args.into(), routing)
        .run(listeners, admin, shutdown)
        .await
}
