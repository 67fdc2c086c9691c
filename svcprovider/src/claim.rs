//! Whose the embedded engines are: data on one node's disk cannot be shared, so an environment has at most one such store.
//!
//! ```text
//!   claim in ZooKeeper ─┬─ ours ──► remembered beside the data, serve
//!                       ├─ another's ──► refuse to start, and say which flags to give
//!                       └─ no answer ─┬─ ours before ──► serve; asked again until there is one
//!                                     └─ never ours ──► refuse to start
//! ```

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bismuth_daemon::{Backoff, Shutdown, exit};
use bismuth_model::StoreClaim;
use bismuth_registry::Registry;
use thiserror::Error;
use tracing::{info, warn};

use crate::durable;

/// Names the store: made once with the data, and kept with it.
const STORE_FILE: &str = "store";
/// Beside it once the claim was ours.
const CLAIMED_FILE: &str = "claimed";
/// How long a start waits for ZooKeeper: longer than a session takes to be made on a busy machine.
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// While it does not answer.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// Why the store may not be served.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// Another node has it.
    #[error(
        "the services' data of this environment is on node {owner}, in an embedded store that one node cannot share; \
         give all nodes --records postgres://… and --objects s3://…, or run `bismuthctl store release {owner}` if that store is lost"
    )]
    Taken {
        /// Which node.
        owner: Ipv4Addr,
    },
    /// It cannot be known.
    #[error("learn from ZooKeeper whose the services' embedded store is")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file of ours.
    #[error("{act} {}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The claim of one data directory.
#[derive(Debug)]
pub struct Claim {
    registry: Registry,
    claim: StoreClaim,
    marker: PathBuf,
}

/// What came of asking.
enum Standing {
    Ours,
    Another(Ipv4Addr),
}

impl Claim {
    /// The claim of the store in `data_dir`, which is named if it is new.
    ///
    /// # Errors
    /// [`ClaimError::File`].
    pub fn of(data_dir: &Path, node: Ipv4Addr, registry: Registry) -> Result<Self, ClaimError> {
        let store = store_name(&data_dir.join(STORE_FILE))?;
        Ok(Self {
            registry,
            claim: StoreClaim { node, store },
            marker: data_dir.join(CLAIMED_FILE),
        })
    }

    /// Makes sure that no other store is served in this environment. `false` if ZooKeeper did not answer and the claim was
    /// ours when it last did: then [`Claim::confirm`] it.
    ///
    /// # Errors
    /// [`ClaimError`]: the store must not be served.
    pub async fn make(&self) -> Result<bool, ClaimError> {
        match tokio::time::timeout(ANSWER_BOUND, self.ask()).await {
            Ok(Ok(Standing::Ours)) => self.remember().map(|()| true),
            Ok(Ok(Standing::Another(owner))) => Err(ClaimError::Taken { owner }),
            Ok(Err(error)) => self.unanswered(Box::new(error)),
            Err(elapsed) => self.unanswered(Box::new(elapsed)),
        }
    }

    fn unanswered(
        &self,
        error: Box<dyn std::error::Error + Send + Sync>,
    ) -> Result<bool, ClaimError> {
        if !self.marker.exists() {
            return Err(ClaimError::Unknown(error));
        }
        warn!(%error, "ZooKeeper does not say whose the embedded store is; it was this node's before");
        Ok(false)
    }

    /// Asks until there is an answer. Ends the process if the store is another's by now.
    pub async fn confirm(self, shutdown: Shutdown) {
        let mut delays = AGAIN.delays();
        loop {
            let asked = tokio::select! {
                asked = self.ask() => asked,
                () = shutdown.cancelled() => return,
            };
            match asked {
                Ok(Standing::Ours) => return info!("the embedded store is this node's"),
                Ok(Standing::Another(owner)) => {
                    return shutdown.fail(ClaimError::Taken { owner }.to_string());
                }
                Err(error) => tracing::debug!(
                    error = exit::chain(&error),
                    "cannot confirm the claim on the embedded store"
                ),
            }
            tokio::select! {
                () = tokio::time::sleep(delays.next_delay()) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn ask(&self) -> bismuth_registry::Result<Standing> {
        let standing = self.registry.claim_store(&self.claim).await?;
        Ok(if standing == self.claim {
            Standing::Ours
        } else {
            Standing::Another(standing.node)
        })
    }

    fn remember(&self) -> Result<(), ClaimError> {
        durable::replace(&self.marker, &[]).map_err(failed("write", &self.marker))
    }
}

fn store_name(path: &Path) -> Result<String, ClaimError> {
    match fs::read_to_string(path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", path)(error)),
    }
    let name = uuid::Uuid::new_v4().to_string();
    // Durable before it is claimed: a store that forgot its name could not be served again.
    durable::replace(path, name.as_bytes()).map_err(failed("write", path))?;
    Ok(name)
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ClaimError {
    let path = path.to_owned();
    move |source| ClaimError::File { act, path, source }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bismuth_coord::MemoryTree;
    use bismuth_model::Environment;

    use super::*;

    fn claim(dir: &Path, last: u8, tree: &MemoryTree) -> Claim {
        let registry = Registry::new(Arc::new(tree.clone()), Environment::default());
        Claim::of(dir, Ipv4Addr::new(10, 0, 0, last), registry).unwrap()
    }

    async fn environment() -> MemoryTree {
        let tree = MemoryTree::new();
        let registry = Registry::new(Arc::new(tree.clone()), Environment::default());
        registry.bootstrap().await.unwrap();
        tree
    }

    #[tokio::test]
    async fn a_second_node_is_refused_and_told_what_to_do() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tree = environment().await;
        assert!(claim(one.path(), 1, &tree).make().await.unwrap());
        assert!(claim(one.path(), 1, &tree).make().await.unwrap());
        let error = claim(two.path(), 2, &tree).make().await.unwrap_err();
        let error = error.to_string();
        for word in ["10.0.0.1", "--records postgres://", "--objects s3://"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[tokio::test]
    async fn without_an_answer_only_a_store_that_had_the_claim_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let tree = environment().await;
        // An environment that is not there answers nothing that helps.
        let nowhere = MemoryTree::new();
        let error = claim(dir.path(), 1, &nowhere).make().await.unwrap_err();
        assert!(matches!(error, ClaimError::Unknown(_)), "{error}");
        assert!(claim(dir.path(), 1, &tree).make().await.unwrap());
        assert!(!claim(dir.path(), 1, &nowhere).make().await.unwrap());
    }

    #[tokio::test]
    async fn a_claim_that_is_another_s_by_now_ends_the_process() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tree = environment().await;
        assert!(claim(two.path(), 2, &tree).make().await.unwrap());
        let shutdown = Shutdown::new();
        claim(one.path(), 1, &tree).confirm(shutdown.clone()).await;
        assert!(
            shutdown
                .outcome()
                .unwrap_err()
                .to_string()
                .contains("10.0.0.2")
        );
    }
}
