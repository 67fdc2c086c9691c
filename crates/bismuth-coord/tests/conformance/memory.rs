//! Runs the suite on the in-memory tree: one test per case.

use std::sync::Arc;

use async_trait::async_trait;
use bismuth_coord::memory::LostAnswer;
use bismuth_coord::{MemoryTree, Tree};

use crate::harness::{TreeHarness, ephemeral};

pub struct InMemory {
    tree: MemoryTree,
    observer: MemoryTree,
}

impl InMemory {
    pub async fn new() -> Self {
        let tree = MemoryTree::new();
        tree.ensure("/case").await.unwrap();
        Self {
            observer: tree.another_session(),
            tree,
        }
    }
}

#[async_trait]
impl TreeHarness for InMemory {
    fn tree(&self) -> Arc<dyn Tree> {
        Arc::new(self.tree.clone())
    }

    fn observer(&self) -> Arc<dyn Tree> {
        Arc::new(self.observer.clone())
    }

    fn base(&self) -> &str {
        "/case"
    }

    fn cut(&self) {
        self.tree.disconnect();
    }

    fn heal(&self) {
        self.tree.reconnect();
    }

    async fn expire(&self) {
        self.tree.expire();
    }

    fn lose_next_answer(&self, how: LostAnswer) {
        self.tree.lose_next_answer(how);
    }
}

#[tokio::test]
async fn an_expiry_without_a_connection_gets_its_new_session_when_there_is_one() {
    let tree = MemoryTree::new();
    let mut watch = tree.watch("/").await.unwrap();
    ephemeral(&tree, "/mine").await;
    tree.disconnect();
    tree.expire();
    assert!(tree.get("/mine").await.unwrap_err().is_unavailable());
    assert_eq!(
        *tree.session().borrow(),
        bismuth_coord::SessionState::Expired
    );
    tree.reconnect();
    assert_eq!(watch.next().await, bismuth_coord::Event::Lost);
    assert_eq!(tree.exists("/mine").await.unwrap(), None);
}

#[tokio::test]
async fn the_end_of_the_last_clone_and_watch_ends_the_session() {
    let observer = MemoryTree::new();
    let tree = observer.another_session();
    ephemeral(&tree, "/mine").await;
    let watch = tree.watch("/").await.unwrap();
    drop(tree);
    assert!(observer.exists("/mine").await.unwrap().is_some());
    drop(watch);
    assert!(observer.exists("/mine").await.unwrap().is_none());
}
