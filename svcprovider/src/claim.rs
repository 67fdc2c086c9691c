//! The claim on the embedded store: data on one node's disk cannot be shared, so an environment has at most one such store.
//!
//! ```text
//!   served here before? ─┬─ yes ──► serve at once
//!   (a file beside it)   └─ no ───► claim in ZooKeeper ─┬─ ours ─────► marker beside the data, serve
//!                                                       ├─ another's ► refuse to start, and say what to do
//!                                                       └─ no answer ► refuse to start
//!
//!   while serving, every few seconds: ours, or no answer ──► go on
//!                                     another's by now ────► end the process
//! ```
//!
//! The marker beside the data holds the node, so that a copy of the data on another node is none that was served before.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bismuth_base::{Backoff, Delays, file};
use bismuth_daemon::Shutdown;
use bismuth_model::StoreClaim;
use bismuth_registry::Registry;
use thiserror::Error;
use tracing::{info, warn};

use crate::file_error::{FileError, failed};

/// Names the store: made once with the data, and kept with it.
const STORE_FILE: &str = "store";
/// Beside it once the claim was ours; holds the node that it was made for.
const CLAIMED_FILE: &str = "claimed";
/// How long a start waits for ZooKeeper: longer than a session takes to be made on a busy machine.
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// How often it is asked while we serve: one read of one node of the tree.
const WATCH: Duration = Duration::from_secs(5);
/// While it does not answer.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));

/// Why the store may not be served.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ClaimError {
    #[error(
        "the embedded store of this environment is on node {owner}, and nodes cannot share one; \
         give all nodes --records postgres://… and --objects s3://…, or run `bismuthctl store release {owner}` if that store is lost"
    )]
    Taken { owner: Ipv4Addr },
    #[error(
        "the embedded store in {} belongs to node {owner}, and this is node {node}; if it was moved here, or its node has a new address, \
         see that no svcprovider serves it there any more and run `bismuthctl store release {owner}`; if it is a copy, \
         start with an empty --data-dir, and give all nodes --records postgres://… and --objects s3://…",
        dir.display()
    )]
    OfAnotherNode {
        owner: Ipv4Addr,
        node: Ipv4Addr,
        dir: PathBuf,
    },
    #[error("ask ZooKeeper which node owns the embedded store")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    File(#[from] FileError),
}

/// The claim of one data directory.
#[derive(Debug)]
pub struct Claim {
    registry: Registry,
    claim: StoreClaim,
    dir: PathBuf,
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
            dir: data_dir.to_owned(),
        })
    }

    /// Whether the claim was this node's when it was last made: then serve, and have it [kept](Self::keep).
    pub fn was_ours(&self) -> bool {
        let node = fs::read_to_string(self.marker()).ok();
        node.and_then(|node| node.trim().parse().ok()) == Some(self.claim.node)
    }

    /// Makes sure that no other store is served in this environment.
    ///
    /// # Errors
    /// [`ClaimError`]: the store must not be served.
    pub async fn make(&self) -> Result<(), ClaimError> {
        match tokio::time::timeout(ANSWER_BOUND, self.ask()).await {
            Ok(Ok(standing)) => self.check(standing)?,
            Ok(Err(error)) => return Err(ClaimError::Unknown(Box::new(error))),
            Err(elapsed) => return Err(ClaimError::Unknown(Box::new(elapsed))),
        }
        let (marker, node) = (self.marker(), self.claim.node.to_string());
        file::replace_durably(&marker, node.as_bytes(), 0o600).map_err(failed("write", &marker))?;
        Ok(())
    }

    /// Asks again and again, and ends the process if the store is another's by now. While ZooKeeper does not answer it stays ours.
    pub async fn keep(self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            error = self.lost() => {
                // The next start asks before it serves.
                if let Err(error) = fs::remove_file(self.marker()) {
                    warn!(%error, marker = %self.marker().display(), "cannot delete the marker of the claim on the embedded store");
                }
                shutdown.fail(error.to_string());
            }
        }
    }

    /// Returns when the store is another's. Cancel safe.
    async fn lost(&self) -> ClaimError {
        let mut delays = AGAIN.delays();
        let mut confirmed = false;
        loop {
            let pause = match tokio::time::timeout(ANSWER_BOUND, self.ask()).await {
                Ok(Ok(standing)) => {
                    if let Err(lost) = self.check(standing) {
                        return lost;
                    }
                    if !std::mem::replace(&mut confirmed, true) {
                        info!("the embedded store is this node's");
                    }
                    delays.reset();
                    WATCH
                }
                Ok(Err(error)) => self.unanswered(&bismuth_base::chain(&error), &mut delays),
                Err(elapsed) => self.unanswered(&elapsed.to_string(), &mut delays),
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn unanswered(&self, error: &str, delays: &mut Delays) -> Duration {
        // Once per outage.
        if delays.attempts() == 0 {
            warn!(
                error,
                "ZooKeeper does not say whose the embedded store is; it was this node's before"
            );
        }
        delays.next_delay()
    }

    /// The claim that stands.
    async fn ask(&self) -> bismuth_registry::Result<StoreClaim> {
        self.registry.claim_store(&self.claim).await
    }

    fn check(&self, standing: StoreClaim) -> Result<(), ClaimError> {
        let (owner, node) = (standing.node, self.claim.node);
        if standing == self.claim {
            Ok(())
        } else if standing.store == self.claim.store {
            let dir = self.dir.clone();
            Err(ClaimError::OfAnotherNode { owner, node, dir })
        } else {
            Err(ClaimError::Taken { owner })
        }
    }

    fn marker(&self) -> PathBuf {
        self.dir.join(CLAIMED_FILE)
    }
}

fn store_name(path: &Path) -> Result<String, ClaimError> {
    match fs::read_to_string(path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", path)(error).into()),
    }
    let name = uuid::Uuid::new_v4().to_string();
    // Durable before it is claimed: a store that forgot its name could not be served again.
    file::replace_durably(path, name.as_bytes(), 0o600).map_err(failed("write", path))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bismuth_coord::MemoryTree;
    use bismuth_model::Environment;
    use tempfile::TempDir;

    use super::*;

    fn registry(tree: &MemoryTree) -> Registry {
        Registry::new(Arc::new(tree.clone()), Environment::default())
    }

    fn claim(dir: &TempDir, last: u8, tree: &MemoryTree) -> Claim {
        let node = Ipv4Addr::new(10, 0, 0, last);
        Claim::of(dir.path(), node, registry(tree)).unwrap()
    }

    /// An environment, and the data directories of two nodes.
    async fn environment() -> (MemoryTree, [TempDir; 2]) {
        let tree = MemoryTree::new();
        registry(&tree).bootstrap().await.unwrap();
        (
            tree,
            [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()],
        )
    }

    #[tokio::test]
    async fn a_second_node_is_refused_and_told_what_to_do() {
        let (tree, [one, two]) = environment().await;
        claim(&one, 1, &tree).make().await.unwrap();
        claim(&one, 1, &tree).make().await.unwrap();
        let error = claim(&two, 2, &tree).make().await.unwrap_err();
        let error = error.to_string();
        for word in ["10.0.0.1", "--records postgres://", "--objects s3://"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_only_a_store_that_had_the_claim_is_served() {
        let (tree, [dir, _]) = environment().await;
        let away = tree.another_session();
        away.disconnect();
        assert!(!claim(&dir, 1, &away).was_ours());
        let error = claim(&dir, 1, &away).make().await.unwrap_err();
        assert!(matches!(error, ClaimError::Unknown(_)), "{error}");
        claim(&dir, 1, &tree).make().await.unwrap();
        assert!(claim(&dir, 1, &away).was_ours());
    }

    #[tokio::test]
    async fn a_copy_on_another_node_is_not_served_and_waits_for_a_release() {
        let (tree, [one, two]) = environment().await;
        claim(&one, 1, &tree).make().await.unwrap();
        for file in [STORE_FILE, CLAIMED_FILE] {
            fs::copy(one.path().join(file), two.path().join(file)).unwrap();
        }
        let copy = claim(&two, 2, &tree);
        assert!(!copy.was_ours());
        let error = copy.make().await.unwrap_err().to_string();
        for words in ["bismuthctl store release 10.0.0.1", "--data-dir"] {
            assert!(error.contains(words), "{error}");
        }
        assert!(claim(&one, 1, &tree).was_ours());
        release(&tree).await;
        copy.make().await.unwrap();
        assert!(copy.was_ours());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_becomes_another_s_ends_the_process_that_serves_it() {
        let (tree, [one, two]) = environment().await;
        let first = claim(&one, 1, &tree);
        first.make().await.unwrap();
        let shutdown = Shutdown::new();
        let keeping = tokio::spawn(first.keep(shutdown.clone()));
        tokio::time::sleep(10 * WATCH).await;
        assert!(!shutdown.is_triggered(), "it is ours");
        release(&tree).await;
        claim(&two, 2, &tree).make().await.unwrap();
        let kept = tokio::time::timeout(2 * WATCH, keeping).await;
        kept.unwrap().unwrap();
        let error = shutdown.outcome().unwrap_err().to_string();
        assert!(error.contains("10.0.0.2"), "{error}");
        assert!(!claim(&one, 1, &tree).was_ours(), "it asks first");
    }

    #[tokio::test(start_paused = true)]
    async fn zookeeper_s_absence_ends_nothing() {
        let (tree, [dir, _]) = environment().await;
        claim(&dir, 1, &tree).make().await.unwrap();
        let away = tree.another_session();
        away.disconnect();
        let shutdown = Shutdown::new();
        let keeping = tokio::spawn(claim(&dir, 1, &away).keep(shutdown.clone()));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!shutdown.is_triggered() && !keeping.is_finished());
        shutdown.trigger();
        keeping.await.unwrap();
        assert!(shutdown.outcome().is_ok());
    }

    async fn release(tree: &MemoryTree) {
        let registry = registry(tree);
        let standing = registry.store_claim().await.unwrap().unwrap();
        assert!(registry.release_store(&standing).await.unwrap());
    }
}
