//! Command-line arguments.

mod image;
mod services;

use std::net::Ipv4Addr;

use bismuth_model::{
    Affinity, ContainerId, FunctionId, Hostname, ImageReference, InvokeMode, Revision, SecretUse,
};
use bismuth_registry::ZooKeeperArgs;
use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use image::{Image, ImageCommand};
pub(crate) use services::{
    BlobCommand, BlobPut, GroupCommand, KeyArg, KvCommand, KvPut, List, OnServices, SecretCommand,
    SecretValue, Services,
};

use crate::byte_size;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  not done, or `consistency` found something, or `invoke` was answered with an error
  2  the command line is wrong, or says something that is not allowed
  3  the function, node, container, record, group, key, blob or secret does not exist";

/// Operates Bismuth: nodes, functions, images, and what ZooKeeper holds.
#[derive(Debug, Parser)]
#[command(name = "bismuthctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub zookeeper: ZooKeeperArgs,

    /// Output format.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    pub output: Format,

    /// Print control characters of functions unescaped on a terminal, such as colours. Other output is never escaped.
    #[arg(long, global = true)]
    pub raw: bool,

    /// Log what is being done to standard error.
    #[arg(short, long, global = true)]
    pub verbose: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people, and where there is one value, that value alone.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create the environment in ZooKeeper. Safe to repeat.
    Bootstrap,
    /// Make a machine a node of the environment. Safe to repeat.
    Provision {
        /// The node's address, as its bismuthd has it in --node-ip.
        ip: Ipv4Addr,
    },
    /// Take a node without containers out of the environment.
    Deprovision {
        /// The node's address.
        ip: Ipv4Addr,
    },
    /// List the nodes.
    ListNodes,
    /// Create a function without backends, and print its id.
    CreateFunction(Box<CreateFunction>),
    /// Write the next revision of a function, with slots on the nodes that serve it now.
    UpdateFunction(Box<UpdateFunction>),
    /// List the kept revisions of a function, newest first, and what became of them.
    Revisions {
        /// The function.
        id: FunctionId,
    },
    /// Deploy the definition of a kept revision again, as the next revision.
    Rollback(Rollback),
    /// Delete a function with its routes and backends.
    DeleteFunction(DeleteFunction),
    /// Show a function and its slots, newest revision first.
    GetFunction {
        /// The function.
        id: FunctionId,
    },
    /// List the functions.
    ListFunctions,
    /// Assign one more container of a function to a node, send requests there, and print its id.
    AddBackend {
        /// The function.
        id: FunctionId,
        /// The node's address.
        ip: Ipv4Addr,
        /// Also when the node is not alive, or has fewer cores or less memory than the function may use.
        #[arg(long)]
        force: bool,
    },
    /// Send no more requests to a container, and take it away from its node, which drains it.
    RemoveBackend {
        /// The function.
        id: FunctionId,
        /// The node's address.
        ip: Ipv4Addr,
        /// The container.
        container: ContainerId,
    },
    /// Invoke a function through a frontend, and print its answer.
    Invoke(Invoke),
    /// Print what a function's containers print, through the API.
    Logs(Logs),
    /// Find inconsistencies between records in ZooKeeper, and show how to repair them.
    Consistency {
        /// Repair what needs no decision of an operator.
        #[arg(long)]
        repair: bool,
    },
    /// Images on the node this runs on.
    Image(Image),
    /// Secrets of functions: set and rotated here, read by functions.
    Secret(OnServices<SecretCommand>),
    /// Keys and values of functions.
    Kv(OnServices<KvCommand>),
    /// Blobs of functions.
    Blob(OnServices<BlobCommand>),
    /// Data of service groups: list, show, purge.
    Group(OnServices<GroupCommand>),
    /// The claim on the services' embedded store, which at most one node has.
    Store {
        /// Command on the claim.
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Show a record in ZooKeeper as JSON.
    Show {
        /// Its path, with or without the environment in front: /node/127.0.0.1 or /default/node/127.0.0.1.
        path: String,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// The end of a function.
#[derive(Debug, clap::Args)]
pub struct DeleteFunction {
    /// The function.
    pub id: FunctionId,
    /// Delete its keys, blobs and secrets too, unless another function is in its group.
    #[arg(long)]
    pub purge: bool,
    #[command(flatten)]
    pub services: Services,
}

/// A new function.
#[derive(Debug, clap::Args)]
pub struct CreateFunction {
    /// The image, such as docker.io/library/alpine:latest.
    pub image: ImageReference,
    /// The program: server:PORT:COMMAND or exec:COMMAND.
    pub mode: InvokeMode,
    /// The id it is to have, so that a repeated create is the same function; a random one unless given.
    #[arg(long)]
    pub id: Option<FunctionId>,
    #[command(flatten)]
    pub fields: Fields,
}

/// Another revision.
#[derive(Debug, clap::Args)]
pub struct UpdateFunction {
    /// The function.
    pub id: FunctionId,
    /// The image.
    #[arg(long)]
    pub image: Option<ImageReference>,
    /// The program: server:PORT:COMMAND or exec:COMMAND.
    #[arg(long)]
    pub mode: Option<InvokeMode>,
    #[command(flatten)]
    pub fields: Fields,
    /// Give a field back its default, such as routes, env or affinity. Repeatable.
    #[arg(long, value_name = "FIELD")]
    pub unset: Vec<String>,
    /// Wait until the new revision runs, switch requests to it, and take the old slots away. A
    /// running bismuth-api does the same without being asked.
    #[arg(long)]
    pub wait: bool,
}

/// Back to an earlier revision.
#[derive(Debug, clap::Args)]
pub struct Rollback {
    /// The function.
    pub id: FunctionId,
    /// The revision. Unless given: the one that serves if another is wanted, else the newest before it that has run.
    pub revision: Option<Revision>,
    /// Wait until it runs, switch requests to it, and take the old slots away.
    #[arg(long)]
    pub wait: bool,
}

/// The fields of a definition that have defaults.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Fields {
    /// Cores each container may use.
    #[arg(long, value_name = "CORES")]
    pub cpu: Option<f64>,
    /// Memory each container may use: bytes, or 128MiB, 1GiB.
    #[arg(long, value_name = "SIZE", value_parser = byte_size::parse)]
    pub memory: Option<u64>,
    /// What each container may write to its root filesystem: bytes, or 64MiB.
    #[arg(long, value_name = "SIZE", value_parser = byte_size::parse)]
    pub disk: Option<u64>,
    /// An environment variable. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// A hostname that leads to the function. Repeatable; replaces those that it had.
    #[arg(long, value_name = "HOSTNAME", value_parser = Hostname::parse)]
    pub route: Vec<Hostname>,
    /// Slots it has when bismuth-api places them.
    #[arg(long, value_name = "N")]
    pub max_instances: Option<u32>,
    /// Containers that are kept running without requests.
    #[arg(long, value_name = "N")]
    pub min_instances: Option<u32>,
    /// Requests one container handles at a time.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// Until the head of the answer must have come.
    #[arg(long, value_name = "MS")]
    pub timeout_ms: Option<u64>,
    /// Silence after which a stream is ended.
    #[arg(long, value_name = "MS")]
    pub idle_timeout_ms: Option<u64>,
    /// From starting the program until it answers.
    #[arg(long, value_name = "MS")]
    pub startup_timeout_ms: Option<u64>,
    /// Without requests until the container is frozen; 0 is never.
    #[arg(long, value_name = "MS")]
    pub idle_pause_ms: Option<u64>,
    /// Without requests until the container is stopped; 0 is never.
    #[arg(long, value_name = "MS")]
    pub idle_stop_ms: Option<u64>,
    /// Where its source is. Kept for deployers.
    #[arg(long, num_args = 2, value_names = ["URL", "BRANCH"])]
    pub repo: Vec<String>,
    /// Functions of one group share keys, blobs and secrets.
    #[arg(long, value_name = "GROUP")]
    pub svc_group_id: Option<String>,
    /// What it may store: kv_bytes, kv_keys, blob_bytes, blob_count or requests_per_second. Repeatable.
    #[arg(long, value_name = "NAME=NUMBER", value_parser = quota)]
    pub svc_quota: Vec<(String, u64)>,
    /// A secret of its group that the program is given when it starts: NAME=env:VARIABLE or NAME=file:FILE, which is
    /// in /run/secrets. Repeatable; replaces those it was given before.
    #[arg(long, value_name = "NAME=HOW", value_parser = secret)]
    pub secret: Vec<SecretUse>,
    /// User, or user:group, inside the container; names or numbers.
    #[arg(long)]
    pub user: Option<String>,
    /// Where it may connect to.
    #[arg(long, value_parser = ["none"])]
    pub egress: Option<String>,
    /// What keeps a client on one container: header:NAME or cookie:NAME.
    #[arg(long, value_parser = affinity)]
    pub affinity: Option<Affinity>,
    /// A path that answers below 400 once a started server is ready.
    #[arg(long, value_name = "PATH")]
    pub readiness: Option<String>,
}

/// One request.
#[derive(Debug, clap::Args)]
pub struct Invoke {
    /// The function.
    pub id: FunctionId,
    /// The body: as it stands, @FILE, or - for standard input.
    #[arg(short, long, value_name = "BODY|@FILE|-")]
    pub data: Option<String>,
    /// The method [default: GET, or POST with a body].
    #[arg(short = 'X', long)]
    pub method: Option<http::Method>,
    /// A header, as NAME: VALUE. Repeatable.
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(http::HeaderName, http::HeaderValue)>,
    /// What follows /invoke/ID: a path and query such as /hello?a=b.
    #[arg(long, default_value = "")]
    pub path: String,
    /// The frontend.
    #[arg(
        long,
        env = "BISMUTH_FRONTEND",
        default_value = "http://127.0.0.1:8000"
    )]
    pub frontend: http::Uri,
}

/// Which part of the log.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The function.
    pub id: FunctionId,
    /// Go on with what is printed from now on.
    #[arg(short, long)]
    pub follow: bool,
    /// RFC 3339 time, seconds since 1970, or a duration back from now such as 10m.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// At most so many of the newest lines.
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u32>,
    /// Show when each line was printed.
    #[arg(short, long)]
    pub timestamps: bool,
    /// Show which container printed each line.
    #[arg(short, long)]
    pub prefix: bool,
    /// The API.
    #[arg(long, env = "BISMUTH_API", default_value = "http://127.0.0.1:8002")]
    pub api: http::Uri,
}

/// What to do about the embedded store.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum StoreCommand {
    /// Show which node has it.
    Show,
    /// Let another node have the services' data: for a store that is lost, or was moved to an engine that nodes share.
    Release {
        /// The node that has it now; refused if another has it.
        node: Ipv4Addr,
    },
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn quota(text: &str) -> Result<(String, u64), String> {
    let (name, value) = variable(text)?;
    let value = value
        .parse()
        .map_err(|_| format!("{value:?} is not a number"))?;
    Ok((name, value))
}

fn secret(text: &str) -> Result<SecretUse, String> {
    let how = text.rsplit_once('=').and_then(|(name, how)| {
        let (kind, what) = how.split_once(':')?;
        let (name, what) = (name.to_owned(), Some(what.to_owned()));
        let (env, file) = match kind {
            "env" => (what, None),
            "file" => (None, what),
            _ => return None,
        };
        Some(SecretUse { name, env, file })
    });
    how.ok_or_else(|| "expected NAME=env:VARIABLE or NAME=file:FILE".to_owned())
}

fn affinity(text: &str) -> Result<Affinity, String> {
    match text.split_once(':') {
        Some(("header", name)) => Ok(Affinity::Header(name.to_owned())),
        Some(("cookie", name)) => Ok(Affinity::Cookie(name.to_owned())),
        _ => Err("expected header:NAME or cookie:NAME".to_owned()),
    }
}

fn header(text: &str) -> Result<(http::HeaderName, http::HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("{name:?} is not the name of a header"))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("{value:?} is not the value of a header"))?;
    Ok((name, value))
}
