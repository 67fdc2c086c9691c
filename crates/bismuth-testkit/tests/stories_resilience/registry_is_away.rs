//! The image registry is unreachable when a revision is deployed: the deployment is retried without a further request.

use anyhow::{Result, bail, ensure};
use bismuth_testkit::{Cluster, eventually};

use crate::support::{SOON, answers, script, server, slots};

#[tokio::test]
async fn a_revision_deployed_while_the_registry_is_away_takes_over_when_it_is_back() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let id = cluster.deploy(&server(&[])).await?;
    cluster.registry.kill().await?;
    let next = script("echo the next one");
    cluster.redeploy(&id, Some(&next)).await?;

    let waits = eventually("the deployment says what it waits for", SOON, async || {
        let slots = slots(&cluster, &id).await?;
        match slots.first() {
            Some(new) if !new.reason.is_empty() => Ok(new.clone()),
            _ => bail!("{slots:?}"),
        }
    })
    .await;
    ensure!(waits.status == "Starting", "no verdict yet: {waits:?}");
    ensure!(answers(&cluster, &id).await? == "hello\n");

    cluster.registry.restart().await?;
    eventually("the next revision has taken over", SOON, async || {
        let answer = answers(&cluster, &id).await?;
        ensure!(answer == "the next one\n", "{answer}");
        Ok(())
    })
    .await;
    Ok(())
}
