//! The life cycle of a Bismuth process: logging, signals, supervised tasks, listeners, admin endpoints, drain, exit code.
//!
//! ```text
//!   main ── telemetry ── config ── bind ── spawn ──────────── wait ───────── drain ── exit code
//!              │                     │       │                  │               │
//!           stderr            listen::*   Tasks ──────► Shutdown ◄── signals    └ names what still ran
//!                                         cores            ▲
//!                                         admin            └── a task whose end ends the process
//! ```
//!
//! - [`telemetry`]: logs on standard error, as text or JSON lines. Standard output is for answers to people.
//! - [`Shutdown`]: the cancellation token of the process, and whether it ends as a failure.
//! - [`signals`](fn@signals): SIGTERM and SIGINT trigger it; the second one ends the process at once.
//! - [`Tasks`]: every task has a name and a policy for its death.
//! - [`admin`]: `/healthz`, `/readyz`, `/metrics`.
//! - [`cores`]: one thread and one runtime per core, for data paths.
//! - [`limits`]: the limit of open descriptors, and how many connections fit into it.
//! - [`listen`]: listening sockets whose errors name the address.
//! - [`AcceptLoop`]: accepts connections within bounds, and drains them at the shutdown.
//! - [`serve_http`]: serves a hyper service on a connection.
//! - [`exit`]: exit codes, and the one line that a failed start prints.
//!
//! # `main` is a table of contents
//!
//! ```no_run
//! use std::{net::SocketAddr, process::ExitCode, time::Duration};
//!
//! use bismuth_daemon::{Admin, Policy, Shutdown, Tasks, TelemetryArgs, admin, exit, listen, signals, telemetry};
//! use clap::Parser;
//! use prometheus_client::registry::Registry;
//!
//! #[derive(Parser)]
//! struct Args {
//!     /// Where /healthz, /readyz and /metrics answer.
//!     #[arg(long, default_value = "127.0.0.1:9100")]
//!     admin: SocketAddr,
//!     #[command(flatten)]
//!     telemetry: TelemetryArgs,
//! }
//!
//! fn main() -> ExitCode {
//!     exit::main("bismuthexample", || run(Args::parse()))
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn run(args: Args) -> anyhow::Result<()> {
//!     telemetry::init(&args.telemetry)?;
//!     let shutdown = Shutdown::new();
//!     signals(&shutdown)?;
//!
//!     let admin = Admin::new(Registry::with_prefix("bismuthexample")).unready_on(&shutdown);
//!     let warmed_up = admin.condition("warmed-up");
//!     let listener = listen::bind(args.admin)?;
//!     tracing::info!(address = %listener.local_addr()?, "listening");
//!
//!     let tasks = Tasks::new(&shutdown);
//!     tasks.spawn("admin", Policy::EndsProcess, admin::serve(listener, admin, shutdown.clone()));
//!     warmed_up.met();
//!
//!     shutdown.cancelled().await;
//!     let drained = tasks.drain(Duration::from_secs(10)).await;
//!     shutdown.outcome()?;
//!     Ok(drained?)
//! }
//! ```

mod accept;
pub mod admin;
pub mod cores;
pub mod exit;
mod http;
pub mod limits;
pub mod listen;
mod shutdown;
mod signals;
mod tasks;
pub mod telemetry;

pub use accept::{AcceptLoop, Accepted, Backlog, CutOff, FinishSignal};
pub use admin::{Admin, Condition};
pub use cores::{CoreId, Cores, run_per_core};
pub use http::{HttpOptions, serve_http};
pub use shutdown::{Failure, Shutdown};
pub use signals::{SignalsError, signals};
pub use tasks::{Outcome, Policy, StillRunning, Tasks};
pub use telemetry::TelemetryArgs;
