//! A whole Bismuth cluster on loopback, for end-to-end tests.
//!
//! ```text
//!  ZooKeeper   registry   containerd (one, a namespace per node)
//!      ▲          ▲           ▲
//!      │          └──────┬────┘
//!  bismuth-api      bismuthd-1  bismuthd-2 …      127.0.0.1, .2, …: one node port, own state directories
//!      ▲                 ▲
//!   http://api      bismuthfe ◄── http://frontend/invoke/{id}
//! ```
//!
//! The happy path: `Cluster::start().await?`, [`create_function`](Cluster::create_function),
//! [`invoke`](Cluster::invoke). Every server and daemon can be reached to be killed and restarted.

mod builder;
mod node;
mod services;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

pub use builder::Builder;
pub use node::Node;
pub use services::{Engines, Services};

use crate::daemon::{self, Daemon};
use crate::http::{self as client, full};
use crate::{Containerd, Registry, ZooKeeper, run};

/// The environment's name: not the default one, so that a place that forgets the flag is noticed.
const ENVIRONMENT: &str = "testkit";
/// A daemon becomes ready within a second; a loaded machine may take longer.
const READY_BOUND: Duration = Duration::from_secs(60);
/// No call of the command line tool takes this long unless it hangs.
const CTL_BOUND: Duration = Duration::from_secs(120);

/// ZooKeeper, containerd, a registry, and all of our daemons; each can be killed and restarted.
///
/// Fields are dropped in this order: daemons before what they talk to, the directory last.
#[derive(Debug)]
pub struct Cluster {
    /// The frontend.
    pub frontend: Daemon,
    /// The API.
    pub api: Daemon,
    /// The nodes: 127.0.0.1, 127.0.0.2, …
    pub nodes: Vec<Node>,
    /// svcprovider, if the cluster was built with it: one for all nodes, or that of each.
    pub services: Vec<Services>,
    /// The containerd that all nodes share.
    pub containerd: Containerd,
    /// The registry that mirrors `docker.io` for the nodes.
    pub registry: Registry,
    /// ZooKeeper.
    pub zookeeper: ZooKeeper,
    ports: ClusterPorts,
    dir: ClusterDir,
}

#[derive(Debug, Clone, Copy)]
struct ClusterPorts {
    frontend: u16,
    frontend_admin: u16,
    api: u16,
    node: u16,
}

/// The directory of a cluster, removed when dropped.
#[derive(Debug)]
struct ClusterDir(std::path::PathBuf);

impl Drop for ClusterDir {
    fn drop(&mut self) {
        if let Err(error) = run::remove(&self.0) {
            eprintln!("the cluster's directory: {error:#}");
        }
    }
}

impl Cluster {
    /// A cluster that is not started yet; one node unless told otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a cluster with one node.
    /// Fails when a part does not become ready, with its log.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The frontend's URL followed by `path`, which begins with a slash.
    pub fn frontend_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports.frontend)
    }

    /// The API's URL followed by `path`, which begins with a slash.
    pub fn api_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports.api)
    }

    /// The port that every node's bismuthd listens on, each at its own address.
    pub fn node_port(&self) -> u16 {
        self.ports.node
    }

    /// Waits until the frontend says that it is ready.
    /// Fails when it does not, with its log.
    pub async fn frontend_ready(&self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.ports.frontend_admin);
        self.frontend.ready(&url, READY_BOUND).await
    }

    /// Waits until the API says that it is ready.
    /// Fails when it does not, with its log.
    pub async fn api_ready(&self) -> Result<()> {
        self.api.ready(&self.api_url("/readyz"), READY_BOUND).await
    }

    /// Every daemon of ours with its name.
    pub fn daemons(&self) -> impl Iterator<Item = (String, &Daemon)> {
        let nodes = self
            .nodes
            .iter()
            .map(|node| (node.name.clone(), &node.daemon));
        let services = self.services.iter().zip(1..);
        let services = services.map(|(it, number)| (format!("svcprovider-{number}"), it.daemon()));
        nodes.chain(services).chain([
            ("bismuthfe".to_owned(), &self.frontend),
            ("bismuth-api".to_owned(), &self.api),
        ])
    }

    /// The cluster's directory; logs of the daemons are in it.
    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// Sends a request with a JSON body to the API and returns the whole answer.
    /// Fails when no answer comes.
    pub async fn api_call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Bytes>> {
        let request = Request::builder().method(method).uri(self.api_url(path));
        let request = match body {
            None => request.body(full(Bytes::new())),
            Some(value) => request
                .header(header::CONTENT_TYPE, "application/json")
                .body(full(value.to_string())),
        };
        client::send_whole(request.context("build a request")?).await
    }

    /// As [`api_call`](Self::api_call), but must succeed; the answer is JSON.
    async fn api_ok(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let act = format!("{method} {path}");
        let answer = self.api_call(method, path, body).await?;
        let text = String::from_utf8_lossy(answer.body());
        let status = answer.status();
        ensure!(status.is_success(), "{act} {body:?}: {status} {text}");
        serde_json::from_str(&text).with_context(|| format!("{act}: the answer {text:?}"))
    }

    /// Creates a function through the API and returns its id. Fails when the API refuses, with its words.
    pub async fn create_function(&self, definition: &Value) -> Result<String> {
        let created = self.api_ok(Method::POST, "/function", Some(definition));
        let created = created.await?;
        let id = created["id"].as_str();
        Ok(id.with_context(|| format!("{created} has no id"))?.into())
    }

    /// What `GET /function/{id}` says.
    pub async fn function(&self, id: &str) -> Result<Value> {
        self.api_ok(Method::GET, &format!("/function/{id}"), None)
            .await
    }

    /// Gives a function its next revision: of this definition, or of the one that it has.
    pub async fn redeploy(&self, id: &str, definition: Option<&Value>) -> Result<()> {
        self.api_ok(Method::PUT, &format!("/function/{id}"), definition)
            .await
            .map(drop)
    }

    /// Creates a function and waits until all its backends have proven themselves.
    /// Fails when the API refuses, when a backend is `Failed`, or after a minute.
    pub async fn deploy(&self, definition: &Value) -> Result<String> {
        let id = self.create_function(definition).await?;
        let running = crate::eventually::within(READY_BOUND, async || {
            let function = self.function(&id).await?;
            let backends = function["backends"].as_array();
            let all = backends.into_iter().flatten();
            let all: Vec<_> = all.map(|backend| backend["status"].as_str()).collect();
            if all.contains(&Some("Failed")) {
                return Ok(Err(anyhow!("function {id} failed: {function}")));
            }
            let proven = !all.is_empty() && all.iter().all(|status| *status == Some("Running"));
            ensure!(proven, "{function}");
            Ok(Ok(()))
        });
        match running.await {
            Ok(ended) => ended.map(|()| id),
            Err(reason) => bail!("function {id} is not running: {reason}"),
        }
    }

    /// Deletes a function through the API. Fails when the API refuses, with its words.
    pub async fn delete_function(&self, id: &str) -> Result<()> {
        self.api_ok(Method::DELETE, &format!("/function/{id}"), None)
            .await
            .map(drop)
    }

    /// `GET /invoke/{id}` at the frontend, and the whole answer.
    /// Fails when no answer comes.
    pub async fn invoke(&self, id: &str) -> Result<Response<Bytes>> {
        client::get(&self.frontend_url(&format!("/invoke/{id}"))).await
    }

    /// Runs `bismuthctl` with `args` against this cluster and returns what it wrote and how it ended. Fails when it is not built or does not
    /// end within two minutes.
    pub async fn ctl(&self, args: &[&str]) -> Result<Output> {
        self.ctl_with_input(args, &[]).await
    }

    /// Like [`ctl`](Self::ctl), with something on its standard input.
    pub async fn ctl_with_input(&self, args: &[&str], input: &[u8]) -> Result<Output> {
        let mut connection = vec![
            ("BISMUTH_API", self.api_url("")),
            ("BISMUTH_FRONTEND", self.frontend_url("")),
        ];
        connection.extend(self.services.iter().take(1).flat_map(Services::operator));
        ctl(&self.zookeeper.connect_string(), &connection, args, input).await
    }

    /// Like [`ctl`](Self::ctl), but must succeed; returns its standard output.
    pub async fn ctl_ok(&self, args: &[&str]) -> Result<String> {
        succeeded(args, &self.ctl(args).await?)
    }

    /// As [`ctl_ok`](Self::ctl_ok), with something on its standard input.
    pub async fn ctl_ok_with(&self, args: &[&str], input: &str) -> Result<String> {
        succeeded(args, &self.ctl_with_input(args, input.as_bytes()).await?)
    }
}

async fn ctl(
    zookeeper: &str,
    environment: &[(&str, String)],
    args: &[&str],
    input: &[u8],
) -> Result<Output> {
    let mut command = tokio::process::Command::new(daemon::program("bismuthctl")?);
    command
        .args(["--zookeeper", zookeeper, "--zookeeper-env", ENVIRONMENT])
        .args(args)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    let run = async {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let fed = async {
            // Not every command reads it.
            if let Some(mut stdin) = stdin {
                drop(stdin.write_all(input).await);
            }
        };
        tokio::join!(fed, child.wait_with_output()).1
    };
    let ended = tokio::time::timeout(CTL_BOUND, run).await;
    ended
        .with_context(|| format!("bismuthctl {args:?} hangs"))?
        .context("run bismuthctl")
}

fn succeeded(args: &[&str], output: &Output) -> Result<String> {
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "bismuthctl {args:?}: {}\n{stdout}{stderr}",
        output.status
    );
    Ok(stdout.into_owned())
}
