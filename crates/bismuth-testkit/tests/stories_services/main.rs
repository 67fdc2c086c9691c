//! Keys, blobs and secrets of functions in real containers.
//!
//! ```text
//!  story ─► bismuthfe ─► bismuthd ─► container: python3 ─► 169.254.169.254:9000 ─► svcprovider ─► engines
//!    └────► bismuthctl ──────────────────────────────────────────────────────────►
//! ```

#[path = "../common/mod.rs"]
mod common;

mod canaries;
mod restarts;
mod sharing;
mod started_by_bismuthd;
mod two_nodes;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::{Cluster, http as client, image};
use serde_json::{Value, json};

/// Makes the calls that the request lists, with the standard library alone, and answers with what came back.
const PROGRAM: &str = r#"
import json, os, sys, urllib.request, urllib.error
base = os.environ["BISMUTH_SERVICES"]
asked = json.load(sys.stdin)
token = asked.get("token") or os.environ["BISMUTH_AUTH"]
def call(method, path, body=None, headers={}):
    data = None if body is None else body.encode()
    request = urllib.request.Request(base + path, data=data, method=method)
    request.add_header("Authorization", "Bearer " + token)
    for name, value in headers.items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return [answer.status, answer.read().decode(), answer.headers.get("ETag")]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode(), None]
files = {}
if os.path.isdir("/run/secrets"):
    for name in os.listdir("/run/secrets"):
        files[name] = open("/run/secrets/" + name).read()
json.dump({"answers": [call(*one) for one in asked["calls"]], "token": os.environ["BISMUTH_AUTH"],
           "env": {n: os.environ.get(n) for n in asked.get("env", [])}, "files": files}, sys.stdout)
"#;

/// What the calls of a function were answered.
struct CallResults(Value);

impl CallResults {
    /// Status and body of each call.
    fn answers(&self) -> Vec<(u64, &str)> {
        let answers = self.0["answers"].as_array().into_iter().flatten();
        let parts = answers.map(|answer| (answer[0].as_u64(), answer[1].as_str()));
        parts
            .map(|(status, body)| (status.unwrap_or_default(), body.unwrap_or_default()))
            .collect()
    }

    fn statuses(&self) -> Vec<u64> {
        self.answers().iter().map(|(status, _)| *status).collect()
    }

    /// Fails unless the calls have these statuses.
    fn have_statuses(&self, expected: &[u64]) -> Result<()> {
        ensure!(self.statuses() == expected, "{:?}", self.answers());
        Ok(())
    }

    /// Fails unless these are status and body of the calls.
    fn are(&self, expected: &[(u64, &str)]) -> Result<()> {
        ensure!(self.answers() == expected, "{:?}", self.answers());
        Ok(())
    }
}

async fn cluster() -> Result<Cluster> {
    Cluster::builder()
        .image("library/python:3.11", image::python()?)
        .services()
        .start()
        .await
}

/// A Python function in a group.
async fn python(cluster: &Cluster, group: &str, fields: &Value) -> Result<String> {
    let definition = json!({
        "image": "docker.io/library/python:3.11",
        "invoke_mode": { "Executable": ["/usr/bin/python3", "-c", PROGRAM] },
        "svc_group_id": group,
    });
    cluster.deploy(&common::with(definition, fields)).await
}

/// Has a function make calls: `[method, path, body, headers]` each.
async fn ask(cluster: &Cluster, id: &str, asked: &Value) -> Result<CallResults> {
    ask_at(&cluster.frontend_url(&format!("/invoke/{id}")), asked).await
}

async fn ask_at(url: &str, asked: &Value) -> Result<CallResults> {
    let text = common::ok(&client::post(url, asked.to_string()).await?)?;
    let results = serde_json::from_str(&text).with_context(|| format!("the answer {text:?}"))?;
    Ok(CallResults(results))
}

async fn calls(cluster: &Cluster, id: &str, calls: &Value) -> Result<CallResults> {
    ask(cluster, id, &json!({ "calls": calls })).await
}
