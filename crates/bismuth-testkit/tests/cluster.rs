//! A cluster starts, answers, and leaves nothing behind.

#![allow(clippy::unwrap_used)]

mod common;

use anyhow::ensure;
use bismuth_testkit::{Cluster, HeldResources, eventually};

use common::{SOON, echo_server, exec, ok};

/// Each of a frontend's two workers may keep a connection to each of two nodes, and each node's to each container.
const KEPT: usize = 4;

#[tokio::test]
async fn a_cluster_of_two_nodes_answers_and_gives_everything_back() {
    let cluster = Cluster::builder().nodes(2).start().await.unwrap();
    // The first cycle leaves on purpose what later ones find: images, their views, and lasting connections.
    cycle(&cluster).await;
    let before = HeldResources::count(&cluster).await.unwrap();
    cycle(&cluster).await;
    eventually("nothing more is held than before", SOON, async || {
        let after = HeldResources::count(&cluster).await?;
        let after = after.without(|kind, name| kind == "file" && name.contains("/logs/"));
        let grown = before.growth_to(&after, KEPT);
        ensure!(grown.is_empty(), "{}", grown.join("\n"));
        Ok(())
    })
    .await;

    let dir = cluster.dir().to_owned();
    drop(cluster);
    assert!(!dir.exists());
}

async fn cycle(cluster: &Cluster) {
    let server = cluster.deploy(&echo_server()).await.unwrap();
    let answer = cluster.invoke(&server).await.unwrap();
    assert_eq!(ok(&answer).unwrap(), "hello\n");

    let lister = cluster.deploy(&exec(&["/bin/ls", "/"])).await.unwrap();
    let listed = ok(&cluster.invoke(&lister).await.unwrap()).unwrap();
    assert!(listed.lines().any(|line| line == "proc"), "{listed}");

    for id in [server, lister] {
        cluster.delete_function(&id).await.unwrap();
    }
}
