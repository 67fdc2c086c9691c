//! The image registry is unreachable when a revision is deployed: the deployment is retried without a further request.

use anyhow::{Result, ensure};
use bismuth_testkit::{Cluster, eventually};
use http::{Method, StatusCode};

use crate::support::{SOON, answers, script, server, shown, slots};

#[tokio::test]
async fn a_revision_deployed_while_the_registry_is_away_takes_over_when_it_is_back() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let id = cluster.deploy(&server(&[])).await?;
    cluster.registry_mut().kill().await?;
    let (path, next) = (format!("/function/{id}"), script("echo the next one"));
    let answer = cluster.api_call(Method::PUT, &path, Some(&next)).await?;
    ensure!(answer.status() == StatusCode::OK, "{}", shown(&answer));

    let waits = eventually("the deployment says what it waits for", SOON, async || {
        let slots = slots(&cluster, &id).await.map_err(|e| format!("{e:#}"))?;
        match slots.first() {
            Some(new) if !new.reason.is_empty() => Ok(new.clone()),
            _ => Err(format!("{slots:?}")),
        }
    })
    .await;
    ensure!(waits.status == "Starting", "no verdict yet: {waits:?}");
    ensure!(answers(&cluster, &id).await? == "hello\n");

    cluster.registry_mut().restart().await?;
    eventually("the next revision has taken over", SOON, async || {
        let answer = answers(&cluster, &id).await.map_err(|e| format!("{e:#}"))?;
        if answer == "the next one\n" {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    Ok(())
}
