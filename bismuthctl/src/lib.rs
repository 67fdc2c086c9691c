//! bismuthctl: the operator's and the deployer's command line.
//!
//! ```text
//!  args ─► one command ─┬─► registry ────► ZooKeeper       nodes, functions, backends, audit, records
//!                       ├─► frontend, API                  invoke, logs
//!                       └─► containerd of this machine     images
//!                              │
//!                       output: a table or JSON on standard output, and nothing else there
//! ```
//!
//! It speaks to ZooKeeper itself, so that a cluster can be repaired while no daemon of ours runs. An
//! error is one line on standard error; the exit code says of which kind it is (`Error::exit_code`).

mod args;
mod byte_size;
mod client;
mod consistency;
mod definition;
mod deploy;
mod embedded_store;
mod error;
mod functions;
mod image;
mod invoke;
mod logs;
mod nodes;
mod output;
mod rollout;
mod services;
mod session;
mod terminal;

use std::io::Write;

use clap::CommandFactory as _;

pub use args::Args;
use args::Command;
use error::Error;
use output::Output;
use session::Session;
pub use terminal::Terminal;

/// Does what the arguments say. Answers go to `stdout`.
///
/// # Errors
/// What went wrong, in words for the operator.
pub async fn run(args: Args, stdout: &mut dyn Write) -> Result<(), Error> {
    if args.verbose {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .init();
    }
    let mut output = Output::new(args.output, stdout);
    match args.command {
        Command::Completions { shell } => {
            // By way of memory: the generator panics when nobody reads.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "bismuthctl", &mut script);
            output.bytes(&script)
        }
        Command::Invoke(invoke) => invoke::run(invoke, &mut output).await,
        Command::Logs(logs) => logs::run(logs, &mut output).await,
        Command::Image(image) => image::run(image, &mut output).await,
        Command::Secret(secret) => services::secret(secret, &mut output).await,
        Command::Kv(kv) => services::kv(kv, &mut output).await,
        Command::Blob(blob) => services::blob(blob, &mut output).await,
        Command::Group(group) => services::group(group, &mut output).await,
        command => {
            let session = Session::open(args.zookeeper).await?;
            let done = in_session(command, &session, &mut output).await;
            session.close().await;
            done
        }
    }
}

async fn in_session(
    command: Command,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    match command {
        Command::Bootstrap => nodes::bootstrap(session).await,
        Command::Provision { ip } => nodes::provision(session, ip).await,
        Command::Deprovision { ip } => nodes::deprovision(session, ip).await,
        Command::ListNodes => nodes::list(session, output).await,
        Command::CreateFunction(create) => functions::create(session, *create, output).await,
        Command::UpdateFunction(update) => deploy::update(session, *update, output).await,
        Command::Revisions { id } => deploy::revisions(session, id, output).await,
        Command::Rollback(rollback) => deploy::roll_back(session, rollback, output).await,
        Command::DeleteFunction(delete) if delete.purge => {
            services::delete_and_purge(session, delete.id, &delete.services, output).await
        }
        Command::DeleteFunction(delete) => functions::delete(session, delete.id).await,
        Command::GetFunction { id } => functions::get(session, id, output).await,
        Command::ListFunctions => functions::list(session, output).await,
        Command::AddBackend { id, ip, force } => {
            functions::add_backend(session, id, ip, force, output).await
        }
        Command::RemoveBackend { id, ip, container } => {
            functions::remove_backend(session, id, ip, container).await
        }
        Command::Consistency { repair } => consistency::run(session, repair, output).await,
        Command::Store { command } => embedded_store::run(session, command, output).await,
        Command::Show { path } => consistency::record(session, &path, output).await,
        // Those without a session are done with before.
        Command::Invoke(_)
        | Command::Logs(_)
        | Command::Image(_)
        | Command::Secret(_)
        | Command::Kv(_)
        | Command::Blob(_)
        | Command::Group(_)
        | Command::Completions { .. } => Ok(()),
    }
}
