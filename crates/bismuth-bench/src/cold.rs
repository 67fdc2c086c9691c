//! A request to a container that has exited: it is started for it.

use std::time::Duration;

use anyhow::Result;
use bismuth_testkit::{Cluster, eventually};
use http::StatusCode;
use serde_json::json;

use crate::client::Client;
use crate::samples::Samples;

/// One start each, because a container that fails again and again is started ever less eagerly.
const FUNCTIONS: usize = 20;
/// Longer than the pause before a container that failed once is started again.
const RESTART_BOUND: Duration = Duration::from_secs(20);

pub(crate) async fn measure(cluster: &Cluster) -> Result<()> {
    let mut ids = Vec::new();
    for _ in 0..FUNCTIONS {
        let definition = json!({
            "image": "docker.io/library/echo-server:latest",
            "invoke_mode": { "Server": [["/echo-server"], 8000] },
        });
        ids.push(cluster.deploy(&definition).await?);
    }
    let frontend = cluster.frontend_url("");
    let authority = frontend.trim_start_matches("http://");
    let mut client = Client::connect(authority).await?;
    for id in &ids {
        // It ends before it answers: the answer is an error that we made it give.
        client.get(&format!("/invoke/{id}/exit?code=0")).await?;
    }
    let mut times = Vec::new();
    for id in &ids {
        times.push(first_answer(authority, &format!("/invoke/{id}/")).await);
    }
    println!(
        "cold       a request that starts a server  {}",
        Samples::new(times)
    );
    println!("           goal                            p50 100 ms, then 50 ms, then 10 ms");
    for id in &ids {
        cluster.delete_function(id).await?;
    }
    Ok(())
}

/// How long the first request takes that is not told to come back later.
async fn first_answer(authority: &str, path: &str) -> Duration {
    eventually(
        "a container that exited is started again",
        RESTART_BOUND,
        async || {
            let asked = async {
                let mut client = Client::connect(authority).await?;
                client.get(path).await
            };
            match asked.await {
                Ok((answer, took)) if answer.status() == StatusCode::OK => Ok(took),
                Ok((answer, _)) => Err(format!(
                    "{}: {}",
                    answer.status(),
                    String::from_utf8_lossy(answer.body())
                )),
                Err(error) => Err(format!("{error:#}")),
            }
        },
    )
    .await
}
