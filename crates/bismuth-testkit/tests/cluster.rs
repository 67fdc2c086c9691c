//! A cluster starts, answers, and leaves nothing behind.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bismuth_testkit::{Cluster, HeldResources, eventually};
use http::StatusCode;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// Each of a frontend's two workers may keep a connection to each of two nodes, and each node's to each container.
const KEPT: usize = 4;

fn echo_server() -> Value {
    json!({
        "image": "docker.io/library/echo-server:latest",
        "invoke_mode": { "Server": [["/echo-server"], 8000] },
    })
}

fn lister() -> Value {
    json!({ "image": "docker.io/library/alpine:latest", "invoke_mode": { "Executable": ["/bin/ls", "/"] } })
}

#[tokio::test]
async fn a_cluster_of_two_nodes_answers_and_gives_everything_back() {
    let cluster = Cluster::builder().nodes(2).start().await.unwrap();
    // The first cycle leaves on purpose what later ones find: images, their views, and lasting connections.
    cycle(&cluster).await;
    let before = HeldResources::count(&cluster).await.unwrap();
    cycle(&cluster).await;
    eventually("nothing more is held than before", SOON, async || {
        let after = HeldResources::count(&cluster)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let grown = before.growth_to(
            &after.without(|kind, name| kind == "file" && name.contains("/logs/")),
            KEPT,
        );
        if grown.is_empty() {
            Ok(())
        } else {
            Err(grown.join("\n"))
        }
    })
    .await;

    let dir = cluster.dir().to_owned();
    drop(cluster);
    assert!(!dir.exists());
}

async fn cycle(cluster: &Cluster) {
    let server = cluster.deploy(&echo_server()).await.unwrap();
    let answer = cluster.invoke(&server).await.unwrap();
    assert_eq!(
        (answer.status(), answer.body().as_ref()),
        (StatusCode::OK, &b"hello\n"[..])
    );

    let lister = cluster.deploy(&lister()).await.unwrap();
    let answer = cluster.invoke(&lister).await.unwrap();
    let listed = String::from_utf8_lossy(answer.body()).into_owned();
    assert_eq!(answer.status(), StatusCode::OK, "{listed}");
    assert!(listed.lines().any(|line| line == "proc"), "{listed}");

    for id in [server, lister] {
        cluster.delete_function(&id).await.unwrap();
    }
}
