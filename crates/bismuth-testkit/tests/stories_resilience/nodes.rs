//! Several nodes: slots are spread, and a function with slots on two nodes survives the loss of one.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::{Cluster, eventually, http as client};
use http::{Method, Request};

use crate::support::{SOON, answers_soon, ok, only_slot, server, slots};

#[tokio::test]
async fn functions_are_placed_apart_and_a_node_that_is_down_is_avoided() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(3).start().await?;
    let first = cluster.deploy(&server(&[])).await?;
    let second = cluster.deploy(&server(&[])).await?;
    let (one, two) = (
        only_slot(&cluster, &first).await?,
        only_slot(&cluster, &second).await?,
    );
    ensure!(one.ip != two.ip, "both are on {}", one.ip);

    let mut definition = server(&[]);
    definition["max_instances"] = 2.into();
    let wide = cluster.deploy(&definition).await?;
    let wide_slots = slots(&cluster, &wide).await?;
    let ips: BTreeSet<_> = wide_slots.iter().map(|slot| slot.ip).collect();
    assert_eq!(ips.len(), 2, "{wide_slots:?}");
    answers_soon(&cluster, &wide).await;

    // The one that requests go to is the one to lose.
    let served = serving_container(&cluster, &wide, Method::GET).await?;
    let lost = wide_slots.iter().find(|slot| slot.container == served);
    let lost = lost.context("an unknown container")?;
    let other = wide_slots.iter().find(|slot| slot.container != served);
    let other = other.context("one slot")?;
    let node = cluster.nodes.iter().position(|node| node.ip == lost.ip);
    let node = node.context("an unknown node")?;
    cluster.nodes[node].daemon.kill().await?;

    // Not one is lost, whether it may be sent twice or not: nothing was executed on the lost node.
    for method in [Method::GET, Method::POST].into_iter().cycle().take(100) {
        assert_eq!(
            serving_container(&cluster, &wide, method).await?,
            other.container
        );
    }
    // It is back: so are its containers.
    cluster.nodes[node].daemon.start()?;
    cluster.nodes[node].ready().await?;
    eventually("requests go there again", SOON, async || {
        let container = serving_container(&cluster, &wide, Method::GET).await?;
        ensure!(container == served, "{container}");
        Ok(())
    })
    .await;
    Ok(())
}

/// Which container answers; it must be with 200.
async fn serving_container(cluster: &Cluster, id: &str, method: Method) -> Result<String> {
    let url = cluster.frontend_url(&format!("/invoke/{id}/"));
    let request = Request::builder().method(method).uri(url);
    let answer = client::send_whole(request.body(client::full(""))?).await?;
    ok(&answer)?;
    let container = answer.headers().get("x-bismuth-container-id");
    let container = container.context("no container id")?;
    Ok(container.to_str()?.to_owned())
}
